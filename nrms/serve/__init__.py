"""What does a trained model do for one reader? Recommendations with reasons, as values, as cards, and in a notebook with pickers."""

from nrms.models.load import find_run
from nrms.serve.one_user import describe, meaning, open_run, recommend

__all__ = ["describe", "find_run", "meaning", "open_run", "recommend"]

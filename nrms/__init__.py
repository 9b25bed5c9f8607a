"""nrms: notebooks-first research on multimodal news recommendation. Start with README.md; the layers are drawn there."""

import os
from pathlib import Path

__version__ = "0.1.0"
ROOT = Path(__file__).resolve().parent.parent  # the repository: installed with `-e .`, so params/ and notebooks/ stand beside the package


def home() -> Path:
    """Folder that holds data/ and reports/: the repository, or NRMS_HOME where results belong on another disk."""
    return Path(os.environ.get("NRMS_HOME") or ROOT).resolve()


class NrmsError(ValueError):
    """Something the user can mend. Its text is one or two full sentences: what was wrong, where, and what to do."""


class Stopped(NrmsError):
    """Training was asked to end, and has saved all it needs to go on. The process ends with the status STOPPED."""


STOPPED = 75  # "try again", in sysexits.h

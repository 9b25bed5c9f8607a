"""`from nrms.runs import find_run`, as scripts of earlier versions say it: it lives in nrms.models.load and nrms.serve."""

from nrms.models.load import find_run, load_run, models_of  # noqa: F401

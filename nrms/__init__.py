"""nrms: notebooks-first research on multimodal news recommendation. Start with README.md; the layers are drawn there."""

import importlib
import os
import types
import warnings
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


MOVED = {  # modules that were at the root of the package in 0.1, as notebooks import them: in which files of today what they had is
    "answers": "report.planned_comparisons report.original_thesis",
    "browse": "serve.browse",
    "byhand": "training.loss_by_hand evaluation.metrics_by_hand",
    "contrast": "report.experiment_settings",
    "explain": "models.explain report.sentences",
    "figures": "report.figures report.figures_of_benchmark",
    "original": "report.original_thesis",
    "portrait": "report.figures_of_a_run",
    "probe": "evaluation.probe report.pages.probe_page",
    "show": "data.summary runtime.notebook_output report.experiment_settings",
    "transfer": "models.warm_start",
    "two_splits": "report.split_comparison",
}


def __getattr__(name: str) -> types.SimpleNamespace:
    """What a module of 0.1 had, from the files where it is today: notebooks that were copied then keep working, and are told."""
    if name not in MOVED:
        raise AttributeError(f"module 'nrms' has no attribute {name!r}")
    files = [f"nrms.{file}" for file in MOVED[name].split()]
    warnings.warn(f"nrms.{name} is no more: import from {' or '.join(files)}", DeprecationWarning, stacklevel=2)
    return types.SimpleNamespace(**{key: value for file in files[::-1] for key, value in vars(importlib.import_module(file)).items()})

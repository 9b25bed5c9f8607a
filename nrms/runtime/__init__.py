"""How does a process behave? Files, locks, records of runs, signals, tasks side by side, several processes, progress, errors.

Knows nothing of what is trained.
"""

from nrms import home
from nrms.runtime.environment import peak_mb
from nrms.runtime.run_record import Run, data_folder, now, run_folder, run_folders

__all__ = ["Run", "data_folder", "home", "now", "peak_mb", "run_folder", "run_folders"]

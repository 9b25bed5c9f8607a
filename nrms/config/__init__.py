"""What is an experiment? The values it can have (parameters), which go together (resolved), and where they come from (params_files, arguments)."""

from nrms.config.parameters import Dataset, Experiment, World
from nrms.config.params_files import PARAMS, default_name, from_notebook, load_dataset, reads_a_log, resolve
from nrms.config.resolved import Config

__all__ = ["PARAMS", "Config", "Dataset", "Experiment", "World", "default_name", "from_notebook", "load_dataset", "reads_a_log", "resolve"]

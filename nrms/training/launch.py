"""How does training with several processes start from a notebook, or from one process? As torchrun would, with its progress shown here."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from nrms import ROOT, NrmsError, Stopped
from nrms.config.resolved import Config
from nrms.runtime.progress import progress
from nrms.runtime.run_record import Run
from nrms.runtime.signals import stop_request


def words_of(config: Config) -> list[str]:
    """The command line after `python` that trains `config` in its processes on this machine."""
    words = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(config.processes)]
    words += ["-m", "nrms.train", config.exp, "--dataset", config.dataset, "--seed", str(config.seed)]
    for name, value in (config.given | {"name": config.name}).items():
        words += ["-p", name, value if isinstance(value, str) else json.dumps(value)]
    return words


def launch(config: Config, run: Run) -> None:
    """Trains `config` in processes of its own and waits for them. Stopped here, they are asked to save and end.

    Raises NrmsError with what they wrote when they fail, Stopped when they were asked to end.
    """
    with tempfile.TemporaryDirectory() as folder, stop_request() as stop:
        relayed, errors = os.environ.get("NRMS_PROGRESS"), Path(folder) / "errors"  # relayed: whoever executes this notebook looks there itself
        state = Path(relayed or Path(folder) / "progress")
        bar = progress(what=f"{config.processes} processes:", bar_format="{desc} {postfix}", **({"disable": True} if relayed else {}))
        environment = os.environ | {"NRMS_PROGRESS": str(state)}
        with errors.open("w") as file:
            process = subprocess.Popen([sys.executable, *words_of(config)], cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=file)
        try:
            while process.poll() is None:
                if stop.wait(0.5):
                    process.terminate()
                    process.wait()
                bar.set_postfix_str(state.read_text() if state.exists() else "starting")
        except KeyboardInterrupt:
            process.terminate()
            process.wait()
            raise
        finally:
            bar.close()
        if process.returncode:
            lines = [line.removeprefix("nrms: ") for line in errors.read_text().splitlines() if line.startswith("nrms: ")]
            reason = run.record.get("error") if run.status in ("failed", "stopped") else None
            kind = Stopped if run.status == "stopped" else NrmsError
            raise kind(reason or "\n".join(lines) or f"The processes ended with status {process.returncode}:\n{errors.read_text()[-2000:]}")

"""What produced a result? Seeds, code, versions, hardware, memory."""

import contextlib
import functools
import os
import platform
import resource
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

from nrms import ROOT

# randomness and hardware ---------------------------------------------------------------------------------------------


def seed_everything(seed: int) -> None:
    """Seeds torch (weights, dropout). Data order and negatives draw from generators of their own, made from (seed, epoch)."""
    import torch

    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # must be set before CUDA starts
    torch.manual_seed(seed)


@functools.cache
def default_threads() -> int:
    """How many threads torch computes with where nobody says how many."""
    import torch

    return torch.get_num_threads()


@contextlib.contextmanager
def torch_threads(count: int | None) -> Iterator[int]:
    """In the block torch computes with `count` threads, None: with as many as it takes by default. Yields how many these are.

    In how many parts a sum is made decides its last bits: so the work says the number, and not whoever starts it.
    """
    import torch

    count, before = count or default_threads(), torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield count
    finally:
        torch.set_num_threads(before)


def has_nvidia() -> bool:
    """Whether this machine has a GPU that torch may be able to use, known without torch."""
    return Path("/proc/driver/nvidia/version").exists() or shutil.which("nvidia-smi") is not None


def peak_mb() -> int:
    """Most memory this process has held so far: on the GPU if one is used, else resident. In MB (2**20 bytes)."""
    torch = sys.modules.get("torch")
    if torch and torch.cuda.is_available() and torch.cuda.max_memory_allocated():
        return torch.cuda.max_memory_allocated() >> 20
    rss = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return rss >> 20 if sys.platform == "darwin" else rss >> 10


def environment() -> dict[str, Any]:
    """What produced a result: code, versions, hardware."""

    def git(*words: str) -> str:
        done = subprocess.run(["git", "-C", str(ROOT), *words], capture_output=True, text=True)
        return done.stdout.strip() if done.returncode == 0 else ""

    torch = sys.modules.get("torch")
    gpu = torch.cuda.get_device_name() if torch and torch.cuda.is_available() else None
    return {
        "commit": git("rev-parse", "--short=12", "HEAD") or None,
        "changed": bool(git("status", "--porcelain", "--untracked-files=no")),
        "versions": {"python": platform.python_version()}
        | {p: version(p) for p in ("torch", "transformers", "accelerate", "numpy", "pandas", "pyarrow")},
        "hardware": {"cpu": platform.processor() or platform.machine(), "cores": os.cpu_count(), "gpu": gpu},
    }

"""Every test session works in a folder of its own, so that notebooks and tests start from nothing and leave nothing behind."""

import os
import tempfile
from pathlib import Path

import pytest

WORK = tempfile.TemporaryDirectory(prefix="nrms-tests-")
os.environ["NRMS_HOME"] = WORK.name
os.environ["HF_HUB_OFFLINE"] = "1"

ORDER = ("data_prep", "train", "eval", "analysis", "benchmark")  # notebooks, as a reader goes through them


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: ORDER.index(item.path.stem) if item.path.suffix == ".ipynb" else -1)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder with real MIND lines (mind-excerpt, mind-shape); tests that need it are skipped without it."""
    folder = Path(os.environ.get("NRMS_REAL_DATA", Path(__file__).parents[2] / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip("no real data here; NRMS_REAL_DATA names their folder")
    return folder


@pytest.fixture(scope="session")
def config():
    from nrms.config import resolve

    return resolve(4, "newsroom-tiny", device="cpu")


@pytest.fixture(scope="session")
def tiny(config):
    """The tables of the smallest demo world."""
    from nrms.data.prepare import load

    return load(config.dataset, config.data)


@pytest.fixture(scope="session")
def split(tiny, config):
    from nrms.data.splits import split_by_time

    return split_by_time(tiny.parts, config.data.valid_share)


@pytest.fixture
def model(config, tiny):
    """An untrained recommender without dropout, bound to the tiny world."""
    import torch

    from nrms.recommender import build

    torch.manual_seed(0)
    return build(config, tiny).eval()


@pytest.fixture
def home(tmp_path, monkeypatch) -> Path:
    """An empty place for data/ and reports/, for tests that write their own."""
    monkeypatch.setenv("NRMS_HOME", str(tmp_path))
    return tmp_path

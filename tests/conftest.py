"""Every test session works in a folder of its own, so that notebooks and tests start from nothing and leave nothing behind."""

import os
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest

WORK = tempfile.TemporaryDirectory(prefix="nrms-tests-")
os.environ["NRMS_HOME"] = WORK.name
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "1")  # models this small gain nothing from threads, which on a busy machine wait for each other

ORDER = ("data_prep", "train", "eval", "analysis", "browse", "benchmark")  # notebooks, as a reader goes through them


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: ORDER.index(item.path.stem) if item.path.suffix == ".ipynb" else -1)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder with real MIND lines (mind-excerpt, mind-shape); tests that need it are skipped without it."""
    folder = Path(os.environ.get("NRMS_REAL_DATA", Path(__file__).parents[2] / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip("no real data here; NRMS_REAL_DATA names their folder")
    return folder


@pytest.fixture
def threads():
    """Two threads of torch in the place of one: sums may be made in another order."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def two_threads(threads, monkeypatch):
    """Experiments train and are evaluated with two threads, too, as large ones may."""
    from nrms.config.resolved import Config

    monkeypatch.setattr(Config, "threads", 2)
    monkeypatch.setattr(Config, "encoding_threads", 2)


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

    from nrms.models.build import build

    torch.manual_seed(0)
    return build(config, tiny).eval()


@pytest.fixture(scope="session")
def finished(config):
    """Two short runs of the tiny world, done: {experiment: run} of one that reads text, and one that reads pictures too."""
    from nrms.config import resolve
    from nrms.evaluate import evaluate
    from nrms.train import train

    runs = {}
    for exp in ("exp4", "exp3_gate"):
        short = resolve(exp, config.dataset, epochs=1, device="cpu")
        train(short)
        runs[exp] = evaluate(short)
    return runs


@pytest.fixture
def home(tmp_path, monkeypatch) -> Path:
    """An empty place for data/ and reports/, for tests that write their own."""
    monkeypatch.setenv("NRMS_HOME", str(tmp_path))
    return tmp_path


@pytest.fixture
def place(tiny, home) -> Path:
    """An empty home that has the tiny world."""
    shutil.copytree(tiny.folder, home / "data" / "newsroom-tiny")
    return home


@pytest.fixture(scope="session")
def browser():
    """Debian's chromium, driven by playwright; NRMS_CHROMIUM names another. Tests that need it are skipped where there is none."""
    from playwright.sync_api import sync_playwright

    given = os.environ.get("NRMS_CHROMIUM")
    path = shutil.which(given or "chromium")
    if path is None and not given:
        pytest.skip("no chromium here: `apt-get install chromium`, or name one in NRMS_CHROMIUM")
    quiet = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update"]
    with sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=path, args=quiet)
        yield chromium
        chromium.close()


def write_log(folder, users=40, items=24, seed=0):
    """A checkerboard: who takes even items takes no others, nor who takes odd ones; each leaves one of their kind out. Titles and pictures tell."""
    from PIL import Image

    rng, lines, withheld = np.random.default_rng(seed), ["user\titem\ttimestamp"], []
    (folder / "images").mkdir(parents=True)
    for u in range(users):
        kind = np.arange(u % 2, items, 2)
        order = rng.permutation(kind)
        withheld.append(order[-1])
        lines += [f"u{u}\ti{i}\t{t}" for t, i in enumerate([*order[:-1], order[0], order[1]])]  # the last two are asked for by the split
    words = ("red apple", "blue stone")
    titles = ["item\ttitle\tcategory", *(f"i{i}\t{words[i % 2]} {'abcdefgh'[i % 8]}\t{words[i % 2]}" for i in range(items))]
    (folder / "interactions.tsv").write_text("\n".join(lines) + "\n")
    (folder / "items.tsv").write_text("\n".join(titles) + "\n")
    for i in range(0, items, 3):
        Image.fromarray(np.full((20, 20, 3), (200, 30, 30) if i % 2 == 0 else (30, 30, 200), np.uint8)).save(folder / "images" / f"i{i}.png")
    return np.array(withheld)


@pytest.fixture(scope="session")
def board(tmp_path_factory):
    """The checkerboard, prepared once as the data set `movies`; which item each user left out."""
    folder = tmp_path_factory.mktemp("board")
    withheld = write_log(folder / "in")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NRMS_HOME", str(folder))
        from nrms.config import load_dataset
        from nrms.data.prepare import prepare

        prepare("movies", load_dataset("movies"), folder / "in")
    return folder, withheld


@pytest.fixture
def movies(board, monkeypatch):
    """Makes (config, tables) of an experiment on the checkerboard, small enough for a test."""
    monkeypatch.setenv("NRMS_HOME", str(board[0]))

    import torch

    from nrms.config import resolve
    from nrms.data.prepare import load

    def make(exp, **given):
        small = {
            "dim": 16,
            "heads": 2,
            "query_dim": 8,
            "history": 12,
            "batch_size": 16,
            "lr": 1e-2,
            "dropout": 0.0,
            "temperature": 1.0,
            "device": "cpu",
        }
        config = resolve(exp, "movies", **small | given)
        torch.manual_seed(0)
        return config, load("movies", config.data)

    return make

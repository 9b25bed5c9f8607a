"""Every worker of a test session works in a folder of its own, so that notebooks and tests start from nothing and leave nothing behind.

What is dear to make is made once for all of them, in a folder that they share: the tiny world, its three local models, the checkerboard, two runs.
"""

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

if "NRMS_TESTS" not in os.environ:  # the first process of a session; workers, and what they start, have it from there
    WORK = tempfile.TemporaryDirectory(prefix="nrms-tests-")
    os.environ["NRMS_TESTS"] = WORK.name
SHARED = Path(os.environ["NRMS_TESTS"])
os.environ["NRMS_HOME"] = tempfile.mkdtemp(prefix="home-", dir=SHARED)
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "1")  # models this small gain nothing from threads, which on a busy machine wait for each other
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # where a test has threads, those that wait leave the core to others

NOTEBOOKS = ("data_prep", "train", "eval", "analysis", "browse", "benchmark")  # as a reader goes through them: each needs what those before it made
LONGEST = ("test_processes", "notebooks", "test_kills", "test_graphs", "test_report", "test_sequences", "benchmark", "test_recipes", "test_bench")


def pytest_xdist_auto_num_workers(config) -> int:
    """A worker for each of two cores; none for a few files that were named, which have ended before workers have started."""
    named = config.args_source is not config.ArgsSource.TESTPATHS and all(Path(word.split("::")[0]).is_file() for word in config.args)
    return 0 if named else min(2, os.cpu_count() or 1)


def group(path: Path) -> str:
    """What one worker runs, in order: a file of tests; all notebooks but the benchmark, for each needs what those before it made."""
    return "notebooks" if path.suffix == ".ipynb" and path.stem != "benchmark" else path.stem


def pytest_xdist_make_scheduler(config, log):
    from xdist.scheduler import LoadScopeScheduling

    class Groups(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return group(Path(nodeid.split("::")[0]))

    return Groups(config, log)


@pytest.hookimpl(tryfirst=True)  # before marks are looked at
def pytest_collection_modifyitems(config, items):
    """Groups, the longest first, so that workers end together; without what runs only where `-m` names it."""
    for item in items:
        if item.path.suffix == ".ipynb":
            item.add_marker(pytest.mark.notebook)
    unasked = [item for item in items if any(item.get_closest_marker(m) and m not in config.option.markexpr for m in ("slow", "gpu"))]
    config.hook.pytest_deselected(items=unasked)
    rank = {name: place for place, name in enumerate(LONGEST)}
    items[:] = sorted(
        (item for item in items if item not in unasked),
        key=lambda item: (rank.get(group(item.path), len(rank)), NOTEBOOKS.index(item.path.stem) if item.path.suffix == ".ipynb" else 0),
    )


def pytest_runtestloop(session):
    """Notebooks find the world that tests find."""
    if any(item.path.suffix == ".ipynb" for item in session.items):
        copy_world(Path(os.environ["NRMS_HOME"]))


def shared(name: str, make: Callable[[Path], object]) -> Path:
    """The folder `name` that all workers share: `make(folder)` fills it for the first who asks. It is for copying: nobody changes it."""
    from nrms.runtime.locks import locked

    folder = SHARED / name
    with locked(folder):
        if not folder.exists():
            part = folder.with_name(f"{name}.part")
            part.mkdir()
            with pytest.MonkeyPatch.context() as patch:
                patch.setenv("NRMS_HOME", str(part))
                make(part)
            part.rename(folder)
    return folder


def share_models(dataset: Path) -> None:
    """Small models of a data set are pre-trained, when one is first asked for, in a folder that all copies share: their names say on what."""
    models = SHARED / f"models-{dataset.name}"
    models.mkdir(exist_ok=True)
    (dataset / "models").symlink_to(models)


def copy_file(source: str, target: str) -> None:
    """Pictures and weights, which no test writes into, have one place on the disk."""
    try:
        (os.link if source.endswith((".png", ".safetensors")) else shutil.copy2)(source, target)
    except OSError:  # another disk
        shutil.copy2(source, target)


def copy(source: Path, target: Path) -> None:
    shutil.copytree(source, target, symlinks=True, copy_function=copy_file, dirs_exist_ok=True)


def make_world(folder: Path) -> None:
    """The smallest demo world."""
    from nrms.config import load_dataset
    from nrms.data.prepare import prepare

    prepare("newsroom-tiny", load_dataset("newsroom-tiny"))
    share_models(folder / "data" / "newsroom-tiny")


def copy_world(home: Path) -> None:
    """Puts the tiny world into a home that has none."""
    if not (home / "data" / "newsroom-tiny").exists():
        copy(shared("world", make_world), home)


def make_trained(folder: Path) -> None:
    """A home with the tiny world and one short run that has been trained."""
    from nrms.config import resolve
    from nrms.train import train

    copy_world(folder)
    train(resolve("exp4", "newsroom-tiny", epochs=1, device="cpu"))


def make_finished(folder: Path) -> None:
    """A home with two short runs of the tiny world, done: one that reads text, and one that reads pictures too."""
    from nrms.config import resolve
    from nrms.evaluate import evaluate
    from nrms.train import train

    copy(shared("trained", make_trained), folder)
    for exp in ("exp4", "exp3_gate"):
        short = resolve(exp, "newsroom-tiny", epochs=1, device="cpu")
        train(short)
        evaluate(short)


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

    copy_world(Path(os.environ["NRMS_HOME"]))
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
def finished(tiny):
    """Two short runs of the tiny world, done: {experiment: run} of one that reads text, and one that reads pictures too."""
    from nrms.config import resolve
    from nrms.runtime import Run, run_folder

    copy(shared("finished", make_finished) / "reports", Path(os.environ["NRMS_HOME"]) / "reports")
    names = {exp: resolve(exp, "newsroom-tiny", epochs=1, device="cpu").name for exp in ("exp4", "exp3_gate")}
    return {exp: Run(run_folder("newsroom-tiny", name, 0)) for exp, name in names.items()}


@pytest.fixture
def home(tmp_path, monkeypatch) -> Path:
    """An empty place for data/ and reports/, for tests that write their own."""
    monkeypatch.setenv("NRMS_HOME", str(tmp_path))
    return tmp_path


@pytest.fixture
def place(home) -> Path:
    """An empty home that has the tiny world."""
    copy_world(home)
    return home


@pytest.fixture
def trained(home) -> Path:
    """A home that has the tiny world and one run on it, trained but not judged: exp4 with `epochs` 1."""
    copy(shared("trained", make_trained), home)
    return home


@pytest.fixture
def without_kernels(monkeypatch):
    """Notebooks that papermill executes, and what they wait for, are executed in this process, which has imported already what they import."""
    from engine import InThisProcess, call
    from papermill.engines import NBClientEngine, papermill_engines

    monkeypatch.setattr("nrms.pipeline.call_in_process", call)
    papermill_engines.register(None, InThisProcess)
    yield
    papermill_engines.register(None, NBClientEngine)


@pytest.fixture
def hasty(monkeypatch):
    """Local encoders are hardly pre-trained, for tests that do not look at what they have learned."""
    from nrms.models.items.local_models import RECIPE

    monkeypatch.setitem(RECIPE, "shown", 1000)


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


def make_board(folder: Path) -> None:
    from nrms.config import load_dataset
    from nrms.data.prepare import prepare

    np.save(folder / "withheld.npy", write_log(folder / "in"))
    prepare("movies", load_dataset("movies"), folder / "in")
    share_models(folder / "data" / "movies")


@pytest.fixture(scope="session")
def board(tmp_path_factory):
    """The checkerboard, prepared once as the data set `movies`; which item each user left out."""
    folder = tmp_path_factory.mktemp("board")
    copy(shared("board", make_board), folder)
    return folder, np.load(folder / "withheld.npy")


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

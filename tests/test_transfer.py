"""What is taken along to other data: said, checked, compared, found and named."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import write_log

from nrms import NrmsError
from nrms.config import default_name, load_dataset, resolve
from nrms.data.prepare import load, prepare
from nrms.evaluate import evaluate
from nrms.models import explain, warm_start
from nrms.models.build import build
from nrms.models.items.encoders import Frozen
from nrms.models.items.fusion import FUSIONS
from nrms.models.items.ids import IdTable
from nrms.models.items.tower import ItemTower
from nrms.models.recommender import Recommender
from nrms.models.users.missrec import MISSRec
from nrms.pipeline import is_current, run
from nrms.report.experiments import read_systems
from nrms.report.research_questions import CATALOGUE, INTERESTS
from nrms.runtime.checkpoints import load_checkpoint, save_checkpoint
from nrms.runtime.files import read_json
from nrms.train import train

SMALL = {"dim": 8, "heads": 2, "history": 12, "wide": 12, "epochs": 1, "batch_size": 16, "lr": 1e-2, "device": "cpu", "name": None}
ADAPTERS = {f"items.encoders.{m}.project.{kind}" for m in ("text", "image") for kind in ("weight", "bias")}
FEW = {"users.norm.weight", "users.norm.bias", "users.blend"}


def small(exp, dataset, **given):
    """An experiment on one of the two logs; it keeps its name, as a data set with other values would."""
    return resolve(exp, dataset, **SMALL | {"name": exp} | given)


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """Two logs with given vectors: `scientific`, 6 wide and standardised, `scientific-released`, 10 wide, as they came, with a number for repeats."""
    folder = tmp_path_factory.mktemp("two")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NRMS_HOME", str(folder))
        for dataset, width, items in (("scientific", 6, 24), ("scientific-released", 10, 30)):
            source = folder / "in" / dataset
            write_log(source, items=items)
            shutil.rmtree(source / "images")
            rng = np.random.default_rng(width)
            for name in ("text", "image"):
                np.save(source / f"{name}.npy", rng.normal(size=(items, width)).astype(np.float32))
            prepare(dataset, load_dataset(dataset), source)
        yield folder, train(small("missrec_pretrain", "scientific")).folder / "checkpoint" / "best.safetensors"


@pytest.fixture
def start(two, monkeypatch, tmp_path):
    """A checkpoint of `missrec_pretrain` on `scientific`, in a home of this test's own that has both data sets."""
    monkeypatch.setenv("NRMS_HOME", str(tmp_path))
    (tmp_path / "data").symlink_to(two[0] / "data")
    return str(shutil.copy(two[1], tmp_path / "best.safetensors"))


def begun(config):
    """The model of an experiment as its training begins, and what came along."""
    torch.manual_seed(1)
    model = build(config, load(config.dataset, config.data))
    return model, warm_start.warm_start(model, config)


# what comes along ----------------------------------------------------------------------------------------------------


def test_from_vectors_of_one_width_to_those_of_another(start):
    """Adapters are fresh and learn, with the number for repeats; the Transformer comes along bit for bit and stays so; what is said is that."""
    config = small("missrec_finetune", "scientific-released", start=start)
    tensors, _ = load_checkpoint(Path(start))
    fresh, brought = begun(config)
    assert set(brought.fresh) == ADAPTERS | {"repeats"} and set(brought.learns) == FEW
    body = [name for name in tensors if name.startswith(("users.encoder.", "users.decoder.", "users.position."))]
    assert set(brought.stays) == set(body) and len(body) == 1 + 12 + 18 + 2 * 2
    assert set(brought.bound) == {"users.lookup", "users.prototypes"} and set(brought.unfit) == ADAPTERS
    assert brought.origin == "missrec_pretrain on scientific, seed 0"
    run = train(config)
    learned, _ = load_checkpoint(run.folder / "checkpoint" / "best.safetensors")
    assert all(torch.equal(learned[name], tensors[name]) for name in body)
    before = fresh.state_dict()
    assert all(not torch.equal(learned[name], before[name]) for name in (*brought.fresh, *brought.learns))
    said = run.record["brought"]
    assert said == brought.facts() and said["stays"]["tensors"] == len(body) and len(said["stays"]["names"]) == 8
    assert run.record["trainable"] == sum(learned[name].numel() for name in (*brought.fresh, *brought.learns))


def test_what_came_along_is_shown(start):
    """The table of the notebook has a row for each kind, and says so where nothing is to start from."""
    model, brought = begun(small("missrec_finetune", "scientific-released", start=start))
    page = explain.transfer(brought).to_html()
    assert all(text in page for text in ("from missrec_pretrain on scientific, seed 0", "not taken, and learns", "users.prototypes", ", ..."))
    assert "there is no start" in explain.transfer(None).to_html() and "encoder" not in explain.sizes(model).to_html()


@pytest.mark.parametrize(
    "given, says",
    [
        ({"dim": 16}, r"users\.position\.weight \(12 x 8 there, 12 x 16 here\).*, and 32 more\. Give `-p dim 8`, as there, or let it learn"),
        ({"history": 10}, r"noise in every score: users\.position\.weight \(12 x 8 there, 10 x 8 here\)\. Give `-p history 12`"),
        ({"layers": 4}, r"users\.encoder\.layers\.1\..* \(not there\).*, and 27 more\. Give `-p layers 2`"),
        (
            {"ids": True},
            r"ids\.table\.weight \(bound to the items or users of its data, never taken\)\. Let it learn: name it in `trains`",
        ),
        ({"heads": 4}, r"learned with heads 2, here it is 4.* Give `-p heads 2`"),
        ({"standardise": False}, r"learned with standardise True, here it is False.* Give `-p standardise true`"),
    ],
)
def test_noise_that_would_stay_is_refused(given, says, start):
    """A weight that is neither taken nor learns, or that is read otherwise than it was learned, stops the run, whose record says why."""
    config = small("missrec_finetune", "scientific", start=start, **given)
    with pytest.raises(NrmsError, match=says) as error:
        train(config)
    record = read_json(Path(start).parent / "reports" / "scientific" / "missrec_finetune" / "seed0" / "run.json")
    assert record["status"] == "failed" and record["error"] == str(error.value)


def test_other_standardisation_is_no_matter_to_fresh_adapters(start):
    """Vectors are standardised there and not here, which is refused only where adapters come along; a bias does not come without its weight."""
    assert set(begun(small("missrec_finetune", "scientific-released", start=start))[1].fresh) >= ADAPTERS


def test_what_was_not_narrowed_learns_afresh(start):
    """Without `trains` another width is no fault: what does not fit begins from nothing and learns, and that is said."""
    _, brought = begun(small("missrec", "scientific", start=start, history=10))
    assert brought.fresh == ["users.position.weight"] and not brought.stays


def test_ids_learn_beside_what_was_pretrained(start):
    """missrec_finetune_id: the table of ids is fresh, and a step moves it."""
    config = small("missrec_finetune_id", "scientific", start=start)
    model, brought = begun(config)
    assert brought.fresh == ["items.encoders.ids.table.weight"] and isinstance(model.items.encoders["ids"], IdTable)
    learned, _ = load_checkpoint(train(config).folder / "checkpoint" / "best.safetensors")
    assert not torch.equal(learned["items.encoders.ids.table.weight"], model.items.encoders["ids"].table.weight)


def test_as_many_weights_learn_as_in_the_released_code():
    """4,385 items with text and picture of 512, D 300: of 3,035,313 weights fine-tuning with ids trains 1,624,201."""
    present = torch.arange(4386) > 0
    encoders = {m: Frozen(np.zeros((4386, 512), np.float32), present, None, dim=300, dropout=0.5) for m in ("text", "image")}
    encoders = {"text": encoders["text"], "ids": IdTable(present, dim=300), "image": encoders["image"]}
    options = {"dim": 300, "heads": 4, "layers": 1, "wide": 256, "dropout": 0.5, "history": 50, "interests": "kmeans", "ratio": 0.5}
    users = MISSRec(modalities=list(encoders), present=torch.stack([present] * 3, 1), **options)
    model = Recommender(ItemTower(encoders, FUSIONS["late"](dim=300, modalities=3, dropout=0.0)), users)
    assert sum(p.numel() for p in model.parameters()) == 3_035_313
    warm_start.narrow(model, resolve("missrec_finetune_id", "scientific").trains)
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == 1_624_201


def test_nothing_to_start_from_is_refused(two, monkeypatch, tmp_path):
    """An experiment that narrows what learns asks for `start` before anything is read, trained or executed."""
    monkeypatch.setenv("NRMS_HOME", str(tmp_path))
    config = small("missrec_finetune", "scientific")
    for begin in (lambda: train(config), lambda: run(["missrec_finetune"], "scientific", [0]), lambda: warm_start.warm_start(None, config)):
        with pytest.raises(NrmsError, match=r"missrec_finetune lets some .* give `-p start FILE`"):
            begin()
    assert not list(tmp_path.iterdir())


# which file it is ----------------------------------------------------------------------------------------------------


def replaced(path):
    """Another checkpoint at the same path."""
    tensors, state = load_checkpoint(Path(path))
    save_checkpoint(Path(path), tensors | {"users.blend": tensors["users.blend"] + 1}, state)


def test_another_file_at_the_same_path_is_another_run(start):
    """A replaced checkpoint trains anew, is not evaluated as the old one, and stands in a row of its own; the same bytes elsewhere change nothing."""
    config = small("missrec_finetune", "scientific", start=start)
    first = train(config).record
    train(small("missrec_finetune", "scientific", start=start, seed=1))
    elsewhere = shutil.copy(start, f"{start}.copy")
    assert train(small("missrec_finetune", "scientific", start=elsewhere)).record["started"] == first["started"]
    evaluate(config)
    replaced(start)
    config = small("missrec_finetune", "scientific", start=start)
    assert not is_current(config)
    with pytest.raises(NrmsError, match="holds no run trained with these values"):
        evaluate(config)
    again = train(config).record
    assert again["status"] == "trained" and again["config"]["start_sha256"] != first["config"]["start_sha256"] and again["family"] != first["family"]
    assert sorted(system.seeds for system in read_systems("scientific") if system.exp == "missrec_finetune") == [[0], [1]]


def test_a_run_without_start_is_what_it_was():
    """The digest is no part of the hash of what starts from nothing."""
    config = resolve("missrec", "scientific")
    assert config.start_sha256 is None and config.hash == config.model_copy(update={"start_sha256": None}).hash
    assert config.hash != config.model_copy(update={"start_sha256": "0"}).hash


def test_a_path_is_of_the_working_directory_or_of_home(start, monkeypatch, tmp_path):
    """One rule, in a shell as in a notebook; what is resolved holds the whole path, so that it means the same wherever it is read again."""
    place, elsewhere = tmp_path / "reports", tmp_path / "elsewhere"
    for folder in (place, elsewhere):
        folder.mkdir()
        shutil.copy(start, folder / "x.safetensors")
    monkeypatch.chdir(elsewhere)
    for path, found in (("reports/x.safetensors", place), ("x.safetensors", elsewhere), (str(place / "x.safetensors"), place)):
        config = resolve("missrec_finetune", "scientific", start=path)
        assert config.start == config.given["start"] == str(found / "x.safetensors") and resolve(**again(config)) == config
    with pytest.raises(NrmsError, match=r"`start` is reports/y\.safetensors, which is no file, nor one in"):
        resolve("missrec_finetune", "scientific", start="reports/y.safetensors")


def again(config):
    return {"exp": config.exp, "dataset": config.dataset, "seed": config.seed} | json.loads(json.dumps(config.given))


# what it is called ---------------------------------------------------------------------------------------------------


def test_a_start_that_an_experiment_cannot_be_without_is_no_trial(start):
    """missrec_finetune keeps its name; with another value, or of an experiment that needs no start, the run has a name of its own."""
    assert resolve("missrec_finetune", "scientific", start=start).name == "missrec_finetune"
    assert resolve("missrec_finetune", "scientific", start=start, lr=0.1).name == "missrec_finetune-lr01"
    assert resolve("missrec", "scientific", start=start).name.startswith("missrec-")
    config = resolve("missrec_finetune", "scientific", start=start)
    assert default_name(config.exp, config.given, config.trains) == config.name


def test_what_pretraining_is_worth_is_asked():
    """Both fine-tuned experiments stand against the same ones from nothing."""
    asked = {(exp, other) for exp, other, _ in CATALOGUE[INTERESTS]}
    assert {("missrec_finetune", "missrec"), ("missrec_finetune_id", "missrec_id")} <= asked

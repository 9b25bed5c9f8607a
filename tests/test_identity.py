"""What a run is does not change when the code does: identities, worlds and, for a while, weights, as they were recorded."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from conftest import write_log
from PIL import Image
from pydantic import Field

from nrms.config import World, load_dataset, parameters, resolve, resolved
from nrms.data import newsroom
from nrms.data.prepare import prepare
from nrms.runtime.checkpoints import load_checkpoint
from nrms.train import train

RECORDED = json.loads((Path(__file__).parent / "identities.json").read_text())


@pytest.mark.parametrize("dataset", RECORDED)
def test_identities_are_those_of_finished_runs(dataset):
    """Every experiment on every data set has the hash and family under which runs have been finished: a new field is `later`, or they go stale."""
    changed = {exp: old for exp, old in RECORDED[dataset].items() if (c := resolve(exp, dataset)) and f"{c.hash} {c.family}" != old}
    assert not changed


def test_what_is_added_later_makes_no_run_stale():
    """A field that comes later, of an experiment, of a data set or of a world, enters hash and family only where it is not its default."""

    class LaterWorld(World):
        wind: float = parameters.later(0.5, ge=0)

    class LaterDataset(parameters.Dataset):
        world: LaterWorld | None = None
        colour: str = parameters.later("blue")

    class LaterConfig(resolved.Config):
        data: LaterDataset
        twists: int = parameters.later(3, ge=1)

    config = resolve(4, "newsroom-tiny")
    values = config.model_dump()
    same = LaterConfig.model_validate(values)
    assert (same.hash, same.family) == (config.hash, config.family)
    assert "twists" in same.model_dump()
    data, world = values["data"], values["data"]["world"]
    for other in ({"twists": 4}, {"data": data | {"colour": "red"}}, {"data": data | {"world": world | {"wind": 1.0}}}):
        changed = LaterConfig.model_validate(values | other)
        assert config.hash != changed.hash and config.family != changed.family


def test_a_field_that_is_not_later_makes_runs_stale():
    """The same field, said in the ordinary way, is another identity: so the test above can fail."""

    class Wider(resolved.Config):
        twists: int = Field(3, ge=1)

    config = resolve(4, "newsroom-tiny")
    assert Wider.model_validate(config.model_dump()).hash != config.hash


def test_a_generation_of_the_code_is_part_of_what_a_run_is(monkeypatch):
    """Where equal values train to other weights, the number of the code's generation makes earlier runs others; at 0 it changes nothing."""
    config = resolve(4, "newsroom-tiny")
    before = config.hash, config.family
    monkeypatch.setattr(resolved, "GENERATION", 1)
    assert config.hash != before[0] and config.family != before[1]


def test_a_tiny_world_has_the_recorded_bytes(tmp_path):
    """What the code draws is what it drew: whoever changes these bytes raises WORLD in data/prepare.py, so that worlds are drawn anew."""
    newsroom.generate(World(news=60, users=20, train=60, dev=20), tmp_path)
    total = hashlib.sha256()
    for path in sorted(p for p in tmp_path.rglob("*") if p.suffix == ".tsv"):
        total.update(path.read_bytes())
    for path in sorted((tmp_path / "images").iterdir()):
        total.update(path.name.encode() + np.asarray(Image.open(path)).tobytes())
    for column in pq.read_table(tmp_path / "truth.parquet").to_pydict().values():
        values = np.concatenate([np.ravel(value) for value in column])
        total.update(repr((values.round(6) if values.dtype.kind == "f" else values).tolist()).encode())
    assert total.hexdigest() == "db576744b24fc2690d7ae4e6a68c0a1947aff3d8432e7408ec2b2df17159748b"


WEIGHTS = {
    "exp3_gate": "eaa0486898a5f0f51d262dde8936f57d84e3ca3297ffa250c06b73d1bf07cd59",
    "idrec_sasrec": "da47d91ba77256495fcc6dfe25489d3bd125a08b31fbbff0f7b1ac5038ceb2ec",
}
MACHINE = ("2.13.0+cpu", "Intel(R) Xeon(R) Processor @ 2.50GHz")  # torch and processor with which they were recorded


def processor() -> str:
    facts = Path("/proc/cpuinfo")
    return next((line.split(": ")[1] for line in facts.read_text().splitlines() if line.startswith("model name")), "") if facts.exists() else ""


def digest_of_weights(run) -> str:
    tensors, _ = load_checkpoint(run.folder / "checkpoint" / "best.safetensors")
    return hashlib.sha256(b"".join(name.encode() + tensors[name].numpy().tobytes() for name in sorted(tensors))).hexdigest()


@pytest.mark.parametrize("exp", WEIGHTS)
def test_weights_are_the_recorded_ones(exp, place):
    """A short training ends with the weights that it ended with before the house was moved, local encoders and the demo world included."""
    here = torch.__version__, processor()
    if here != MACHINE or torch.get_num_threads() != 1:
        pytest.skip(f"weights were recorded with torch {MACHINE[0]} on {MACHINE[1]}, one thread; here is {here}, {torch.get_num_threads()}")
    if exp == "idrec_sasrec":
        write_log(place / "in")
        prepare("movies", load_dataset("movies"), place / "in")
        config = resolve(exp, "movies", dim=16, heads=2, history=12, batch_size=16, epochs=3, device="cpu")
    else:
        config = resolve(exp, "newsroom-tiny", epochs=1, device="cpu")
    assert digest_of_weights(train(config)) == WEIGHTS[exp]

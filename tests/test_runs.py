"""Runs by name: who is meant, who is refused, and whether the model that comes back is the one that was judged."""

import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest

from nrms import NrmsError
from nrms.evaluation.ranking import encode_items, rank_impressions
from nrms.models.load import find_run, load_run, models_of
from nrms.runtime import Run, data_folder, run_folder
from nrms.runtime.files import read_json, write_json

TINY = "newsroom-tiny"


@pytest.fixture
def apart(finished, place):
    """A home of its own with the tiny world and one finished run, `exp4/seed0`, to be spoilt."""
    run = Run(run_folder(TINY, "exp4", 0))
    shutil.copytree(finished["exp4"].folder, run.folder)
    return run


@pytest.mark.parametrize("text", ["exp4", "exp4/seed0", "exp4/seed0/", "4", "4/seed0", 4])
def test_names_of_a_run(text, apart):
    """An experiment's name or number, with its seed or without, means the run in its folder."""
    assert find_run(text, TINY).folder == apart.folder


def test_a_folder_is_a_name(apart, tmp_path):
    """A folder anywhere is a run if it holds one."""
    shutil.copytree(apart.folder, tmp_path / "kept")
    assert find_run(str(tmp_path / "kept"), TINY).folder == tmp_path / "kept"


def test_the_lowest_finished_seed_is_meant(apart):
    """Without a seed the lowest one that is done is taken: 2 before 10, and none that is still running."""
    for seed, status in ((10, "done"), (2, "done"), (1, "failed")):
        other = Run(run_folder(TINY, "exp3", seed))
        write_json(other.folder / "run.json", apart.record | {"status": status})
    assert find_run("exp3", TINY).folder.name == "seed2"
    assert list(models_of(TINY)) == ["exp3/seed2", "exp3/seed10", "exp4/seed0"]


def test_an_unknown_run_is_refused(apart):
    """The error names the nearest run that there is; of an unknown data set, the nearest data set."""
    with pytest.raises(NrmsError, match=r"no run `exp5` on newsroom-tiny; did you mean `exp4`\?"):
        find_run("exp5", TINY)
    with pytest.raises(NrmsError, match=r"did you mean `exp4/seed0`\?"):
        find_run("exp4/seed7", TINY)
    with pytest.raises(NrmsError, match="did you mean `newsroom-tiny`"):
        find_run("exp4", "newsroom-tinny")
    with pytest.raises(NrmsError, match="no model has been judged on newsroom-control"):
        find_run("exp4", "newsroom-control")


@pytest.mark.parametrize("facts, says", [({"status": "failed"}, "its status is failed"), ({"kind": "baseline"}, "holds no model")])
def test_what_is_not_finished_is_refused(facts, says, apart):
    """So is what holds no model."""
    apart.update(**facts)
    with pytest.raises(NrmsError, match=says):
        find_run("exp4", TINY)


def test_a_run_on_other_data_is_refused(apart):
    """A folder is checked for the data set that its run was on."""
    with pytest.raises(NrmsError, match="is a run on newsroom-tiny, not on newsroom"):
        find_run(str(apart.folder), "newsroom")


def test_the_model_is_the_one_that_was_judged(finished):
    """Loaded, it scores the test part as rows.parquet has it."""
    for run in finished.values():
        config, tables, model = load_run(run)
        scores = rank_impressions(model, encode_items(model), tables.split(config.data).test, config.history)
        kept = pq.read_table(run.folder / "rows.parquet")["scores"].combine_chunks().flatten().to_numpy()
        np.testing.assert_allclose(scores, kept, atol=1e-5)
        assert not model.training


def test_what_does_not_fit_is_not_loaded(apart):
    """Data prepared anew, weights of another experiment, weights that are gone, and an ensemble are each a sentence."""
    manifest = data_folder(TINY) / "manifest.json"
    before = read_json(manifest)
    write_json(manifest, before | {"tables": before["tables"] | {"news.parquet": "another"}})
    with pytest.raises(NrmsError, match="prepared anew since"):
        load_run(apart)
    write_json(manifest, before)
    apart.update(config=apart.record["config"] | {"dim": 16})
    with pytest.raises(NrmsError, match="dim 32, here 16"):
        load_run(apart)
    (apart.folder / "checkpoint" / "best.safetensors").unlink()
    with pytest.raises(NrmsError, match="weights of .* are gone"):
        load_run(apart)
    apart.update(config={"given": {"of": "exp3 + exp4"}})
    with pytest.raises(NrmsError, match="no model of its own"):
        load_run(apart)

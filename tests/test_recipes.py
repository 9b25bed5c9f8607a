"""The recipes of README.md, followed to the letter in a copy of the project: what they promise works.

A recipe is a heading `### Add ...` with fenced blocks. The first line of a block names its file: `yaml` and `python` make it anew, `diff` edits it, a
blank line between hunks, each of which must fit in one place. `sh` is what to run then; FOLDER is a MIND folder, models/mine a model.
"""

import os
import re
import shlex
import shutil

import pytest
import warm
from conftest import copy_world

from nrms import ROOT
from nrms.config import resolve
from nrms.models.build import build

README = (ROOT / "README.md").read_text()
RECIPES = {title: text for title, text in re.findall(r"^### Add (an? .+)\n((?:(?!#{2,3} ).*\n)*)", README, re.M)}
BLOCK = re.compile(r"^```(yaml|python|diff|sh)\n(.*?)^```$", re.M | re.S)


def edit(text, diff):
    """`text` with every hunk of a diff applied. A hunk: lines that stay begin with a space, others with - or +; the last line may be a beginning."""
    for hunk in re.split(r"\n(?=\n)", diff):
        lines = hunk.strip("\n").split("\n")
        old, new = ("\n".join(line[1:] for line in lines if line[:1] != mark) for mark in "+-")
        assert text.count(f"\n{old}") == 1, f"the hunk fits in {text.count(old)} places:\n{hunk}"
        text = text.replace(f"\n{old}", f"\n{new}")
    return text


@pytest.fixture
def copy(tiny, tmp_path):
    """A copy of the project with the tiny world, and a small BERT in models/mine."""
    build(resolve("exp2", tiny.manifest["dataset"], device="cpu"), tiny)  # so that its small BERT has been pre-trained
    for name in ("nrms", "params", "tests", "notebooks", "pyproject.toml", "README.md"):
        (shutil.copytree if (ROOT / name).is_dir() else shutil.copy)(ROOT / name, tmp_path / name)
    copy_world(tmp_path / "home")
    (bert,) = (tiny.folder / "models").glob("bert-*")
    shutil.copytree(bert, tmp_path / "models" / "mine")
    return tmp_path


def follow(lines, folder, source):
    """Runs the lines of a recipe, `python -m ...` or `pytest ...`, in the copy, one after the other; returns what they say."""
    words = [shlex.split(line.removeprefix("python -m ").replace("FOLDER", str(source))) for line in lines.splitlines()]
    where = {"PYTHONPATH": str(folder), "NRMS_HOME": str(folder / "home"), "PYTHONWARNINGS": "ignore"}
    said = ""
    for line in words:
        process = warm.Process(["-m", *line], os.environ | where, folder)
        out, error = process.communicate()
        assert process.returncode == 0, f"This line failed: {line}\n{out[-2000:]}{error[-2000:]}"
        said += out
    return said


def test_the_readme_has_the_recipes():
    """What people add has a recipe, and each has something to write and something to run."""
    assert RECIPES.keys() >= {"an experiment", "an encoder", "a fusion", "a user encoder", "a data set"}
    for text in RECIPES.values():
        kinds = [kind for kind, _ in BLOCK.findall(text)]
        assert kinds[-1] == "sh" and kinds.count("sh") == 1 and len(kinds) > 1 and text.count("```") == 2 * len(kinds)


@pytest.mark.parametrize("title", RECIPES)
def test_a_recipe_works(title, copy, tiny):
    """Applied to a copy of the project, word for word, it passes the tests it names and trains."""
    *blocks, (_, lines) = BLOCK.findall(RECIPES[title])
    for kind, text in blocks:
        first, rest = text.split("\n", 1)
        path = copy / first.removeprefix("# ")
        assert path.resolve().is_relative_to(copy) and path.exists() == (kind == "diff"), first
        path.write_text(edit(path.read_text(), rest.rstrip("\n")) if kind == "diff" else text)
    said = follow(lines, copy, tiny.folder / "raw")
    assert '"status": "trained"' in said and (" passed" in said) == ("pytest" in lines), said[-2000:]


@pytest.mark.parametrize("diff", ["-nothing of the kind\n+x", " import torch\n+import os", "-ab\n+x"])
def test_a_hunk_that_does_not_fit_is_seen(diff):
    """What stands nowhere, or in two places, is not edited."""
    with pytest.raises(AssertionError, match="fits in"):
        edit("\nimport torch\nab\nab\nimport torch\n", diff)

"""A misspelt or wrongly typed parameter stops in the first second, with the nearest valid name."""

import shutil
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nrms import ROOT, NrmsError
from nrms.config import PARAMS, Experiment, from_notebook, load_dataset, params_files, resolve
from nrms.config.arguments import parse_value, read_config
from nrms.data import new_dataset as new_dataset_file
from nrms.data.new_dataset import new_dataset, with_settings_of
from nrms.runtime.terminal import command


def test_four_means_exp4():
    """-p exp 4, -p exp exp4 and the text "4" are one experiment, and its name is the run's."""
    assert resolve(4).hash == resolve("exp4").hash == resolve("4").hash and resolve(4).name == "exp4"


def test_precedence():
    """default < data set < experiment < given by hand."""
    assert Experiment().dim == 256 and resolve(4).dim == 32 and resolve(4, dim=8).dim == 8


@pytest.mark.parametrize(
    "given, words",
    [
        ({"expp": 3}, "`expp` is not a parameter; did you mean `exp`?"),
        ({"epoch": 3}, "did you mean `epochs`?"),
        ({"lr": "1e-4"}, "1.0e-04"),
        ({"epochs": 2.5}, "`epochs`"),
        ({"epochs": True}, "type bool"),
        ({"epochs": "3"}, "type str"),
        ({"pooling": "max"}, "'attention', 'mean', 'cls' or 'projected'"),
        ({"epochs": 0}, "greater than or equal to 1"),
        ({"heads": 5}, "does not divide dim"),
        ({"exp": 99}, "There is no experiment `exp99`"),
        ({"dataset": "newsrom-tiny"}, "did you mean `newsroom-tiny`?"),
        ({"dataset": "../secrets"}, "is not a name"),
        ({"name": "a/b"}, "is not a name"),
        ({"exp": "exp4\n"}, "is not a name"),
        ({"seed": "x"}, "`seed`"),
        ({"text": "brt"}, "did you mean `bert`?"),
        ({"name": "random"}, "baseline or ceiling"),
    ],
)
def test_wrong_parameters_are_refused(given, words):
    """One sentence says what is wrong and what would be right."""
    with pytest.raises(NrmsError) as error:
        resolve(**given)
    assert words in str(error.value)


@given(st.text(min_size=1, max_size=12).filter(lambda s: s not in Experiment.model_fields))
def test_no_unknown_name_slips_through(name):
    """Whatever the name, it is refused with a sentence and never with a traceback of another library."""
    known = {"exp", "dataset", "seed", "name", "about", "source", "bert", "valid_share", "max_bad", "world", "training"}
    if name not in known:
        with pytest.raises(NrmsError):
            resolve(**{name: 1})


@pytest.fixture
def params(tmp_path, monkeypatch):
    """Writes params/some.yaml and resolves it."""

    def read(data):
        (tmp_path / "params").mkdir(exist_ok=True)
        (tmp_path / "params" / "some.yaml").write_bytes(data)
        monkeypatch.setattr(params_files, "ROOT", tmp_path)
        monkeypatch.setattr(params_files, "PARAMS", tmp_path / "params")
        return params_files.read_yaml(tmp_path / "params", "some", "experiment") and resolve("some")

    return read


@pytest.mark.parametrize(
    "text", ["lr: \xe9", "lr: !!float x", "lr: !!int ''", "lr: !!timestamp x", "lr: 2001-99-99", "lr: " + "9" * 5000, "lr: " + "[" * 3000, "lr: 1\0"]
)
def test_whatever_is_no_yaml_is_a_sentence(text, params):
    """Bytes that are no UTF-8, tags that do not fit, numbers too long and brackets too deep: the file is named."""
    with pytest.raises(NrmsError, match=r"params/some\.yaml is not YAML: .{1,500}\.$"):
        params(text.encode("latin-1"))


def test_a_name_that_stands_twice_is_refused(params):
    """The last would win, and the first say what is not so."""
    with pytest.raises(NrmsError, match="`lr` stands there twice.*line 1"):
        params(b"lr: 1.0\nepochs: 3\nlr: 2.0\n")


@pytest.mark.parametrize("line", ["lr: .inf", "lr: .nan", "terms: {l2: .inf}"])
def test_numbers_are_finite(line, params):
    """An infinite rate is above zero, and no rate."""
    with pytest.raises(NrmsError, match="finite number"):
        params(line.encode())


def test_a_long_name_of_an_encoder_is_no_fault():
    """A name too long for a file is a name of no folder."""
    assert resolve(4, text="a" * 5000).text == "a" * 5000


def test_hash_follows_values_not_words():
    """A changed value is another run; a reworded question is not."""
    assert resolve(4).hash == resolve(4, question="other words").hash != resolve(4, epochs=7).hash != resolve(4, seed=1).hash


def test_from_notebook_collects_what_was_set():
    """What the parameters cell and papermill's cell set is found, known or not; what later cells compute is not, so a cell can be run again."""
    cells = ["", "exp = 3  # a comment", "# Parameters\nexp = 4\nexpp = 3\nname = None", "config = resolve(exp)\nrow = 7", "%matplotlib inline"]
    namespace = {"In": cells, "exp": 4, "expp": 3, "name": None, "config": object(), "row": 7}
    assert from_notebook(namespace) == {"exp": 4, "expp": 3, "name": None}
    assert from_notebook({"In": [""], "Out": {}, "exp": 4, "expp": 3, "resolve": resolve, "_dh": []}) == {"exp": 4, "expp": 3}, (
        "without a history of cells"
    )


def test_trials_have_folders_of_their_own():
    """Values given by hand change the name of the run, so that a trial never takes the place of the experiment; the device does not."""
    assert (
        resolve(4, device="cpu").name == "exp4" and resolve(4, epochs=1).name == "exp4-epochs1" and resolve(4, epochs=1, name="mine").name == "mine"
    )
    assert resolve(4, bert="/a/very/long/path/to/a/model").name != resolve(4, bert="/another/very/long/path/to/a/model").name


def test_seeds_are_a_family():
    """Runs that differ in their seed alone are averaged; any other value separates them."""
    assert resolve(4).family == resolve(4, seed=3).family != resolve(4, epochs=9).family


@pytest.mark.parametrize("where, notebook", [(ROOT, "notebooks/train.ipynb"), (ROOT / "notebooks", "train.ipynb")], ids=["root", "notebooks"])
def test_papermill_stops_on_an_unknown_parameter(where, notebook, tmp_path):
    """`papermill -p expp 3` ends with an error and the sentence; papermill alone would only warn."""
    done = subprocess.run(
        [sys.executable, "-m", "papermill", notebook, str(tmp_path / "out.ipynb"), "-p", "expp", "3"], cwd=where, capture_output=True, text=True
    )
    assert done.returncode != 0 and "did you mean `exp`?" in done.stderr


@pytest.mark.parametrize(
    "words, says",
    [(["run", "4", "-p", "seed", "1"], "--seeds"), (["run", "4", "nosuch"], "There is no experiment"), (["report", "x"], "unrecognized")],
)
def test_command_line_explains(words, says):
    """Values with an option of their own, unknown experiments, extra words: a sentence and a non-zero exit."""
    done = subprocess.run([sys.executable, "-m", "nrms", *words], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode != 0 and says in done.stderr and "Traceback" not in done.stderr


def test_command_line_stops_on_an_unknown_parameter():
    """The same through `python -m nrms`, without a traceback."""
    done = subprocess.run(
        [sys.executable, "-m", "nrms", "run", "4", "--dataset", "newsroom-tiny", "-p", "epoch", "3"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode != 0 and "did you mean `epochs`?" in done.stderr and "Traceback" not in done.stderr


def test_values_with_an_option_of_their_own():
    """-p for what has an option of its own is refused with the option; other values are typed."""
    assert read_config("", ["4", "--dataset", "newsroom-tiny", "-p", "epochs", "1", "-p", "lr", "1e-3"]).epochs == 1
    for name in ("exp", "dataset", "seed", "checkpoint"):
        with pytest.raises(NrmsError, match=f"`{name}` is given as"):
            read_config("", ["4", "-p", name, "1"])


def test_an_error_of_ours_is_one_sentence():
    """A command ends with the sentence, not with a traceback; its status is handed on."""

    def wrong():
        raise NrmsError("no such thing")

    with pytest.raises(SystemExit, match="nrms: no such thing"):
        command(wrong)
    with pytest.raises(SystemExit) as end:
        command(lambda: 3)
    assert end.value.code == 3


def test_values_of_a_command_line_are_typed():
    """Numbers, switches, nothing, lists and names with values; all else is text; what begins as a list and is none is said."""
    words = {"3": 3, "0.5": 0.5, "True": True, "false": False, "null": None, '["a", 1]': ["a", 1], '{"l2": 0.1}': {"l2": 0.1}, "bert": "bert"}
    assert {word: parse_value(word) for word in words} == words
    with pytest.raises(NrmsError, match="as JSON writes them"):
        parse_value("[a")


def test_a_settings_file_for_nothing_goes(tmp_path, monkeypatch):
    """If what it was made for fails, the new settings file is removed; one that was there stays."""
    shutil.copytree(PARAMS / "data", tmp_path / "data")
    for module in (params_files, new_dataset_file):
        monkeypatch.setattr(module, "PARAMS", tmp_path)
    for _ in range(2):
        with pytest.raises(NrmsError, match="no FOLDER"), with_settings_of("mine", "movies"):
            assert (tmp_path / "data" / "mine.yaml").exists()
            raise NrmsError("no FOLDER")
        assert not (tmp_path / "data" / "mine.yaml").exists()
    with with_settings_of("mine", "movies"):
        pass
    with pytest.raises(NrmsError), with_settings_of("mine", None):
        raise NrmsError("later")
    assert (tmp_path / "data" / "mine.yaml").exists()


@pytest.mark.parametrize("like", ["movies", "mind-small"])
def test_data_of_my_own_begin_as_a_copy(like, tmp_path, monkeypatch):
    """`prepare mine --like movies` writes a file with the settings of `movies`, without its addresses and hashes, and does not touch it again.

    To ask for another's settings then is refused, as it is of a file that was not made so.
    """
    shutil.copytree(PARAMS / "data", tmp_path / "data")
    monkeypatch.setattr(params_files, "ROOT", tmp_path)
    for module in (params_files, new_dataset_file):
        monkeypatch.setattr(module, "PARAMS", tmp_path)
    path = new_dataset("mine", like)
    mine, theirs = load_dataset("mine").model_dump(), load_dataset(like).model_dump()
    assert {k for k in mine if mine[k] != theirs[k]} <= {"about", "download"} and mine["download"] is None
    path.write_text(path.read_text().splitlines()[0] + "\nabout: changed\nsource: mind\n")
    assert new_dataset("mine", like) == path and load_dataset("mine").about == "changed"
    for name, other in (("mine", "newsroom"), ("movies", "newsroom")):
        with pytest.raises(NrmsError, match=rf"params/data/{name}.yaml is there already, .* leave out `--like`, or delete it\."):
            new_dataset(name, other)
    with pytest.raises(NrmsError, match="use 1 to 40 lower-case letters"):
        new_dataset("../mine", like)
    with pytest.raises(NrmsError, match="movies"):
        new_dataset("other", "movie")


@pytest.mark.parametrize("like", sorted(path.stem for path in (PARAMS / "data").glob("*.yaml")))
def test_a_copy_resolves_to_the_same_values(like, tmp_path, monkeypatch):
    """The file that is made for data of one's own has every value of its model, but for words, addresses, and the split of another log."""
    shutil.copytree(PARAMS / "data", tmp_path / "data")
    monkeypatch.setattr(params_files, "ROOT", tmp_path)
    for module in (params_files, new_dataset_file):
        monkeypatch.setattr(module, "PARAMS", tmp_path)
    text = new_dataset("mine", like).read_text()
    assert text.startswith(f"# Made from params/data/{like}.yaml: `python -m nrms prepare mine --from FOLDER`. Any line may be changed.\n")
    left_out = {"about", "download", "other_split"}
    assert load_dataset("mine").model_dump(exclude=left_out) == load_dataset(like).model_dump(exclude=left_out)


@pytest.mark.parametrize(
    "key, value",
    [("split", "period"), ("test_share", 0.3), ("valid_share", 0.2), ("rank_seen", True), ("min_length", 4), ("min_rating", 3.0), ("log", "other")],
)
def test_what_is_asked_stands_in_the_file(key, value):
    """A value that decides the questions is not given by hand, unless it is the file's own; the sentence says how to make a data set of it."""
    with pytest.raises(NrmsError, match=rf"`{key}` decides which questions .* prepare NAME --like movies --from FOLDER -p {key} {value}`"):
        resolve("idrec_sasrec", "movies", **{key: value})
    assert resolve("idrec_sasrec", "movies", **{key: getattr(load_dataset("movies"), key)})


def test_another_split_is_a_data_set_of_its_own(tmp_path, monkeypatch):
    """`prepare mine --like movies-random -p split period` writes the given values into the file, once, in the place of what stood there."""
    shutil.copytree(PARAMS / "data", tmp_path / "data")
    monkeypatch.setattr(params_files, "ROOT", tmp_path)
    for module in (params_files, new_dataset_file):
        monkeypatch.setattr(module, "PARAMS", tmp_path)
    given = {"split": "period", "min_rating": 1e-05, "given": ["text"], "bert": "null", "about": "mine: all"}
    new_dataset("mine", "movies-random", given)
    mine, theirs = load_dataset("mine").model_dump(), load_dataset("movies-random").model_dump()
    assert {key: mine[key] for key in mine if mine[key] != theirs[key]} == given | {"other_split": None}
    new_dataset("next", "mine", {"split": "time", "given": []})
    assert load_dataset("next").split == "time" and load_dataset("next").given == [] and load_dataset("next").bert == "null"
    params_files.check_test_settings("mine", {"split": "period"})
    with pytest.raises(NrmsError, match="params/data/mine.yaml says 'period'"):
        params_files.check_test_settings("mine", {"split": "random"})

"""The house rules: layers, notebooks, params files."""

import ast
import json
import re
import shutil
import subprocess
import sys

import pytest

from nrms import ROOT
from nrms.config import PARAMS, Dataset, Experiment, load_dataset, reads_a_log, resolve
from nrms.runtime import data_folder

LAYER = dict.fromkeys(("parameters", "checks", "config", "runtime", "files", "progress", "metrics", "objectives", "terms", "dropout", "troubles"), 0)
LAYER |= dict.fromkeys(("arguments", "data", "items", "users", "report", "figures", "portrait", "contrast", "show", "original", "answers"), 1)
LAYER |= dict.fromkeys(("shell", "dots", "render", "entries", "two_splits", "planned"), 1)
LAYER |= {
    "disagree": 2,
    "compare": 2,
    "page": 3,
    "recommender": 2,
    "ranking": 2,
    "references": 2,
    "transfer": 2,
    "diagnostics": 2,
    "beyond": 2,
    "probe": 2,
    "explain": 2,
    "byhand": 2,
    "train": 3,
    "resume": 3,
    "guards": 3,
    "processes": 0,
    "launch": 1,
    "gradients": 2,
    "evaluate": 3,
    "ensemble": 3,
    "runs": 3,
    "submit": 3,
    "serve": 3,
    "bench": 3,
    "measure": 3,
    "plain": 3,
    "growth": 3,
    "probe_page": 4,
    "listing": 4,
    "browse": 4,
    "pipeline": 4,
    "publish": 4,
    "doctor": 4,
    "__main__": 5,
}
FAMILY = dict.fromkeys(
    ("figures", "portrait", "contrast", "show", "original", "answers", "shell", "dots", "render", "entries", "two_splits", "planned"), "report"
)
FAMILY |= {"disagree": "compare"}
FAMILY |= {"parameters": "config", "checks": "config", "troubles": "runtime", "files": "runtime", "progress": "runtime"}
FAMILY |= {"measure": "bench", "plain": "bench", "growth": "bench"}
FAMILY |= {"listing": "browse"}
FAMILY |= {"guards": "train", "resume": "train", "gradients": "recommender", "ranking": "recommender", "references": "recommender"}
FAMILY |= dict.fromkeys(("ensemble", "runs", "submit", "serve"), "evaluate")
FAMILY |= dict.fromkeys(("transfer", "diagnostics", "beyond", "probe", "explain", "byhand"), "recommender")
DATA = {False: "newsroom-tiny", True: "movies"}  # a data set of impressions, one of interactions
NOTEBOOKS = [ROOT / "notebooks" / f"{name}.ipynb" for name in ("data_prep", "train", "eval", "analysis", "browse", "benchmark")]


def imports(path):
    """Names of the nrms modules that a file imports, at any depth of its code."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "nrms":
            rest = node.module.split(".")[1:]
            yield from ([rest[0]] if rest else [a.name for a in node.names if a.name in LAYER])
        elif isinstance(node, ast.Import):
            yield from (a.name.split(".")[1] for a in node.names if a.name.startswith("nrms."))


@pytest.mark.parametrize("path", sorted((ROOT / "nrms").rglob("*.py")), ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_point_down(path):
    """A module imports only from lower layers, or from its own family."""
    name = path.relative_to(ROOT / "nrms").parts[0].removesuffix(".py")
    if name == "__init__":
        assert not list(imports(path))
        return
    for other in imports(path):
        own = FAMILY.get(name, name) == FAMILY.get(other, other)
        assert own or LAYER[other] < LAYER[name], f"{name} (layer {LAYER[name]}) imports {other} (layer {LAYER[other]})"


def calls(path):
    """(name, call) of every call in a file; the name with what stands before it, as far as that is names: `np.load`."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func) if isinstance(node.func, ast.Name | ast.Attribute) else "", node


DOORS = {  # to pre-trained models
    "auto.from_pretrained",  # in load_pretrained; tests/test_hostile.py sees that it asks for safetensors and runs no code
    "BertTokenizerFast.from_pretrained",  # of a folder written here
    *(f"{kind}Encoder.from_pretrained" for kind in ("Text", "Image", "Joint")),  # our own, through the first
}


def unsafe(path):
    """Calls and imports in a file that could run what a file from elsewhere says."""
    imported = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Import | ast.ImportFrom)]
    named = {alias.name for node in imported for alias in node.names} | {getattr(node, "module", None) for node in imported}
    yield from sorted(named & {"pickle", "cPickle", "dill", "joblib", "cloudpickle", "marshal", "shelve"})
    for name, call in calls(path):
        says = {option.arg: getattr(option.value, "value", ...) for option in call.keywords}  # ...: what is not written out
        if name in ("eval", "exec", "compile", "__import__", "os.system", "os.popen"):
            yield name
        if any(says.get(option, False) for option in ("shell", "trust_remote_code", "allow_pickle")) or (name == "np.load" and None in says):
            yield name
        if name.endswith(("torch.load", "torch.hub.load", "read_pickle", ".extractall", ".extract", "unpack_archive", "importlib.import_module")):
            yield name
        if name.startswith("yaml.") and ("load" in name) and not (name == "yaml.load" and ast.unparse(call.args[1]) == "Plain"):
            yield name
        if name.endswith(".from_pretrained") and name not in DOORS:
            yield name


@pytest.mark.parametrize("path", sorted((ROOT / "nrms").rglob("*.py")), ids=lambda p: str(p.relative_to(ROOT)))
def test_nothing_runs_what_a_file_says(path):
    """No pickle, no eval, no shell, no YAML but ours, no zip unpacked; pre-trained models through one door."""
    assert not list(unsafe(path))


@pytest.mark.parametrize(
    "line",
    [
        "import pickle",
        "from joblib import load",
        "torch.load(path, weights_only=False)",
        "eval(text)",
        "yaml.safe_load(text)",
        "yaml.load(text, yaml.Loader)",
        "yaml.unsafe_load(text)",
        "np.load(path, allow_pickle=True)",
        "np.load(path, allow_pickle=unknown)",
        "np.load(path, **options)",
        "AutoModel.from_pretrained(name)",
        "auto.from_pretrained(name, trust_remote_code=True)",
        "subprocess.run(line, shell=True)",
        "zipfile.ZipFile(path).extractall()",
        "pd.read_pickle(path)",
    ],
)
def test_what_would_run_it_is_seen(line, tmp_path):
    """The rule above sees each of these."""
    (tmp_path / "x.py").write_text(line)
    assert list(unsafe(tmp_path / "x.py"))


def test_no_notebook_runs_what_a_file_says(tmp_path):
    """The same for the code of notebooks."""
    for path in NOTEBOOKS:
        lines = "\n".join("".join(cell["source"]) for cell in cells(path, "code"))
        (tmp_path / "x.py").write_text("\n".join(line for line in lines.splitlines() if not line.startswith("%")))
        assert not list(unsafe(tmp_path / "x.py")), path


def cells(path, kind):
    return [c for c in json.loads(path.read_text())["cells"] if c["cell_type"] == kind]


BARE = """
import sys
sys.modules |= dict.fromkeys({blocked})  # None: as if it were not installed
from nrms import bench, evaluate, train
train.main(["4", "--dataset", "newsroom-tiny", "-p", "epochs", "1", "-p", "device", "cpu"])
evaluate.main(["4", "--dataset", "newsroom-tiny", "-p", "epochs", "1", "-p", "device", "cpu"])
"""


def test_a_bare_machine_trains(tiny, home):
    """Training and evaluation start without notebooks, and need no Jupyter, no plots, no Pillow, no scikit-learn."""
    shutil.copytree(tiny.folder, data_folder("newsroom-tiny"))
    blocked = {"jupyterlab", "papermill", "nbformat", "nbconvert", "IPython", "matplotlib", "seaborn", "PIL", "sklearn", "torchvision", "pytest"}
    done = subprocess.run([sys.executable, "-c", BARE.format(blocked=blocked)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert '"status": "trained"' in done.stdout and '"auc"' in done.stdout


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_source_notebooks_carry_no_outputs(path):
    """Outputs and counts belong to executed copies under reports/."""
    assert all(not c["outputs"] and c["execution_count"] is None for c in cells(path, "code"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_notebooks_are_thin(path):
    """Short cells, no functions, classes or loops, imports only in the cell after the parameters; the first code cell holds the parameters."""
    code = cells(path, "code")
    assert [c["metadata"].get("tags") for c in code].count(["parameters"]) == 1 and code[0]["metadata"]["tags"] == ["parameters"]
    for i, cell in enumerate(code):
        source = "".join(cell["source"])
        kinds = {type(node) for node in ast.walk(ast.parse(source))}
        assert len(source.splitlines()) <= 16 and not kinds & {ast.FunctionDef, ast.ClassDef, ast.For, ast.While}, source
        assert i == 1 or not kinds & {ast.Import, ast.ImportFrom}, source


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_notebooks_check_their_parameters_first(path):
    """Literals only in the parameters cell, every one a known parameter; the next cell checks them before anything heavy is imported."""
    first, second, *_ = cells(path, "code")
    assigned = ast.parse("".join(first["source"])).body
    names = [node.targets[0].id for node in assigned if ast.literal_eval(node.value) is not NotImplemented]
    lines = [line for line in "".join(second["source"]).splitlines() if line]
    check = "resolve" if "exp" in names else "load_dataset"
    own = re.fullmatch(rf'config = {check}\(\*\*from_notebook\(globals\(\)((, "\w+")*)\)\)', lines[1])  # parameters of the notebook alone
    known = {"exp", "dataset", "seed", "name", "checkpoint", *Experiment.model_fields, *Dataset.model_fields}
    assert own and set(names) <= known | set(re.findall(r"\w+", own[1])) and lines[0].startswith("from nrms.config import from_notebook")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_notebooks_end_with_what_they_do_not_show(path):
    """The first cell asks a question, the last says what is not answered."""
    text = ["".join(c["source"]) for c in cells(path, "markdown")]
    assert re.match(r"# .*\?", text[0]) and text[-1].count("## What this does not show") == 1


@pytest.mark.parametrize("path", sorted(PARAMS.glob("*.yaml")), ids=lambda p: p.stem)
def test_every_experiment_resolves(path):
    """A params file is valid, and its header states question, command and what to expect."""
    assert resolve(path.stem, DATA[reads_a_log(path.stem)]).exp == path.stem
    head = path.read_text()
    assert all(word in head for word in ("# Question:", "# Command:", "# Expected:"))


@pytest.mark.parametrize("path", sorted(PARAMS.glob("*.yaml")), ids=lambda p: p.stem)
def test_params_files_are_short(path):
    """An experiment says what makes it different, in 15 lines at most below its header."""
    lines = path.read_text().splitlines()
    head = next(i for i, line in enumerate(lines) if not line.startswith("#"))
    assert len(lines) - head <= 15


@pytest.mark.parametrize("path", sorted((PARAMS / "data").glob("*.yaml")), ids=lambda p: p.stem)
def test_every_data_set_resolves(path):
    """A data set's file is valid and says what it is about; another split of its log is there, and is of the same form."""
    data = load_dataset(path.stem)
    assert data.about and path.read_text().startswith("#")
    assert data.other_split is None or (data.other_split != path.stem and load_dataset(data.other_split).protocol == data.protocol)

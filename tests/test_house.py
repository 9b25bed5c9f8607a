"""The house rules: rooms, walls, notebooks, params files."""

import ast
import importlib
import json
import re
import subprocess
import sys
import warnings

import pytest

import nrms
from nrms import MOVED, ROOT
from nrms.config import PARAMS, Dataset, Experiment, load_dataset, reads_a_log, resolve

FLOORS = {  # a file at the root is something one runs, a folder is something it is made of; each imports only from lower floors
    "__init__": 1,
    **dict.fromkeys(("config", "runtime"), 2),
    "data": 3,
    "models": 4,
    "evaluation": 5,
    **dict.fromkeys(("evaluate", "training", "report", "serve"), 6),
    **dict.fromkeys(("train", "pipeline", "doctor", "bench", "runs"), 7),  # runs: for one version, what earlier scripts import
    "__main__": 8,
}
LONGEST = 13  # files in a row, each importing the next, when the house was built


def name_of(path):
    """nrms/data/tables.py -> nrms.data.tables; a package is named after its folder."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {name_of(path): path for path in sorted((ROOT / "nrms").rglob("*.py"))}


def imports(path):
    """Names of the files of nrms that a file imports, at any depth of its code."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "nrms":
            yield from (f"{node.module}.{a.name}" if f"{node.module}.{a.name}" in FILES else node.module for a in node.names)
        elif isinstance(node, ast.Import):
            yield from (a.name for a in node.names if a.name.split(".")[0] == "nrms")


IMPORTS = {name: sorted(set(imports(path)) - {name}) for name, path in FILES.items()}


def room(name):
    """The folder or file at the root of nrms/ in which a file is."""
    return name.split(".")[1] if "." in name else "__init__"


def test_the_root_holds_what_one_runs():
    """At the root of nrms/ stand the rooms of the house and what one runs, and nothing else."""
    folders = [path for path in (ROOT / "nrms").iterdir() if path.is_dir() and next(path.rglob("*.py"), None)]
    there = {path.stem for path in [*(ROOT / "nrms").glob("*.py"), *folders]}
    assert there <= set(FLOORS), (
        f"{sorted(there - set(FLOORS))} stand at the root of nrms/. A file there is something one runs; what it is made of belongs into a folder: "
        "values of experiments into config/, files and processes into runtime/, data sets into data/, encoders and models into models/, losses into "
        "training/, metrics into evaluation/, tables and pages into report/, a trained model in use into serve/, speed into bench/."
    )
    assert len(folders) <= 9 and len(there) - len(folders) <= 7


@pytest.mark.parametrize("name", FILES)
def test_imports_point_down(name):
    """A file imports from its own room, or from a lower floor."""
    for other in IMPORTS[name]:
        assert room(name) == room(other) or FLOORS[room(other)] < FLOORS[room(name)], f"{name} imports {other}, which is not below it"


def chain_from(name, imports_of, above=()):
    """The longest row of files, each importing the next, that begins with `name`."""
    assert name not in above, f"a circle: {' -> '.join([*above[above.index(name) :], name])}"
    if name not in chains:
        chains[name] = [name, *max((chain_from(other, imports_of, (*above, name)) for other in imports_of[name]), key=len, default=[])]
    return chains[name]


chains: dict[str, list[str]] = {}


def test_no_circle_of_files_and_no_longer_chain():
    """No file imports itself through others; the longest row of imports, from what one runs to the ground, does not grow."""
    chains.clear()
    longest = max((chain_from(name, IMPORTS) for name in FILES), key=len)
    print(f"\nlongest chain of imports, {len(longest)} files: {' -> '.join(longest)}")
    assert len(longest) <= LONGEST


def test_a_circle_would_be_seen():
    """The rule above sees a circle of three."""
    chains.clear()
    with pytest.raises(AssertionError, match="a circle: a -> b -> c -> a"):
        chain_from("a", {"a": ["b"], "b": ["c"], "c": ["a"]})


def outside(path):
    """Names of the packages that are not nrms and that a file imports."""
    for node in ast.walk(ast.parse(path.read_text())):
        names = [node.module or ""] if isinstance(node, ast.ImportFrom) else [a.name for a in node.names] if isinstance(node, ast.Import) else []
        yield from (name.split(".")[0] for name in names if name.split(".")[0] != "nrms")


def test_items_and_users_know_tensors_alone():
    """Wall 1: encoders of items and of users import nothing of data sets, of config, nor of each other."""
    for name in FILES:
        for kind, other in (("items", "users"), ("users", "items")):
            if name.startswith(f"nrms.models.{kind}"):
                assert not [n for n in IMPORTS[name] if n.startswith(("nrms.data", "nrms.config", f"nrms.models.{other}"))], name


def test_pages_are_rebuilt_without_models():
    """Wall 2: report/ imports no model, and of evaluation/ only what computes with numpy: protocols, metrics, statistics; no torch comes along."""
    for name in (name for name in FILES if name.startswith("nrms.report")):
        wrong = [n for n in IMPORTS[name] if n.startswith(("nrms.models", "nrms.evaluation"))]
        assert {n for n in wrong} <= {f"nrms.evaluation.{file}" for file in ("protocols", "metrics", "statistics")}, (name, wrong)
    code = "import sys, nrms.report.pages.index_page, nrms.report.publish; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_values_are_checked_before_anything_heavy():
    """Wall 3: config/ imports no third package but pydantic and yaml."""
    for name in (name for name in FILES if name.startswith("nrms.config")):
        assert set(outside(FILES[name])) <= sys.stdlib_module_names | {"pydantic", "pydantic_core", "yaml"}, name


def test_runtime_knows_nothing_of_what_is_trained():
    """Wall 4: runtime/ imports nothing of nrms but itself and the ground."""
    for name in (name for name in FILES if name.startswith("nrms.runtime")):
        assert {room(n) for n in IMPORTS[name]} <= {"runtime", "__init__"}, name


SETTINGS = ("csv.field_size_limit", "warnings.filterwarnings")  # of the whole process, which the files that need them set


def work_at_import(path):
    """Statements of a file that do something when it is imported, beyond defining: loops, calls whose value is not kept."""
    for node in ast.parse(path.read_text()).body:
        works = isinstance(node, ast.For | ast.While | ast.With) or (isinstance(node, ast.Expr) and isinstance(node.value, ast.Call))
        if works and not ast.unparse(node).startswith(SETTINGS):
            yield ast.unparse(node)


@pytest.mark.parametrize("name", FILES)
def test_nothing_works_at_import(name):
    """Wall 5: to import a file defines things and does nothing."""
    assert not list(work_at_import(FILES[name]))


def test_every_file_says_which_question_it_answers():
    """A file answers one question, and its first line asks it; the face of a room says what the room is."""
    for name, path in FILES.items():
        first = (ast.get_docstring(ast.parse(path.read_text())) or "").split("\n")[0]
        assert "?" in first or path.name in ("__init__.py", "__main__.py", "runs.py"), f"{name}: {first!r}"
        assert first, name


@pytest.mark.parametrize("name", ["config", "runtime", "report", "serve", "bench", "data.newsroom"])
def test_a_face_hands_on_no_name_of_a_file(name):
    """What a room hands on never has the name of a file beside it: one of them could not be reached."""
    face = importlib.import_module(f"nrms.{name}")
    beside = {path.stem for path in (ROOT / "nrms" / name.replace(".", "/")).iterdir()}
    assert face.__all__ and not beside & set(face.__all__) and all(hasattr(face, each) for each in face.__all__)


USED = """answers: SLICED answers beside_the_original by_slice differences finished table where; browse: Browser speed; byhand: equation loss metrics;
contrast: contrasts; explain: batch_rows economy forward parameters shapes sizes speed tokens trained transfer tuning vector; figures: benchmark
beyond cost differences distributions pictures probe ranking slice_differences two_splits; original: two_evaluators; portrait: by_slice calibration
found_by_rank item_map learning_curves; probe: probe_content shown; show: checks data_answer data_report history lengths pictures ranked raw readable
record settings slate splits timeline words; transfer: begin; two_splits: sentence side_by_side table"""


def test_what_notebooks_of_earlier_versions_import_is_there():
    """Every name that a notebook of 0.1 took from a module at the root is still had from it, with a warning that says where it is now."""
    used = {name: words.split() for name, words in (part.split(":") for part in USED.replace("\n", " ").replace("; ", ";").split(";"))}
    assert set(used) == set(MOVED)
    for name, words in used.items():
        with pytest.warns(DeprecationWarning, match=rf"nrms\.{name} is no more: import from nrms\."):
            module = getattr(nrms, name)
        assert [word for word in words if not hasattr(module, word)] == [], name
    assert not hasattr(nrms, "figure")


def test_scripts_of_earlier_versions_import_what_they_did():
    """Imports that README and notebooks have said stay as they were."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", DeprecationWarning)
        for module, words in (
            ("train", "train sampler_of main"),
            ("evaluate", "evaluate evaluate_references main"),
            ("config", "resolve load_dataset from_notebook"),
            ("runtime", "Run run_folder home"),
            ("serve", "open_run recommend"),
            ("runs", "find_run"),
            ("report", "leaderboard comparison answer definitions diagnostics beyond"),
            ("bench", "run latest summary answer costs"),
        ):
            found = importlib.import_module(f"nrms.{module}")
            assert all(hasattr(found, word) for word in words.split()), module


def test_files_that_are_named_are_there():
    """Params files, notebooks, READMEs, LOG, docstrings and comments name files of the package that exist."""
    texts = [*PARAMS.rglob("*.yaml"), *ROOT.glob("*.md"), *(ROOT / "nrms").rglob("*.py"), *(ROOT / "notebooks").glob("*.ipynb")]
    texts += [ROOT / "reports" / "LOG.md", ROOT / "pyproject.toml"]
    for text in texts:
        for named in re.findall(r"\bnrms/[\w/]+\.\w+\b", text.read_text()):
            assert (ROOT / named).exists() or named in NEW, f"{text.relative_to(ROOT)} names {named}, which is not there"


NEW = {"nrms/models/users/average.py"}  # what recipes of README make


DATA = {False: "newsroom-tiny", True: "movies"}  # a data set of impressions, one of interactions
NOTEBOOKS = [ROOT / "notebooks" / f"{name}.ipynb" for name in ("data_prep", "train", "eval", "analysis", "browse", "benchmark")]


def calls(path):
    """(name, call) of every call in a file; the name with what stands before it, as far as that is names: `np.load`."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func) if isinstance(node.func, ast.Name | ast.Attribute) else "", node


DOORS = {  # to pre-trained models
    "auto.from_pretrained",  # in load_pretrained; tests/test_hostile.py sees that it asks for safetensors and runs no code
    "BertTokenizerFast.from_pretrained",  # of a folder written here
}


TAGS = """a b body br button circle code details div doctype figcaption figure form g h1 h2 h3 h4 head html i img input label li line link
main meta nav noscript ol optgroup option output p path pre rect script section select small span strong style sub summary sup svg
table tbody td text th thead title tr u ul"""
MARKUP = re.compile(rf"</?!?({'|'.join(TAGS.split())})\b(?=[\s/>]|$)", re.IGNORECASE)
MADE_BY_HAND = {"nrms/report/pages/layout.py": "a computed sentence is escaped before its **marks** become tags"}  # file: why it may
UNESCAPED = {  # (file, what it takes as it is): why it may
    ("nrms/runtime/templates.py", "Markup"): "what a template has made, and what is escaped there by hand",
    ("nrms/report/pages/layout.py", "Markup"): "a computed sentence, escaped before its **marks** become tags",
    ("nrms/report/pages/notebook_page.py", "Markup"): "an executed notebook: nbconvert cleans it, and the page runs no script but ours",
    ("nrms/report/pages/layout.html.j2", "style"): "our own style, inlined",
    ("nrms/report/pages/layout.html.j2", "script"): "our own script, inlined; the policy of the page names it by its hash",
}


def markup(text):
    """Strings of a Python source that hold markup, docstrings left aside: whole, in parts of an f-string, or before they are put together."""
    tree = ast.parse(text)
    owners = [node for node in ast.walk(tree) if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)]
    docstrings = {id(node.body[0].value) for node in owners if ast.get_docstring(node) is not None}
    strings = [node for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings]
    return [node.value for node in strings if MARKUP.search(node.value)]


def unescaped(path):
    """What a file lets through as it is: filters and blocks of templates, and Markup in code."""
    text = path.read_text()
    if path.suffix == ".py":
        return {name.split(".")[-1] for name, _ in calls(path) if name.split(".")[-1] == "Markup"}
    return set(re.findall(r"(\w+)\s*\|\s*safe\b", text)) | set(re.findall(r"autoescape|\bfilter safe\b", text))


def test_markup_stands_in_templates():
    """No string of a Python file makes markup: templates do, and they escape what they are given. What is taken as it is has a reason here."""
    for path in FILES.values():
        name = str(path.relative_to(ROOT))
        assert not markup(path.read_text()) or name in MADE_BY_HAND, f"{name}: {markup(path.read_text())}"
    files = [*FILES.values(), *(ROOT / "nrms").rglob("*.j2")]
    assert {(str(path.relative_to(ROOT)), what) for path in files for what in unescaped(path)} == set(UNESCAPED)


@pytest.mark.parametrize(
    "line",
    [
        'f"<b>{title}</b>"',
        "f'<td class=\"{css}\">'",
        '"<li>" + title',
        '"<p>%s" % title',
        '"".join(["</ul>"])',
        '"<!doctype html>".format()',
        'f"{a}</svg>"',
        '"<a\\n href=" + address',
    ],
)
def test_markup_would_be_seen(line):
    """The rule above sees each of these, and no file name with a place for another one."""
    assert markup(f"x = {line}") and not markup('"""<p> in a docstring"""; "a folder of <id>.jpg, (?P<name>.+), a < b and <dataset>/<part>.parquet"')


IMPORTS_BY_NAME = {  # files that import a file of this package by its name, each from a list or a caller of our own
    ROOT / "nrms" / "__init__.py",  # what moved
    ROOT / "nrms" / "runtime" / "child_processes.py",  # what a process of its own is to call
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
        if name.endswith(("torch.load", "torch.hub.load", "read_pickle", ".extractall", ".extract", "unpack_archive", "import_module")):
            yield name
        if name.startswith("yaml.") and ("load" in name) and not (name == "yaml.load" and ast.unparse(call.args[1]) == "Plain"):
            yield name
        if name.endswith(".from_pretrained") and name not in DOORS:
            yield name


@pytest.mark.parametrize("path", sorted((ROOT / "nrms").rglob("*.py")), ids=lambda p: str(p.relative_to(ROOT)))
def test_nothing_runs_what_a_file_says(path):
    """No pickle, no eval, no shell, no YAML but ours, no zip unpacked; pre-trained models through one door, what moved through another."""
    assert list(unsafe(path)) == (["importlib.import_module"] if path in IMPORTS_BY_NAME else [])


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


def test_a_bare_machine_trains(place):
    """Training and evaluation start without notebooks, and need no Jupyter, no plots, no Pillow, no scikit-learn."""
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

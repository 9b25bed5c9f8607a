"""What is an experiment? One flat, strict, immutable set of values (parameters.py), resolved from three places.

    defaults  <  params/data/<dataset>.yaml (`training:`)  <  params/<exp>.yaml  <  overrides, given by hand (-p name value)

A name that does not exist or a value of the wrong type is an error in the first second, with the nearest valid name.
Absent on purpose: interpolation, includes, environment variables.
"""

import ast
import difflib
import hashlib
import os
import re
import reprlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from nrms import ROOT, NrmsError, home
from nrms.config.names import NAME, check_name, nearest
from nrms.config.parameters import LOGS, ROLES, TEST_SETTINGS, Dataset, Experiment, World
from nrms.config.resolved import Config, digest

PARAMS = ROOT / "params"
MAX_YAML_BYTES = 1 << 20  # bytes of a params file
REFERENCES = (  # names of rows that are no experiments
    *("random", "popularity", "recency", "content", "cooccurrence"),
    *("ceiling", "ceiling_text", "ceiling_image", "ceiling_history"),
)


def explain(error: ValidationError, cls: type[BaseModel], where: str) -> NrmsError:
    """The first fault pydantic found, as a sentence; one of our own, of values that do not go together, as it is."""
    fault = error.errors()[0]
    if isinstance(cause := fault.get("ctx", {}).get("error"), NrmsError):
        return cause
    path, value = ".".join(map(str, fault["loc"])), fault["input"]
    if fault["type"] == "extra_forbidden":
        owner = World if fault["loc"][0] == "world" else cls
        return NrmsError(f"`{path}` in {where} is not a parameter{nearest(fault['loc'][-1], owner.model_fields)}")
    if fault["type"] == "missing":
        return NrmsError(f"{where} does not say `{path}`, which has no default.")
    message = fault["msg"].replace("Input should", "it should")
    sentence = f"`{path}` in {where} is {reprlib.repr(value)[:160]}, a value of type {type(value).__name__}: {message}."
    if isinstance(value, str) and re.fullmatch(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+", value):
        sentence += f" YAML reads {value} as text; write {float(value)!r} or {'e'.join(f'{float(value):.1e}'.split('e'))}."
    elif isinstance(value, str) and value.lower() in ("true", "false"):
        sentence += f" Write {value.capitalize()}."
    return NrmsError(sentence)


def validate(cls: type[BaseModel], values: Mapping[str, Any], where: str):
    try:
        return cls.model_validate(dict(values))
    except ValidationError as error:
        raise explain(error, cls, where) from None


class Plain(yaml.SafeLoader):
    """YAML that says every value once: no tags of Python, no aliases (a few lines of which can stand for gigabytes), no name twice."""

    def compose_node(self, parent, index):
        if self.check_event(yaml.AliasEvent):
            raise yaml.composer.ComposerError(None, None, "aliases (`*name`) are not understood: write the value out", self.peek_event().start_mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node, deep=False):
        names = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        if repeated := [name for i, name in enumerate(names) if name in names[:i]]:
            raise yaml.MarkedYAMLError(problem=f"`{repeated[0]}` stands there twice", problem_mark=node.start_mark)
        return super().construct_mapping(node, deep)


def read_yaml(folder: Path, name: object, what: str) -> dict[str, Any]:
    """params file `name` of `folder` as a dictionary; the number 4 means exp4."""
    name = check_name(f"exp{name}" if what == "experiment" and str(name).isdigit() else name, what)
    path = folder / f"{name}.yaml"
    if not path.is_file():
        advice = " For data of your own add `--like movies`, or another, to `prepare`." if what == "data set" else ""
        raise NrmsError(f"There is no {what} `{name}` ({path.relative_to(ROOT)}){nearest(name, [p.stem for p in folder.glob('*.yaml')])}{advice}")
    if not path.resolve().is_relative_to(PARAMS.resolve()):
        raise NrmsError(f"{path.relative_to(ROOT)} is a link that leads out of params: put the file itself there.")
    if path.stat().st_size > MAX_YAML_BYTES:
        raise NrmsError(f"{path.relative_to(ROOT)} has more than {MAX_YAML_BYTES:,} bytes: it is no file of parameters.")
    try:
        values = yaml.load(path.read_text("utf-8"), Plain)
    except Exception as error:  # not YAMLError alone: for `!!int x`, for 5,000 digits, for 1,000 brackets PyYAML raises whatever comes
        raise NrmsError(f"{path.relative_to(ROOT)} is not YAML: {' '.join(str(error).split())[:400]}.") from None
    if not isinstance(values, dict):
        raise NrmsError(f"{path.relative_to(ROOT)} must hold `name: value` lines.")
    return values


def load_dataset(dataset: str, **overrides: Any) -> Dataset:
    """The data set params/data/<dataset>.yaml, with `overrides` in the place of the file's values."""
    values = read_yaml(PARAMS / "data", dataset, "data set")
    data = validate(Dataset, values, f"params/data/{dataset}.yaml")
    validate(Experiment, data.training, f"`training` of params/data/{dataset}.yaml")
    return validate(Dataset, values | overrides, "the given parameters") if overrides else data


def check_test_settings(dataset: str, overrides: Mapping[str, Any]) -> None:
    """Raises NrmsError where an override makes another test than the data set's file: no row of its data set could stand beside it."""
    settings = load_dataset(dataset).test_settings if overrides.keys() & set(TEST_SETTINGS) else {}
    for key, value in settings.items():
        if overrides.get(key, value) != value:
            raise NrmsError(
                f"`{key}` decides which questions are asked, so it stands in the data set's file alone: params/data/{dataset}.yaml says {value!r}. "
                f"For {overrides[key]!r} make a data set of its own: "
                f"`python -m nrms prepare NAME --like {dataset} --from FOLDER -p {key} {overrides[key]}`."
            )


def resolve(
    exp: object = 4, dataset: str = "newsroom-tiny", seed: int = 0, name: str | None = None, checkpoint: str | None = None, **overrides: Any
) -> Config:
    """The experiment `exp` on `dataset`: files merged, `overrides` on top, everything checked.

    checkpoint: a best.safetensors that was trained elsewhere and is only to be evaluated; it gets a run folder of its own.

    Raises NrmsError for an unknown name, with the nearest valid one, and for a value of the wrong type.
    """
    fields, data_fields = Experiment.model_fields, Dataset.model_fields
    for key in overrides:
        if key not in fields and key not in data_fields:
            raise NrmsError(f"`{key}` is not a parameter{nearest(key, {'exp', 'dataset', 'seed', 'name', 'checkpoint', *fields, *data_fields})}")
    experiment = read_yaml(PARAMS, exp, "experiment")
    exp = f"exp{exp}" if str(exp).isdigit() else str(exp)
    validate(Experiment, experiment, f"params/{exp}.yaml")
    data = load_dataset(dataset, **{k: v for k, v in overrides.items() if k in data_fields})
    check_test_settings(dataset, overrides)
    values = data.training | experiment | {k: v for k, v in overrides.items() if k in fields}
    if isinstance(values.get("start"), str):
        values |= located(values["start"])
        if "start" in overrides:  # as a whole path, for whoever reads it elsewhere: a notebook, a process
            overrides["start"] = values["start"]
    suffix = "-checkpoint" if checkpoint else ""
    name = check_name(name or default_name(exp, overrides, values.get("trains")) + suffix, "run name")
    check_roles(overrides)
    if name in REFERENCES:
        raise NrmsError(f"The run name `{name}` is that of a baseline or ceiling; choose another.")
    what = {"exp": exp, "dataset": dataset, "seed": seed, "name": name, "checkpoint": checkpoint, "given": overrides, "data": data}
    return validate(Config, values | what, "the given parameters")


def check_roles(overrides: Mapping[str, Any]) -> None:
    """Raises NrmsError for an encoder given by hand that is nearly the name of a role, and no folder."""
    for key in ("text", "image", "joint"):
        name = overrides.get(key)
        if isinstance(name, str) and not os.path.exists(name) and difflib.get_close_matches(name, ROLES, n=1, cutoff=0.7) not in ([], [name]):
            raise NrmsError(f"`{key}` is {name!r}, which is no role and no folder{nearest(name, ROLES)}")


def located(start: str) -> dict[str, str]:
    """`start` as a whole path, and the digest of what is there. Raises NrmsError where no file is."""
    path = next((path for path in (Path(start), home() / start) if os.path.isfile(path)), None)
    if path is None:
        raise NrmsError(f"`start` is {start}, which is no file, nor one in {home()}: give the checkpoint/best.safetensors of a run.")
    return {"start": str(path.resolve()), "start_sha256": hashlib.sha256(path.read_bytes()).hexdigest()}


def reads_a_log(exp: object) -> bool:
    """True for an experiment on a log of interactions, False for one on impressions: by its user encoder, or by ids."""
    values = read_yaml(PARAMS, exp, "experiment")
    return bool(values.get("ids")) or values.get("users") in LOGS


def default_name(exp: str, overrides: Mapping[str, Any], trains: Sequence[str] | None = None) -> str:
    """The experiment's own name; with values given by hand a name of its own, so that a trial never takes the place of the real thing.

    An experiment that `trains` some weights alone is none without a `start`, so to give one makes no trial of it.
    """
    silent = {"device", "precision", "processes", "save_minutes"} | ({"start"} if trains else set())
    telling = {k: v for k, v in overrides.items() if k not in silent}
    words = "-".join(re.sub(r"[^a-z0-9]+", "", f"{k}{v}".lower()) for k, v in sorted(telling.items()))
    name = f"{exp}-{words}" if telling else exp
    return name if NAME.fullmatch(name) and len(words) < 24 else f"{exp}-{digest(telling)}"


def from_notebook(namespace: Mapping[str, Any], *notebook_names: str) -> dict[str, Any]:
    """The parameters of a notebook, given its `globals()`: what its cells of nothing but `name = literal` lines have set, but for `notebook_names`,
    which are no experiment's.

    papermill injects whatever it is given, known or not, in such a cell, and only warns; so the first call of every notebook collects all of it and
    hands it to `resolve`, which refuses what it does not know.
    """
    if len(namespace["In"]) < 2:  # executed without a history of cells, as nbval does: nothing but the parameters can have been set
        literals = (str, int, float, list, dict, type(None))
        return {k: v for k, v in namespace.items() if isinstance(v, literals) and not k.startswith("_") and k not in ("In", "Out", *notebook_names)}
    names = []
    for cell in namespace["In"]:
        try:
            lines = ast.parse(cell).body
            literals = [ast.literal_eval(line.value) for line in lines if isinstance(line, ast.Assign)]
        except (SyntaxError, ValueError):  # a magic, or a value that is computed
            continue
        if len(literals) == len(lines):
            names += [line.targets[0].id for line in lines if isinstance(line.targets[0], ast.Name)]
    return {name: namespace[name] for name in names if name not in notebook_names}

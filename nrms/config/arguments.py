"""How does a command line become a config, and an error a sentence?"""

import argparse
import contextlib
import json
from collections.abc import Sequence
from typing import Any

from nrms import NrmsError
from nrms.config.params_files import resolve
from nrms.config.resolved import Config

VALUES = (  # -p NAME VALUE, as often as one likes: what argparse's add_argument takes
    ("-p",),
    {"dest": "overrides", "nargs": 2, "action": "append", "default": [], "metavar": ("NAME", "VALUE"), "help": "a value in place of the files'"},
)
OPTIONS = {"exp": "EXP", "dataset": "--dataset", "seed": "--seed or --seeds", "checkpoint": "--checkpoint"}  # what has an option of its own


def parse_value(text: str) -> Any:
    """A value given with -p: a whole number, a number, True or False, null, a list or names with values as in JSON, else text."""
    for kind in (int, float):
        with contextlib.suppress(ValueError):
            return kind(text)
    if text[:1] in ("[", "{"):
        try:
            return json.loads(text)
        except (json.JSONDecodeError, RecursionError):
            raise NrmsError(f'{text!r} is neither a list, ["a", "b"], nor names with values, {{"a": 1}}, as JSON writes them.') from None
    return {"True": True, "False": False, "true": True, "false": False, "null": None}.get(text, text)


def values(args: argparse.Namespace) -> dict[str, Any]:
    """The values given with -p. Raises NrmsError for one that has an option of its own."""
    overrides = {name: parse_value(value) for name, value in getattr(args, "overrides", [])}
    for name in overrides.keys() & OPTIONS.keys():
        raise NrmsError(f"`{name}` is given as {OPTIONS[name]}, not with -p.")
    return overrides


def read_config(about: str, arguments: Sequence[str] | None = None) -> Config:
    """The config of `python -m nrms.train EXP --dataset D --seed K -p NAME VALUE`, and of its like."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("exp", metavar="EXP", help="4, exp4, or the name of any file in params")
    parser.add_argument("--dataset", default="newsroom")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(*VALUES[0], **VALUES[1])
    args = parser.parse_args(arguments)
    return resolve(args.exp, args.dataset, args.seed, **values(args))

"""Which names are valid, and which one was meant? Names of folders and files, and the nearest valid one for a sentence."""

import difflib
import re

from nrms import NrmsError

NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,39}")


def nearest(name: str, valid) -> str:
    """`; did you mean x?` for the valid name that looks most like `name`, or a list of what there is."""
    valid = sorted(valid)
    close = difflib.get_close_matches(str(name), valid, n=1, cutoff=0.5)
    return f"; did you mean `{close[0]}`?" if close else f". Valid: {', '.join(valid)}."


def check_name(value: object, what: str) -> str:
    """`value` if it is a safe folder name: lower-case letters, digits, _ and -, at most 40."""
    if not NAME.fullmatch(str(value)):
        raise NrmsError(f"The {what} {str(value)!a} is not a name: use 1 to 40 lower-case letters, digits, `_` or `-`.")
    return str(value)

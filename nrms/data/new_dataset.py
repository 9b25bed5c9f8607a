"""How does a data set of one's own get its settings file? From that of another data set, with a few values of its own."""

import contextlib
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from nrms import NrmsError
from nrms.config.names import check_name
from nrms.config.params_files import PARAMS, load_dataset
from nrms.runtime.files import atomic


@contextlib.contextmanager
def with_settings_of(dataset: str, like: str | None, **given: Any) -> Iterator[None]:
    """What happens in the block has a settings file for `dataset`, made by `new_dataset` if it is to be `like` another one but for what is
    `given`; if the block fails, a file that was made for it goes."""
    path = PARAMS / "data" / f"{dataset}.yaml"
    was_there = path.exists()
    if like:
        new_dataset(dataset, like, given)
    try:
        yield
    except BaseException:
        if like and not was_there:
            path.unlink(missing_ok=True)
        raise


def new_dataset(dataset: str, like: str, given: Mapping[str, Any] | None = None) -> Path:
    """Writes params/data/<dataset>.yaml, for data of one's own, with the settings of the data set `like`, but for the values `given`; what was made
    from it before is kept.

    Raises NrmsError for a name that is none, or not known, and where there is a file that was not made from `like`.
    """
    path = PARAMS / "data" / f"{check_name(dataset, 'data set name')}.yaml"
    load_dataset(like)
    made = f"# Made from params/data/{like}.yaml: "
    if path.exists() and not path.read_text().startswith(made):
        raise NrmsError(f"params/data/{dataset}.yaml is there already, and was not made from {like}: leave out `--like`, or delete it.")
    if not path.exists():
        text = (PARAMS / "data" / f"{like}.yaml").read_text()
        text = re.sub(r"^#.*\n", "", text, flags=re.M)
        text = re.sub(r"^download:\n(?:[ \n].*\n|\n)*", "", text, flags=re.M)  # addresses and hashes are of those files
        text = re.sub(r"^other_split: .*\n", "", text, flags=re.M)  # of another log
        text = re.sub(r"^about: .*$", f"about: data of my own, with the settings of {like}", text, flags=re.M)
        for name, value in (given or {}).items():
            text = re.sub(rf"^{name}:.*\n(?: .*\n)*", "", text, flags=re.M)
            text += yaml.safe_dump({name: value}, default_flow_style=True, width=1 << 20, allow_unicode=True)[1:-2] + "\n"  # one line, without braces
        with atomic(path) as part:
            part.write_text(f"{made}`python -m nrms prepare {dataset} --from FOLDER`. Any line may be changed.\n{text}")
    return path

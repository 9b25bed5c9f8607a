"""How does a data set of one's own get its settings file? From that of another data set, with a few values of its own."""

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from nrms import NrmsError
from nrms.config.names import check_name
from nrms.config.params_files import PARAMS, load_dataset, read_yaml
from nrms.runtime.files import atomic

NOT_TAKEN_OVER = ("download", "other_split")  # addresses and hashes are of other files, a split is of another log


@contextlib.contextmanager
def with_settings_of(dataset: str, like: str | None, **overrides: Any) -> Iterator[None]:
    """What happens in the block has a settings file for `dataset`, made by `new_dataset` if it is to be `like` another one but for the `overrides`;
    if the block fails, a file that was made for it goes."""
    path = PARAMS / "data" / f"{dataset}.yaml"
    is_new = like and not path.exists()
    if like:
        new_dataset(dataset, like, overrides)
    try:
        yield
    except BaseException:
        if is_new:
            path.unlink(missing_ok=True)
        raise


def new_dataset(dataset: str, like: str, overrides: Mapping[str, Any] | None = None) -> Path:
    """Writes params/data/<dataset>.yaml, for data of one's own, with the settings of the data set `like`, but for the `overrides`; what was made from
    it before is kept.

    Raises NrmsError for a name that is none, or not known, and where there is a file that was not made from `like`.
    """
    path = PARAMS / "data" / f"{check_name(dataset, 'data set name')}.yaml"
    load_dataset(like)
    head = f"# Made from params/data/{like}.yaml: "
    if path.exists() and not path.read_text().startswith(head):
        raise NrmsError(f"params/data/{dataset}.yaml is there already, and was not made from {like}: leave out `--like`, or delete it.")
    if not path.exists():
        values = {name: value for name, value in read_yaml(PARAMS / "data", like, "data set").items() if name not in NOT_TAKEN_OVER}
        values |= {"about": f"data of my own, with the settings of {like}", **(overrides or {})}
        text = yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=1 << 20)
        with atomic(path) as part:
            part.write_text(f"{head}`python -m nrms prepare {dataset} --from FOLDER`. Any line may be changed.\n{text}")
    return path

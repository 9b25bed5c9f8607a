"""Which items did the training part have? How often each, whose they were, and how many users took each."""

import numpy as np
import pandas as pd

from nrms.data.tables import Impressions, Interactions, Ragged


def item_counts(train: Impressions | Interactions, size: int) -> np.ndarray:
    """How often training has each item, (size,): clicks of impressions, or interactions of a log."""
    items = train.candidates.values[train.clicked] if isinstance(train, Impressions) else train.items.values
    return np.bincount(items, minlength=size)


def items_by_user(train: Impressions | Interactions) -> Ragged:
    """The items that each user of the training part took; of impressions what the histories hold, and what was clicked. An item may stand twice."""
    if isinstance(train, Interactions):
        return train.items
    user = pd.factorize(train.user)[0]
    once = np.unique(train.history_id, return_index=True)[1]  # equal histories of a user
    history = train.history.take(once)
    owner = np.concatenate([user[once][history.rows], user[train.candidates.rows[train.clicked]]])
    order = np.argsort(owner, kind="stable")
    items = np.concatenate([history.values, train.candidates.values[train.clicked]])
    return Ragged(items[order], np.searchsorted(owner[order], np.arange(user.max(initial=-1) + 2)))


def takers(train: Impressions | Interactions, size: int) -> tuple[np.ndarray, int]:
    """(size,) how many users of the training part took each item, in its histories too, and how many took anything; each user counts once."""
    items = items_by_user(train)
    pairs = np.unique(items.rows * size + items.values)
    return np.bincount(pairs % size, minlength=size), len(np.unique(pairs // size))

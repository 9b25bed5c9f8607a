"""Which impressions train, which choose, which judge? Time decides.

MIND's train part ends before its dev part begins. The dev part is the test; the latest share of the train part is the validation:

    time ->   |-------- train part --------|---- dev part ----|
    Ann         x      x        x     | x      x      x
    Bob            x                  |    x              x
    Cem               x     x    x    | x        x
              |------ train ----------| valid  |---- test ----|

Every impression before the boundary trains, every impression at or after it validates (half-open intervals).

A log of interactions is split by user, or by time for all. Every user is asked for one next item at a time:

    leave one out                          by time
    Ann   x x x x x | v | t                Ann   x x x  x |v   x  | t  x
    Bob   x x | v | t                      Bob       x    |       |  t
    Cem   x x x | v | t                    Cem   x x   x  |  v    |

x trains; v is asked for in the validation, given the x before it; t in the test, given everything before it. By time, v is a user's first
interaction at or after the first boundary, t that at or after the second; what follows them is not used.
"""

import numpy as np

from nrms import NrmsError
from nrms.data.tables import Impressions, Interactions, Ragged, Split


def split_by_time(parts: dict[str, Impressions], valid_share: float) -> Split:
    """Split(train, valid, test) of the parts `train` and `dev`; about `valid_share` of the train part, its latest, validates.

    Raises NrmsError when there is no labelled dev part, or when all train impressions have the same time.
    """
    if "dev" not in parts:
        raise NrmsError("This data set has no dev part, so there is nothing to test on: its source needs a folder whose name contains `dev`.")
    for name in ("train", "dev"):
        if not len(parts[name]):
            raise NrmsError(f"The {name} part of this data set has no impressions.")
    time = parts["train"].time
    boundary = np.sort(time)[int((1 - valid_share) * len(time))]
    before = time < boundary
    if not before.any():
        raise NrmsError("The train part cannot be split by time: too few impressions, or all at the same time.")
    train, valid = parts["train"].take(np.flatnonzero(before)), parts["train"].take(np.flatnonzero(~before))
    if train.time.max() >= valid.time.min() or valid.time.max() > parts["dev"].time.min():
        raise NrmsError("The dev part begins before the train part ends: training would see the future. Check the folders of the source.")
    return Split(train, valid, parts["dev"])


def next_items(log: Interactions, at: np.ndarray) -> Impressions:
    """For each user the question for the item at place `at` (R,) of the sequence, given all before it; no question where `at` is the length."""
    users = np.flatnonzero(at < log.items.lengths)
    place = log.items.offsets[users] + at[users]
    before = cut(log, at).items.take(users)
    one = Ragged(log.items.values[place], np.arange(len(users) + 1))
    return Impressions(log.user[users], log.user[users], log.time[place], before, one, np.ones(len(users), bool))


def cut(log: Interactions, at: np.ndarray) -> Interactions:
    """The first `at` (R,) interactions of every user; users may be left without any."""
    kept = np.arange(len(log.items.values)) - log.items.offsets[log.items.rows] < at[log.items.rows]
    return Interactions(log.user, Ragged(log.items.values[kept], np.concatenate([[0], np.cumsum(at)])), log.time[kept])


def leave_one_out(log: Interactions) -> Split:
    """The last item of every user tests, the last but one validates, the others train. Raises NrmsError for users with fewer than three."""
    length = log.items.lengths
    if length.min(initial=3) < 3:
        raise NrmsError(f"User {log.user[length.argmin()]!r} has {length.min()} interactions; to leave two out takes three: raise `min_length`.")
    return Split(cut(log, length - 2), next_items(log, length - 2), next_items(log, length - 1))


def split_log_by_time(log: Interactions, valid_share: float, test_share: float) -> Split:
    """The first interactions of users at or after two moments, chosen so that about these shares of all interactions lie behind them.

    Raises NrmsError when nothing lies before the first moment, or nobody has anything behind it.
    """
    ordered = np.sort(log.time)
    first, second = (ordered[min(int((1 - share) * len(ordered)), len(ordered) - 1)] for share in (valid_share + test_share, test_share))
    before, until = (np.bincount(log.items.rows[log.time < t], minlength=len(log)) for t in (first, second))
    if not before.any() or first == second:
        raise NrmsError("The log cannot be split by time: too few interactions, or all at the same time.")
    past = np.where(before == until, log.items.lengths, before)  # nothing between the moments: no question
    return Split(cut(log, before), next_items(log, past), next_items(log, until))


def split_log(log: Interactions, how: str, valid_share: float, test_share: float) -> Split:
    """`how`: leave_one_out or time."""
    return leave_one_out(log) if how == "leave_one_out" else split_log_by_time(log, valid_share, test_share)

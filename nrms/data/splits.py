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

Or every user is asked for several items at once, in any order, given the x alone:

    random                                 period
    Ann   x v x x t x                      Ann   x x x  | v  v | t  t
    Bob   t x x v                          Bob       x  |      | t
    Cem   x x v x t                        Cem   x x    | v    |

At random time has no say, so a model sees the future; what that is worth shows beside `period`, where all after a moment is asked for. `labelled`
takes the parts from a column of the log.
"""

import numpy as np

from nrms import NrmsError
from nrms.data.tables import Impressions, Interactions, Split


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


def chosen(log: Interactions, choice: np.ndarray) -> Interactions:
    """The interactions where `choice` is True, a bool for each; users may be left without any."""
    return Interactions(log.user, log.items.where(choice), log.time[choice])


def queries(log: Interactions, asked: np.ndarray, given: np.ndarray) -> Impressions:
    """For each user with interactions where `asked` is True the query for these, given those where `given` is: each a bool for every interaction."""
    targets = chosen(log, asked)
    users = np.flatnonzero(targets.items.lengths)
    time = targets.time[targets.items.offsets[users]]
    history, items = chosen(log, given).items.take(users), targets.items.take(users)
    return Impressions(log.user[users], log.user[users], time, history, items, np.ones(len(items.values), bool), users)


def next_items(log: Interactions, count: np.ndarray) -> Impressions:
    """For each user the query for the one item behind the first `count` (R,), given those; no query where there is none behind them."""
    position, count = log.items.positions, count[log.items.rows]
    return queries(log, position == count, position < count)


def leave_one_out(log: Interactions) -> Split:
    """The last item of every user tests, the last but one validates, the others train. Raises NrmsError for users with fewer than three."""
    length = log.items.lengths
    if length.min(initial=3) < 3:
        raise NrmsError(f"User {log.user[length.argmin()]!r} has {length.min()} interactions; to leave two out takes three: raise `min_length`.")
    train = chosen(log, log.items.positions < (length - 2)[log.items.rows])
    return Split(train, next_items(log, length - 2), next_items(log, length - 1))


def split_log_by_time(log: Interactions, valid_share: float, test_share: float) -> Split:
    """The first interactions of users at or after two moments, chosen so that about these shares of all interactions lie behind them.

    Raises NrmsError when nothing lies before the first moment, or nobody has anything behind it.
    """
    ordered = np.sort(log.time)
    first, second = (ordered[min(int((1 - share) * len(ordered)), len(ordered) - 1)] for share in (valid_share + test_share, test_share))
    before, until = (np.bincount(log.items.rows[log.time < t], minlength=len(log)) for t in (first, second))
    if not before.any() or first == second:
        raise NrmsError("The log cannot be split by time: too few interactions, or all at the same time.")
    past = np.where(before == until, log.items.lengths, before)  # nothing between the moments: no query
    return Split(chosen(log, log.time < first), next_items(log, past), next_items(log, until))


def by_part(log: Interactions, part: np.ndarray) -> Split:
    """Interactions of part 0 train; a user's of part 1 are asked for in the validation, those of part 2 in the test, both given those of part 0.

    Raises NrmsError when a part has none.
    """
    if (counts := np.bincount(part, minlength=3)).min() == 0:
        raise NrmsError(f"The log cannot be split so: {counts[0]:,} interactions would train, {counts[1]:,} validate, {counts[2]:,} test.")
    return Split(chosen(log, part == 0), queries(log, part == 1, part == 0), queries(log, part == 2, part == 0))


def random_parts(log: Interactions, valid_share: float, test_share: float) -> np.ndarray:
    """For every interaction 0, 1 or 2, drawn user by user, always the same: who has three or more validates and tests with at least one each."""
    length, rows = log.items.lengths, log.items.rows
    order = np.lexsort((np.random.default_rng(0).random(len(rows)), rows))  # users in their order, each one's interactions in a drawn one
    position = np.empty(len(rows), np.int64)
    position[order] = log.items.positions
    valid, test = (np.where(length >= 3, np.maximum(np.round(share * length), 1), 0).astype(np.int64)[rows] for share in (valid_share, test_share))
    return np.where(position < test, 2, np.where(position < test + valid, 1, 0))


def split_log(log: Interactions, how: str, valid_share: float, test_share: float) -> Split:
    """`how`: leave_one_out, time, period, random or labelled. Raises NrmsError where the log has no labels, or a part would be empty."""
    if how in ("leave_one_out", "time"):
        return leave_one_out(log) if how == "leave_one_out" else split_log_by_time(log, valid_share, test_share)
    if how == "random":
        return by_part(log, random_parts(log, valid_share, test_share))
    if how == "labelled":
        if log.part is None:
            raise NrmsError("split is labelled, but the log has no column x_label, split or part that says 0, 1, 2 or train, valid, test.")
        return by_part(log, log.part)
    first, second = np.quantile(log.time, [1 - valid_share - test_share, 1 - test_share], method="lower")
    return by_part(log, (log.time >= first).astype(int) + (log.time >= second))

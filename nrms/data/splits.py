"""Which impressions train, which choose, which judge? Time decides.

MIND's train part ends before its dev part begins. The dev part is the test; the latest share of the train part is the validation:

    time ->   |-------- train part --------|---- dev part ----|
    Ann         x      x        x     | x      x      x
    Bob            x                  |    x              x
    Cem               x     x    x    | x        x
              |------ train ----------| valid  |---- test ----|

Every impression before the boundary trains, every impression at or after it validates (half-open intervals).
"""

import numpy as np

from nrms import NrmsError
from nrms.data.tables import Impressions, Split


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

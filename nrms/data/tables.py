"""Which records does everybody share? Items, Impressions and the ragged arrays they are made of.

Items are numbered 0..N; 0 is padding and no news. Every column is a numpy array; lists of varying length are `Ragged`.
"""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq


@dataclass(frozen=True)
class Ragged:
    """Rows of varying length without padding: row r is values[offsets[r] : offsets[r + 1]]."""

    values: np.ndarray
    offsets: np.ndarray  # (rows + 1,) int64, starts at 0

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, row: int) -> np.ndarray:
        return self.values[self.offsets[row] : self.offsets[row + 1]]

    @classmethod
    def of(cls, values: np.ndarray, lengths: np.ndarray) -> "Ragged":
        """`values`, cut into rows of these lengths."""
        return cls(values, np.concatenate([[0], np.cumsum(lengths)]))

    @property
    def lengths(self) -> np.ndarray:
        return np.diff(self.offsets)

    @property
    def rows(self) -> np.ndarray:
        """The row of every value."""
        return np.repeat(np.arange(len(self)), self.lengths)

    @property
    def positions(self) -> np.ndarray:
        """Where in its row every value stands, from 0 on."""
        return np.arange(len(self.values)) - self.offsets[self.rows]

    def index(self, rows: np.ndarray) -> np.ndarray:
        """The ragged indices of the values of these rows, in order."""
        size = self.lengths[rows]
        begin = np.cumsum(size) - size
        return np.arange(size.sum()) + np.repeat(self.offsets[rows] - begin, size)

    def take(self, rows: np.ndarray) -> "Ragged":
        """These rows, in this order."""
        return Ragged.of(self.values[self.index(rows)], self.lengths[rows])

    def where(self, flags: np.ndarray) -> "Ragged":
        """All rows, with the values alone where `flags` is True."""
        return Ragged(self.values[flags], np.concatenate([[0], np.cumsum(flags)])[self.offsets])

    def pad(self, rows: np.ndarray, last: int) -> tuple[np.ndarray, np.ndarray]:
        """The last `last` values of each of these rows as (B, L) with 0 behind a shorter row, and the mask (B, L); L is at least 1."""
        end = self.offsets[rows + 1]
        size = np.minimum(end - self.offsets[rows], last)
        column = np.arange(max(int(size.max(initial=0)), 1))
        mask = column < size[:, None]
        padded = np.zeros(mask.shape, self.values.dtype)
        padded[mask] = self.values[((end - size)[:, None] + column)[mask]]
        return padded, mask


@dataclass(frozen=True)
class Items:
    """N + 1 rows; row 0 is padding, all its fields empty. Texts are as the source has them, quotes included."""

    id: np.ndarray  # (N + 1,) str
    category: np.ndarray
    subcategory: np.ndarray
    title: np.ndarray
    abstract: np.ndarray
    url: np.ndarray

    def __len__(self) -> int:
        return len(self.id)

    def name(self, item: int) -> str:
        """What people know an item by: its title, or its id where it has none."""
        return self.title[item] or self.id[item]


@dataclass(frozen=True)
class Impressions:
    """n impressions: a user was shown candidates at a time, and clicked some of them."""

    id: np.ndarray  # (n,) str, as in the source
    user: np.ndarray  # (n,) str
    time: np.ndarray  # (n,) int64, seconds since 1970
    history: Ragged  # item numbers clicked before, oldest first
    candidates: Ragged  # item numbers shown, in the order of the source
    clicked: np.ndarray | None  # bool for every value of `candidates`; None where the source has no labels
    owner: np.ndarray | None = None  # (n,) of a log: the user's row there

    def __len__(self) -> int:
        return len(self.id)

    @cached_property
    def history_id(self) -> np.ndarray:
        """(n,) equal numbers for impressions of the same user with the same history, 0, 1, ...: such a history is encoded once.

        In MIND that is every impression of a user within a part; where a user's histories differ, each has a number of its own.
        """
        user = pd.factorize(self.user)[0]
        weight = np.random.default_rng(0).integers(1 << 62, size=int(self.history.values.max(initial=0)) + 1, dtype=np.uint64)
        position = self.history.positions.astype(np.uint64)
        mixed = np.concatenate([[np.uint64(0)], np.cumsum(weight[self.history.values] * (2 * position + 1), dtype=np.uint64)])
        history_digest = np.diff(mixed[self.history.offsets])  # a random linear hash of 64 bits of what stands where
        return pd.factorize(pd.MultiIndex.from_arrays([user, self.history.lengths, history_digest]))[0]

    def take(self, rows: np.ndarray) -> "Impressions":
        """These impressions, in this order."""
        clicked = None if self.clicked is None else self.clicked[self.candidates.index(rows)]
        owner = None if self.owner is None else self.owner[rows]
        history, candidates = self.history.take(rows), self.candidates.take(rows)
        return Impressions(self.id[rows], self.user[rows], self.time[rows], history, candidates, clicked, owner)


@dataclass(frozen=True)
class Interactions:
    """A log: what each of R users took, oldest first; ties in time keep the order of the source."""

    user: np.ndarray  # (R,) str
    items: Ragged  # item numbers
    time: np.ndarray  # int64 for every value of `items`: seconds since 1970, or the position in the user's order where the source has no time
    part: np.ndarray | None = None  # int8 for every value, where the source says it: 0 trains, 1 validates, 2 tests

    def __len__(self) -> int:
        return len(self.user)


@dataclass(frozen=True)
class Split:
    """Three sets in the order of time; `test` is looked at once, when a model is finished.

    Of impressions all three are such. Of a log of interactions `train` is a log, and an impression of `valid` or `test` is a query to the whole
    catalogue: its history what the user had before, its candidates, all clicked, the one item or the several that are to be found.
    """

    train: "Impressions | Interactions"
    valid: Impressions
    test: Impressions


ITEMS_SCHEMA = pa.schema([(name, pa.string()) for name in ("id", "category", "subcategory", "title", "abstract", "url")])
NO_ITEM = pa.table([[""]] * len(ITEMS_SCHEMA), schema=ITEMS_SCHEMA)  # row 0, padding
NUMBERS = pa.list_(pa.int32())  # of items
IMPRESSIONS_SCHEMA = pa.schema(
    {"id": pa.string(), "user": pa.string(), "time": pa.timestamp("s"), "history": NUMBERS, "candidates": NUMBERS, "clicked": pa.list_(pa.bool_())}
)
INTERACTIONS_SCHEMA = pa.schema([("user", pa.string()), ("items", NUMBERS), ("time", pa.list_(pa.int64()))])
PART = pa.field("part", pa.list_(pa.int8()))  # one more column, where the source says which part an interaction belongs to


def ragged(column: pa.ChunkedArray) -> Ragged:
    """A list column as one ragged array."""
    array = column.combine_chunks()
    offsets = array.offsets.to_numpy().astype(np.int64)
    return Ragged(array.flatten().to_numpy(zero_copy_only=False), offsets - offsets[0])


def read_items(path: Path) -> Items:
    table = pq.read_table(path, schema=ITEMS_SCHEMA)
    return Items(*(column.to_numpy(zero_copy_only=False) for column in table.columns))


def read_impressions(path: Path) -> Impressions:
    return impressions_of(pq.read_table(path, schema=IMPRESSIONS_SCHEMA))


def impressions_of(table: pa.Table) -> Impressions:
    """The impressions of a table with IMPRESSIONS_SCHEMA."""
    clicked = None if table["clicked"].null_count else ragged(table["clicked"]).values.astype(bool)
    strings = (table[name].to_numpy(zero_copy_only=False) for name in ("id", "user"))
    time = table["time"].to_numpy().astype("datetime64[s]").astype(np.int64)
    return Impressions(*strings, time, ragged(table["history"]), ragged(table["candidates"]), clicked)


def read_interactions(path: Path) -> Interactions:
    table = pq.read_table(path)
    part = ragged(table["part"]).values if "part" in table.column_names else None
    return Interactions(table["user"].to_numpy(zero_copy_only=False), ragged(table["items"]), ragged(table["time"]).values, part)


def unseen(split: Split, size: int) -> np.ndarray:
    """(size,) True for items that training has nowhere: not in its log; of impressions, in no history and among no candidates of train and valid."""
    if isinstance(split.train, Interactions):
        return np.bincount(split.train.items.values, minlength=size) == 0
    flags = np.ones(size, bool)
    for part in (split.train, split.valid):
        flags[part.history.values] = flags[part.candidates.values] = False
    return flags

"""What does MIND's leaderboard want? prediction.zip with one prediction.txt: a line for every impression of a test part, in the order of the file,

    <impression id> [rank of the first candidate,rank of the second,...]

where 1 is best; the official evaluator reads it line by line beside the truth (https://github.com/msnews/MIND, evaluate.py). The test part is read,
ranked and written block by block, so memory is bounded. No candidate is left out: one that no news.tsv has is ranked last; equal scores go by the
order of the file. What was written is read again and checked before it takes its place.
"""

import contextlib
import shutil
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from nrms import NrmsError
from nrms.config.resolved import Config
from nrms.data import images
from nrms.data.prepare import Tables
from nrms.data.sources import mind
from nrms.data.sources.rows import Ledger, Member, flags, read_blocks
from nrms.data.tables import Impressions, Items, impressions_of
from nrms.evaluation.ranking import encode_items, rank_impressions
from nrms.models.build import build
from nrms.models.load import load_run
from nrms.models.recommender import Recommender
from nrms.runtime.files import atomic
from nrms.runtime.locks import locked
from nrms.runtime.progress import progress
from nrms.runtime.run_record import Run, data_folder

NAME = "prediction.txt"
FORM = r"^[^ ]+ \[[0-9]{1,9}(,[0-9]{1,9})*\]$"  # of a line


@dataclass(frozen=True)
class Expected:
    """What a prediction file must hold, in this order."""

    ids: pa.Array  # of impressions, no two the same
    sizes: np.ndarray  # (n,) candidates of each


def submit(run: Run, part: str = "test", source: Path | None = None, image_folder: Path | None = None) -> tuple[Path, Counter]:
    """Ranks every impression of a part of MIND with the model of a run; returns the path of prediction.zip, and counts of what was read.

    source: folder or zip of the part, or of a whole MIND; by default what was downloaded or, of a demo world, generated. Labels, where there are
    any, are not looked at. image_folder: images of those of its news that the prepared data set does not have.
    Raises NrmsError when the run cannot rank news that it has not seen, and for a line that is not sound: none may be left out.
    """
    config, tables, model = load_run(run)
    check_can(run, config)
    if image_folder is not None and tables.pixels is None:
        raise NrmsError(f"{config.dataset} was prepared without pictures, so no run reads any: leave out `--images`.")
    source = source or (data_folder("downloads") / config.dataset if config.data.source == "mind" else tables.folder / "raw")
    if not source.exists():
        raise NrmsError(f"There is no {source}: give the folder or zip of the {part} part, e.g. `--from MINDlarge_test.zip`.")
    members, counts, folder = mind.find_part(source, part), Counter(), run.folder / f"submit-{part}"
    with locked(folder), scratch(folder / "new") as new:
        tables = with_news_of(members["news.tsv"], tables, config.data.max_bad, image_folder, new, counts)
        model = rebound(model, config, tables)
        vectors = encode_items(model)
        with atomic(folder / NAME) as written:
            blocks = read_impressions(members["behaviors.tsv"], tables, counts)
            expected = write(written, model, vectors, config, blocks)
            if not len(expected.ids):
                raise NrmsError(f"{members['behaviors.tsv'].name} has no impressions, so there is nothing to rank.")
            check(Member(NAME, lambda: written.open("rb")), expected)
        return pack(folder / NAME), counts


def check_can(run: Run, config: Config) -> None:
    """Raises NrmsError for a run whose model has nothing to say of news that it has not seen."""
    if config.data.protocol != "impressions":
        raise NrmsError(
            f"{run.folder} is on {config.dataset}, a log of interactions: MIND's leaderboard ranks the candidates of impressions, which are news of "
            "other days. Ids of items, and users who are nodes of a graph, mean nothing there; give a run on MIND."
        )
    if config.shuffle_images:
        raise NrmsError(f"{run.folder} is a control whose pictures changed places, which no other news can: give the run that it controls.")
    if config.features_learn:
        raise NrmsError(f"{run.folder} has features_learn: the vectors of its own news are weights, and other news have none. Give another run.")


@contextlib.contextmanager
def scratch(folder: Path) -> Iterator[Path]:
    """An empty folder, gone with all that is in it when the block ends; what a killed process left of it is cleared away first."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def with_news_of(member: Member, tables: Tables, most: float, image_folder: Path | None, folder: Path, counts: Counter) -> Tables:
    """`tables` with the news of a news.tsv that the data set does not have behind its own, and with their images.

    A news that it has stays as it was when models were trained. most: share of rows that may be bad. folder: for images and for features of all
    these news, which nobody else asks for; it must stay for as long as the tables are used.
    """
    news, (ledger,) = mind.read_all_news({"": member}, most)
    titles, numbers = news["title"].to_numpy(zero_copy_only=False), pc.index_in(news["id"], pa.array(tables.items.id))
    new, old = flags(pc.is_null(numbers)), pc.fill_null(numbers, 0).to_numpy()
    more = Items(*(column.to_numpy(zero_copy_only=False)[new] for column in news.columns))
    counts.update({"news": len(news) - 1, "news that the data set does not have": len(more)})
    counts["news with another title than the data set has, which is kept"] += int((titles != tables.items.title[old])[~new].sum())
    counts["lines of news.tsv left out"] += ledger.rows_in - ledger.rows_out
    if not len(more):
        return tables
    if image_folder is None:
        return tables.with_items(more, folder=folder)
    store = folder / "images.npy"
    counts["pictures of them"] += images.write_store(image_folder, ["", *more.id], tables.pixels.values.shape[1], store)["found"]
    pixels = images.read_store(store)
    return tables.with_items(more, images.Pixels(pixels.values[1:], pixels.present[1:]), folder)


def rebound(model: Recommender, config: Config, tables: Tables) -> Recommender:
    """The model, bound to all news of `tables`."""
    if tables.base is None:
        return model
    other = build(config, tables, next(model.parameters()).device)
    other.load_state_dict(model.state_dict())
    return other.eval()


def read_impressions(member: Member, tables: Tables, counts: Counter) -> Iterator[Impressions]:
    """All impressions of a behaviors.tsv, block by block, an unknown candidate as number 0. Raises NrmsError for the first line that is not sound."""
    ledger = Ledger(member.name, strict=True)
    with progress(what=f"ranking {member.name}", unit=" impressions") as bar:
        for table in mind.read_behaviors(member, mind.has_labels(member), pa.array(tables.items.id), ledger):
            spaced = table["id"].filter(pc.match_substring_regex(table["id"], r"\s"))
            if len(spaced):
                name = spaced[0].as_py()
                raise NrmsError(f"{member.name} has the impression id {name!r}: with a space in it no line of {NAME} can name it.")
            impressions = impressions_of(table)
            candidates = impressions.candidates.values
            counts.update({"impressions": len(table), "candidates": len(candidates), "unknown candidates, ranked last": int((candidates == 0).sum())})
            if len(table):
                yield impressions
            bar.update(len(table))
    counts["impressions with unknown clicks in the history, left out there"] += ledger.counts["unknown_history"]


def ranks_of(scores: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """The rank of every score in its row, 1 the best; among equal scores the first comes first. Row r owns offsets[r] : offsets[r + 1]."""
    row = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    ranks = np.empty(len(scores), np.int32)
    ranks[np.lexsort((-scores, row))] = np.arange(len(scores)) - offsets[row] + 1
    return ranks


def lines_of(ids: np.ndarray, ranks: np.ndarray, offsets: np.ndarray) -> bytes:
    """The lines of these impressions."""
    lists = pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), pa.array(ranks).cast(pa.string()))
    return "".join(pc.binary_join_element_wise(pa.array(ids), " [", pc.binary_join(lists, ","), "]\n", "").to_pylist()).encode()


def write(path: Path, model: Recommender, vectors: torch.Tensor, config: Config, blocks: Iterator[Impressions]) -> Expected:
    """Writes the ranks of all impressions, as they come, and returns what the file must hold. vectors: of all items, as `encode_items` gives them."""
    ids, sizes = [pa.array([], pa.string())], [np.zeros(0, np.int64)]
    with path.open("wb") as file:
        for impressions in blocks:
            candidates = impressions.candidates
            scores = rank_impressions(model, vectors, impressions, config.history)
            if not np.isfinite(scores).all():
                raise NrmsError("Some scores are no finite numbers: the model has diverged, and ranks nothing.")
            scores[candidates.values == 0] = -np.inf
            file.write(lines_of(impressions.id, ranks_of(scores, candidates.offsets), candidates.offsets))
            ids.append(pa.array(impressions.id))
            sizes.append(candidates.lengths)
    return Expected(pa.concat_arrays(ids), np.concatenate(sizes))


def check(member: Member, expected: Expected) -> None:
    """Raises NrmsError unless a prediction file names every impression once, in order, and gives each a permutation of 1..n of its n candidates."""
    done = 0
    for lines, _ in read_blocks(member):
        begin, count = done, len(lines)
        done += count
        text = pa.array([line.decode(errors="replace") for line in lines], pa.string())
        stop(member, begin, ~flags(pc.match_substring_regex(text, FORM)), lambda i, text=text: f"is no line of the form `12 [2,1,3]`: {text[i]}")
        cells = pc.split_pattern(text, " ")
        ids = pc.list_element(cells, 0)
        expected_ids = expected.ids[begin:done]
        other = ~flags(pc.equal(ids[: len(expected_ids)], expected_ids))
        over = np.ones(count - len(expected_ids), bool)  # lines behind the last impression
        stop(member, begin, np.concatenate([other, over]), lambda i, ids=ids, n=begin: misplaced(ids[i], n + i, expected.ids))
        words = pc.split_pattern(pc.utf8_trim(pc.list_element(cells, 1), "[]"), ",")
        check_ranks(member, begin, words, expected.sizes[begin:done])
    if done < len(expected.ids):
        raise NrmsError(f"{member.name} ends after line {done:,}: the impression {expected.ids[done]} and what follows it are missing.")


def check_ranks(member: Member, begin: int, words: pa.Array, sizes: np.ndarray) -> None:
    """Raises NrmsError unless row i of `words` is a permutation of 1..sizes[i]. begin: lines before the first row."""
    length = pc.list_value_length(words).to_numpy()
    stop(member, begin, length != sizes, lambda i: f"has {length[i]} ranks for {sizes[i]} candidates.")
    rank, row = pc.list_flatten(words).cast(pa.int32()).to_numpy(), np.repeat(np.arange(len(sizes)), sizes)
    outside = (rank < 1) | (rank > sizes[row])
    stop(member, begin, mind.any_of(outside, row, len(sizes)), lambda i: f"has a rank that is none of 1 to {sizes[i]}.")
    slot = (np.cumsum(sizes) - sizes)[row] + rank - 1  # of each rank, of all rows
    twice = np.bincount(slot, minlength=len(rank)) > 1
    stop(member, begin, mind.any_of(twice, row, len(sizes)), lambda i: "gives the same rank twice.")


def stop(member: Member, begin: int, wrong: np.ndarray, fault_of: Callable[[int], str]) -> None:
    """Raises NrmsError for the first row that is wrong; fault_of(row) tells what it does."""
    if wrong.any():
        row = int(np.flatnonzero(wrong)[0])
        raise NrmsError(f"{member.name}, line {begin + row + 1}, {fault_of(row)}")


def misplaced(name: pa.Scalar, line: int, ids: pa.Array) -> str:
    """Why line number `line`, from 0, must not be of the impression `name`."""
    right_line = pc.index(ids, name).as_py()
    if right_line == -1:
        return f"is of the impression {name}, which is not in the part."
    if right_line < line:
        return f"is of the impression {name}, which has line {right_line + 1} already."
    return f"is of the impression {name}: {ids[line]} is missing."


def pack(path: Path) -> Path:
    """Puts prediction.txt, alone, into prediction.zip beside it, and reads it again; returns the zip's path."""
    target = path.with_suffix(".zip")
    with atomic(target) as part:
        with zipfile.ZipFile(part, "w", zipfile.ZIP_DEFLATED, compresslevel=6) as file:
            file.write(path, path.name)
        with zipfile.ZipFile(part) as file:
            if file.testzip() or [(i.filename, i.file_size) for i in file.infolist()] != [(NAME, path.stat().st_size)]:
                raise NrmsError(f"{target} does not hold what was put into it: is the disk sound?")
    return target

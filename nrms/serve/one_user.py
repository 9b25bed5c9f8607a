"""What does a model recommend to one reader, and why? A ranked list for a history or for a known user; every reason by leaving something out.

    lead     a candidate's score minus the mean score of all candidates. Scores have no zero of their own: only their differences rank.
    click    what one click of the history does for an item: its lead, minus its lead when that click alone is left out of the history.
    weight   of a click: the mean, without signs, of what it does for the listed items.
    part     what an item's picture, or its identity, does: its score, minus its score if it came without, history and other candidates as they are.
             What is first of an item, mostly its text, has the rest of the lead.

They hold for every user encoder and every fusion, and are exact: each is one more score. They need not add up over clicks, which act together.
Where an encoder has attention over the history it stands beside them: what was looked at, not what it did.
"""

import difflib
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import torch

from nrms import NrmsError
from nrms.data.tables import Impressions, Ragged
from nrms.evaluation.ranking import encode_items, model_scorer, rank_impressions, states_of
from nrms.models.load import load_run
from nrms.runtime.run_record import Run
from nrms.runtime.terminal import printable

PARTS = {"text": "text", "image": "picture", "joint": "text and picture", "ids": "identity"}  # modalities, in words
EXPLAINED = {"identity": "identity, a vector that the model learned for this item alone"}  # parts whose name says too little
NO_ITEMS = np.array([], np.int64)


@dataclass(frozen=True)
class Reader:
    """Whom a ranking is for. Items are numbers of the catalogue."""

    history: np.ndarray  # (L,) the most recent clicks, which the model reads, oldest first
    earlier: np.ndarray = field(default_factory=lambda: NO_ITEMS)  # clicks before those, which it does not read
    user: str | None = None
    owner: int | None = None  # the user's row in a log
    slate: np.ndarray = field(default_factory=lambda: NO_ITEMS)  # what the user's latest impression showed; nothing of a log
    relevant: np.ndarray = field(default_factory=lambda: NO_ITEMS)  # what of it was clicked, or the items that the test asks for


@dataclass(frozen=True)
class Ranking:
    """The first K of C candidates for a reader, best first, and the reasons."""

    reader: Reader
    items: np.ndarray  # (K,)
    scores: np.ndarray  # (K,)
    leads: np.ndarray  # (K,)
    among: int  # C
    ranks: np.ndarray  # from 1, of what is relevant to the reader, as far as it is among the candidates
    clicks: np.ndarray | None  # (K, L) what each click does for each item; None where the model reads no history
    attention: np.ndarray | None  # (L,) of a click's place in the encoder's last pooling, together 1; None where it has no such weights
    parts: dict[str, np.ndarray]  # (K,) by modality, in words; together the leads
    notes: list[str]  # which reasons cannot be given, in sentences

    @property
    def weights(self) -> np.ndarray | None:
        """(L,) of the clicks."""
        return None if self.clicks is None else np.abs(self.clicks).mean(0)

    def most_by(self, i: int) -> tuple[int, float] | None:
        """The click that did most for the item that is listed as number i, and how much; None where none did anything, or none is read."""
        if self.clicks is None or not self.clicks.shape[1] or self.clicks[i].max() <= 0:
            return None
        return int(self.reader.history[self.clicks[i].argmax()]), float(self.clicks[i].max())


def numbers_of(names: Sequence[object], numbers: dict[str, int], what: str) -> np.ndarray:
    """Their numbers. Raises NrmsError for a name that is not there, with the nearest ones."""
    if isinstance(names, str):
        names = [names]
    for name in names:
        if str(name) not in numbers:
            close = difflib.get_close_matches(str(name), numbers, n=3, cutoff=0.5) or list(numbers)[:3]
            raise NrmsError(f"There is no {what} {str(name)!r}; among the {len(numbers):,} that there are: {', '.join(close)}.")
    return np.array([numbers[str(name)] for name in names], np.int64)


class Served:
    """A finished run, ready to rank: its model with all items encoded once. Made by `open_run`."""

    def __init__(self, run: Run):
        began = time.perf_counter()
        self.run = run
        self.config, self.tables, self.model = load_run(run)
        self.name = f"{self.config.name}/{run.folder.name}"
        self.vectors = encode_items(self.model)
        self.seconds = time.perf_counter() - began
        self.test = self.tables.split(self.config.data).test
        self.numbers = {name: i for i, name in enumerate(self.tables.items.id) if i}
        latest = np.argsort(self.test.time, kind="stable")
        self.users = {str(self.test.user[row]): int(row) for row in latest}  # {user: their latest impression in the test part}

    @property
    def verb(self) -> str:
        """What users do with items."""
        return "clicked" if self.config.data.protocol == "impressions" else "taken"

    def reader(self, history: Sequence[object] | None = None, user: object = None) -> Reader:
        """Somebody with this history, ids of items, oldest first; or a user of the test part, as their latest impression there finds them.

        Raises NrmsError unless just one of both is given, and for an unknown item or user, with the nearest known ones.
        """
        if (history is None) == (user is None):
            raise NrmsError("Say whom the ranking is for: give either a history, ids of items, or a user of the test part.")
        read = self.config.history
        if user is None:
            if self.model.users.is_graph:
                raise NrmsError(
                    f"{self.name} reads no history: to users {self.config.users} a user is a node of the graph that it was trained on. Give a user "
                    f"of the test part, such as {next(iter(self.users))}."
                )
            past = numbers_of(history, self.numbers, "item")
            return Reader(past[-read:], past[:-read])
        latest = self.test.take(numbers_of([user], self.users, "user in the test part:"))
        past, candidates = latest.history.values.astype(np.int64), latest.candidates.values.astype(np.int64)
        owner = None if latest.owner is None else int(latest.owner[0])
        slate = candidates if self.config.data.protocol == "impressions" else NO_ITEMS
        return Reader(past[-read:], past[:-read], str(user), owner, slate, candidates[latest.clicked])

    def queries(self, reader: Reader, histories: Sequence[np.ndarray], candidates: np.ndarray) -> Impressions:
        """One query per history, each with the same candidates."""
        n = len(histories)
        past = Ragged(np.concatenate([*histories, NO_ITEMS]).astype(np.int64), np.cumsum([0, *map(len, histories)]))
        slates = Ragged(np.tile(candidates, n), np.arange(n + 1) * len(candidates))
        ids = np.arange(n).astype(str)
        owner = None if reader.owner is None else np.full(n, reader.owner)
        return Impressions(ids, ids, np.zeros(n, np.int64), past, slates, np.zeros(n * len(candidates), bool), owner)

    @torch.inference_mode()
    def scores(self, reader: Reader, histories: Sequence[np.ndarray], candidates: np.ndarray) -> np.ndarray:
        """Scores (R, C) of candidates for each of R histories in the place of the reader's own."""
        queries = self.queries(reader, histories, candidates)
        if self.model.users.can_rank_catalogue:
            scores = model_scorer(self.model, self.vectors, queries, self.config.history)(np.arange(len(histories)))
            return scores[:, torch.from_numpy(candidates).to(scores.device)].cpu().numpy()
        return rank_impressions(self.model, self.vectors, queries, self.config.history).reshape(len(histories), -1)

    def rank(self, reader: Reader, k: int = 10, candidates: np.ndarray | None = None) -> Ranking:
        """The first k of the candidates (C,), numbers, or of all items but those of the history. Equal scores keep the candidates' order."""
        if k < 1:
            raise NrmsError(f"k is {k}, but a list has at least 1 item.")
        if candidates is None:
            candidates = np.setdiff1d(np.arange(1, len(self.tables.items)), np.concatenate([reader.history, reader.earlier]))
        if not len(candidates):
            raise NrmsError("There are no candidates: the history has every item, or the list given is empty.")
        scores = self.scores(reader, [reader.history], candidates)[0]
        order = np.argsort(-scores, kind="stable")
        first, ranks = order[:k], 1 + np.flatnonzero(np.isin(candidates[order], reader.relevant))
        leads = scores - scores.mean()
        clicks = None if self.model.users.is_graph else self.without_clicks(reader, candidates, leads, first)
        parts, notes = self.parts(reader, candidates[first], leads[first])
        if clicks is None:
            notes.append(f"Clicks have no weights here: users {self.config.users} has learned a vector for each user, and reads no history.")
        return Ranking(reader, candidates[first], scores[first], leads[first], len(candidates), ranks, clicks, self.attention(reader), parts, notes)

    def without_clicks(self, reader: Reader, candidates: np.ndarray, leads: np.ndarray, listed: np.ndarray) -> np.ndarray:
        """(K, L) what each click does for each listed item: one score more for every click left out, all in one batch."""
        if not len(reader.history):
            return np.zeros((len(listed), 0))
        scores = self.scores(reader, [np.delete(reader.history, i) for i in range(len(reader.history))], candidates)
        return (leads - (scores - scores.mean(1, keepdims=True)))[:, listed].T

    @torch.inference_mode()
    def attention(self, reader: Reader) -> np.ndarray | None:
        """(L,) as the user encoder has it."""
        if self.model.users.is_graph or not len(reader.history):
            return None
        past = self.vectors[torch.from_numpy(reader.history).to(self.vectors.device)][None]
        weights = self.model.users.attention(past, torch.ones(past.shape[:2], dtype=torch.bool, device=past.device))
        return None if weights is None else weights[0].float().cpu().numpy()

    @torch.inference_mode()
    def parts(self, reader: Reader, items: np.ndarray, leads: np.ndarray) -> tuple[dict[str, np.ndarray], list[str]]:
        """Leads (K,) by modality, and notes where they cannot be told apart."""
        tower, (first, *others) = self.model.items, self.config.modalities
        notes = ["Text and picture have no parts of their own here: one encoder reads them together."] if first == "joint" else []
        if others and self.model.users.is_graph:
            words = " and ".join(PARTS[name] for name in (first, *others))
            notes.append(f"{words} have no parts of their own here: in a graph an item's vector is mixed with those of its neighbours.")
            return {words: leads}, notes
        numbers = torch.from_numpy(items).to(self.vectors.device)
        queries = self.queries(reader, [reader.history], items)
        state = states_of(self.model, self.vectors, queries, np.array([0]), self.config.history)
        full, parts = self.model.users.score(state, self.vectors[numbers][None]), {}
        for name in others:
            if tower.fusion.wants_blank and bool(tower.encoders[name].present[1:].all()):
                notes.append("The picture has no part of its own here: every item has one, so the model has never seen a blank in its place.")
                continue
            without = self.model.users.score(state, tower.without(numbers, name)[None])
            parts[PARTS[name]] = (full - without)[0].float().cpu().numpy()
        return {PARTS[first]: leads - sum(parts.values()), **parts}, notes

    def recommend(self, history: Sequence[object] | None = None, k: int = 10, candidates: Sequence[object] | None = None, *, user: object = None):
        """A table of what the model recommends: rank (the index), id, title, category, score; for a `user` also whether they clicked or took it.

        history: ids of items, oldest first; an empty one is a newcomer's. user: in place of a history, one of the test part, as their latest
        impression there finds them: `yes` what they clicked, `no` what it showed besides, nothing what it did not show. candidates: ids; None: all
        items but those of the history.
        Raises NrmsError for unknown ids, and for a history where the model knows users alone.
        """
        numbers = None if candidates is None else pd.unique(numbers_of(candidates, self.numbers, "item"))
        return self.table(self.rank(self.reader(history, user), k, numbers))

    def table(self, ranking: Ranking, *, why: bool = False) -> pd.DataFrame:
        """A ranking, ready to print; with leads and a column of reasons if `why`."""
        items, reader, listed = self.tables.items, ranking.reader, ranking.items
        columns = {"id": items.id[listed], "title": items.title[listed], "category": items.category[listed], "score": ranking.scores.round(3)}
        table = pd.DataFrame(columns, index=pd.RangeIndex(1, len(listed) + 1, name="rank"))
        if reader.user is not None:
            table[self.verb] = np.where(np.isin(listed, reader.relevant), "yes", np.where(np.isin(listed, reader.slate), "no", ""))
        if why:
            table["lead"] = ranking.leads.round(2)
            table["why"] = [self.reason(ranking, i) for i in range(len(listed))]
        return table

    def reason(self, ranking: Ranking, i: int) -> str:
        """The parts of the lead of the item that is listed as number i, and the click that did most for it."""
        words = [f"{name} {part[i]:+.2f}" for name, part in ranking.parts.items()]
        if ranking.most_by(i) is not None:
            item, lead = ranking.most_by(i)
            words.append(f"most by {self.tables.items.id[item]} {lead:+.2f}")
        return ", ".join(words)


def open_run(run: Run) -> Served:
    """A finished run, ready to rank: loads its model and encodes all items, once for any number of calls."""
    return Served(run)


def recommend(run: Run, *whom: Any, **how: Any) -> pd.DataFrame:
    """What a finished run, opened for this one call, recommends: `recommend(run, history=["N12", "N7"], k=10)`, else as `Served.recommend` says."""
    return open_run(run).recommend(*whom, **how)


def describe(served: Served, ranking: Ranking) -> str:
    """A ranking as lines of text: whom it is for, what they clicked, the list with its reasons, and what these mean.

    Titles are of strangers, and a terminal obeys some characters: what does not print stands there as �.
    """
    items, reader = served.tables.items, ranking.reader
    who = f"user {reader.user}" if reader.user is not None else "this history"
    if reader.user is not None and served.config.data.protocol != "impressions":
        who += ", as the test part finds them: what it asks for is yet to come"
    earlier = f" (and {len(reader.earlier):,} earlier, not read)" if len(reader.earlier) else ""
    columns = {"weight": ranking.weights, "attention": ranking.attention, "id": items.id[reader.history], "title": items.title[reader.history]}
    past = pd.DataFrame({name: values for name, values in columns.items() if values is not None}).round(2)
    lines = [
        f"{served.name} on {served.config.dataset}, for {who}: first {len(ranking.items)} of {ranking.among:,} candidates",
        "",
        f"history, oldest first{earlier}:",
        past.to_string(index=False, max_colwidth=80) if len(past) else "  nothing",
        "",
        served.table(ranking, why=True).to_string(max_colwidth=60),
        "",
        *meaning(ranking),
    ]
    return printable("\n".join(lines))


def meaning(ranking: Ranking) -> list[str]:
    """What the numbers of a ranking are, in sentences, and which of them it does not have."""
    first, *others = (EXPLAINED.get(name, name) for name in ranking.parts)
    rest = f"the rest of the lead, without {' and '.join(list(ranking.parts)[1:])}" if others else "the whole lead, which has no other part here"
    lines = [
        f"lead: an item's score minus the mean score of all {ranking.among:,} candidates; scores have no zero of their own.",
        f"{first}: {rest}.",
        *(f"{other}: the item's score minus its score if it came without it, history and other candidates as they are." for other in others),
    ]
    if ranking.clicks is not None:
        lines.append("weight of a click: how far the leads of the listed items move, on average, if it is left out of the history.")
        lines.append("most by: the click without which the item's lead would fall most.")
    if ranking.attention is not None:
        lines.append(
            "attention: the weight of a click's place in the last pooling, where each place has seen all clicks; what was looked at, not what it did."
        )
    return lines + ranking.notes

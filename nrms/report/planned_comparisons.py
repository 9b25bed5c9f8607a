"""Which of our questions do the runs answer, and how? Planned comparisons of two experiments each -> differences, sentences.

Every comparison is paired by impression, seeds averaged first; all p-values of a data set are corrected together (Holm).
"""

from dataclasses import asdict, dataclass, fields

import numpy as np
import pandas as pd

from nrms.evaluation.statistics import compare, compare_each, holm
from nrms.report.experiments import Entry, align, comparable, protocol_of
from nrms.report.format import p_value
from nrms.report.research_questions import (
    ADDED,
    ASKED_TOO,
    BASELINE,
    CATALOGUE,
    END_TO_END,
    FROZEN,
    GRAPH,
    IDS,
    INTERESTS,
    MODALITIES,
    ORDER,
    QUESTIONS,
    SETS,
    TUNING,
    Planned,
)


def questions_of(dataset: str, found: list[Entry] | None = None) -> Planned:
    """What is asked of a data set, by the protocol of its runs. found: its `entries`, if read already."""
    name = protocol_of(dataset, found).name
    return QUESTIONS[name] | ASKED_TOO[name]


@dataclass(frozen=True)
class Difference:
    """One comparison: main metric of `exp` minus that of `other`, paired by impression."""

    question: str
    exp: str
    other: str
    about: str
    mean: float
    low: float
    high: float
    p: float  # corrected
    n: int
    seeds: tuple[float, ...]  # the difference of each seed that both have; empty against a baseline
    label: str = "AUC"  # of the metric

    @property
    def verdict(self) -> str:
        """more, less, or unclear: what the 95 % interval and the corrected p, at 0.05, allow to say."""
        return "more" if self.low > 0 and self.p < 0.05 else "less" if self.high < 0 and self.p < 0.05 else "unclear"

    def __str__(self) -> str:
        says = {"more": "better", "less": "worse", "unclear": "no difference that the test part can show"}[self.verdict]
        text = f"{self.exp} against {self.other} ({self.about}): {self.label} {self.mean:+.3f} "
        text += f"({self.low:+.3f} to {self.high:+.3f}, p {p_value(self.p)}): {says}"
        same = sum(np.sign(s) == np.sign(self.mean) for s in self.seeds)
        return text + (f"; same sign in {same} of {len(self.seeds)} seeds" if len(self.seeds) > 1 else "; one seed" if self.seeds else "")


def finished(dataset: str, found: list[Entry] | None = None) -> dict[str | tuple[str, ...], Entry]:
    """Finished entries that are `comparable` by name, an ensemble by its members too, `best baseline` among them. Where a name has several (other
    values), that with the most seeds."""
    done = sorted(comparable(dataset, found), key=lambda e: len(e.seeds))
    found = {e.exp: e for e in done} | {e.members: e for e in done if e.members}
    baselines = [e for e in done if e.kind == "baseline"]
    if baselines:
        found[BASELINE] = max(baselines, key=lambda e: e.main.mean())
    return found


def by_seed(a: Entry, b: Entry) -> tuple[float, ...]:
    """Difference in the mean of the main metric for each seed that both entries have."""
    first, second = a.main_of_seed(), b.main_of_seed()
    return tuple(first[s] - second[s] for s in sorted(first.keys() & second.keys())) if "baseline" not in (a.kind, b.kind) else ()


def differences(dataset: str, found: list[Entry] | None = None) -> list[Difference]:
    """All planned comparisons of which both sides are finished, in the order of the questions, with p corrected for their number.

    found: the `entries` of the data set, if read already.
    """
    known, label = finished(dataset, found), protocol_of(dataset, found).label
    asked = [(question, *pair) for question, planned in questions_of(dataset, found).items() for pair in planned]
    made = [(question, known[exp], known[other], about) for question, exp, other, about in asked if exp in known and other in known]
    results = compare_each([align(a, b) for _, a, b, _ in made])
    corrected = holm([r["p"] for r in results])
    return [
        Difference(question, a.exp, b.exp, about, r["mean"], r["low"], r["high"], p, r["n"], by_seed(a, b), label)
        for (question, a, b, about), r, p in zip(made, results, corrected, strict=True)
    ]


def answer(question: str, found: list[Difference]) -> str:
    """A question with its answer in Markdown: a first sentence that follows from the comparisons, then each of them."""
    own = [d for d in found if d.question == question]
    if not own:
        planned = next(asked[question] for asked in QUESTIONS.values() if question in asked)
        pairs = "; ".join(f"{exp} and {other}" for exp, other, _ in planned[:3])
        return f"**{question}** Not answered yet on this data set: run both of one of these: {pairs}."
    lines = "\n".join(f"- {d}" for d in own)
    return f"**{question}** {summary(question, own)}\n\n{lines}"


def answers(found: list[Difference], protocol: str) -> str:
    """All questions to data that are judged so, each with its `answer`, and those to others that these comparisons answer."""
    return "\n\n".join(answer(question, found) for question in dict.fromkeys([*QUESTIONS[protocol], *(d.question for d in found)]))


def summary(question: str, own: list[Difference]) -> str:
    """One sentence that follows from the verdicts of a question's main comparisons."""
    if question == FROZEN:
        main = [d for d in own if d.other in ("random", "popularity", "recency", "content")]
        good = [d for d in main if d.verdict == "more"]
        if not main:
            return "The frozen encoders were compared with each other only."
        best = max(main, key=lambda d: d.mean)
        if good:
            return f"Yes: {len(good)} of {len(main)} frozen encoders beat the best baseline, {best.other}; {best.exp} by most, {best.mean:+.3f}."
        return f"Not shown: none of {len(main)} frozen encoders beats the best baseline, {best.other}; {best.exp} comes nearest, {best.mean:+.3f}."
    if question == TUNING:
        main = [d for d in own if (d.exp, d.other) in {("exp4", "text_frozen"), ("exp3", "exp2"), ("exp3_gate", "exp2_gate")}] or own
        return f"{count(main, 'tuned encoders are better than the same ones frozen')}."
    if question in CATALOGUE or question in SETS:
        return catalogue_summary(question, own)
    main = [d for d in own if d.other == "exp4" and d.exp != "shuffled_images"] or own
    text = f"{count(main, 'ways of adding pictures are better than the same text alone')}."
    control = next((d for d in own if d.exp == "shuffled_images"), None)
    if control is not None:
        helped = any(d.verdict == "more" for d in main)
        text += {
            "more": " But pictures that changed places help too, so part of it is not what the pictures show.",
            "unclear": " Pictures that changed places are not seen to help, so it is what they show that counts." if helped else "",
            "less": " Pictures that changed places do harm.",
        }[control.verdict]
    return text


def catalogue_summary(question: str, own: list[Difference]) -> str:
    """The sentence for a question to a log of interactions."""
    what = {
        IDS: "ways of content in the place of ids are better than ids",
        ADDED: "additions are better than what they stand against",
        END_TO_END: "trained or deepened encoders are better than plain frozen vectors",
        ORDER: "other user encoders or losses are better",
        INTERESTS: "comparisons find what stands first better",
        GRAPH: "comparisons find what stands first better",
        MODALITIES: "comparisons find what stands first better",
    }[question]
    main = [d for d in own if d.exp != "idrec_sasrec"] or own
    text = count(main, what)
    level = [named(d, main) for d in main if d.verdict == "unclear"]
    return text + (f"; no difference shown: {', '.join(level)}." if level else ".")


def count(main: list[Difference], what: str) -> str:
    """`2 of 3 <what> (a +0.01, b +0.02); 1 worse (c -0.01)`."""

    def those(verdict: str) -> str:
        return ", ".join(f"{named(d, main)} {d.mean:+.3f}" for d in main if d.verdict == verdict)

    more, less = those("more"), those("less")
    number = sum(d.verdict == "more" for d in main)
    return f"{number} of {len(main)} {what}" + (f" ({more})" if more else "") + (f"; worse: {less}" if less else "")


def named(d: Difference, among: list[Difference]) -> str:
    """The experiment of a comparison, and what it is held against where it stands in several."""
    return d.exp if sum(other.exp == d.exp for other in among) == 1 else f"{d.exp} against {d.other}"


def table(found: list[Difference]) -> pd.DataFrame:
    """The comparisons as a table."""
    lines = [
        {
            "comparison": f"{d.exp} against {d.other}",
            "what differs": d.about,
            f"{d.label} difference": f"{d.mean:+.3f} [{d.low:+.3f}, {d.high:+.3f}]",
            "p": p_value(d.p),
            "by seed": " ".join(f"{s:+.3f}" for s in d.seeds),
            "n": f"{d.n:,}",
        }
        for d in found
    ]
    return pd.DataFrame(lines).set_index("comparison") if lines else pd.DataFrame()


def by_slice(dataset: str, exp: str, other: str) -> pd.DataFrame:
    """Paired differences of the main metric of two finished experiments in every slice that both have: mean, low, high, p (not corrected), n.

    Empty where one of them is not finished.
    """
    known = finished(dataset)
    if exp not in known or other not in known:
        return pd.DataFrame()
    a, b = known[exp].rows, known[other].rows.reindex(known[exp].rows.index)
    main = known[exp].protocol.main
    lines = {"all": compare(a[main].to_numpy(), b[main].to_numpy())}
    for column in a.columns.intersection(b.columns):
        kind, _, name = column.partition(": ")
        if kind == "in":
            where = a[column].to_numpy() > 0.5
            lines[name] = compare(a[main].to_numpy()[where], b[main].to_numpy()[where])
        elif kind == main and name:
            lines[name] = compare(a[column].to_numpy(), b[column].to_numpy())
    return pd.DataFrame(lines).T.query("n > 1").astype({"n": int})


def table_of(found: list[Difference], dataset: str) -> pd.DataFrame:
    """The comparisons of a data set as comparisons.csv has them; `from_table` reads them back."""
    lines = [{"dataset": dataset} | asdict(d) | {"seeds": " ".join(f"{s:.6g}" for s in d.seeds)} for d in found]
    return pd.DataFrame(lines, columns=["dataset", *(f.name for f in fields(Difference))])


def from_table(table: pd.DataFrame) -> list[Difference]:
    lines = table.drop(columns="dataset").fillna({"seeds": ""}).to_dict("records")
    return [Difference(**line | {"seeds": tuple(map(float, str(line["seeds"]).split()))}) for line in lines]


Pair = tuple[str, str]
SLICED: dict[str, list[Pair]] = {  # whose difference is shown by slice
    "impressions": [("exp3_gate", "exp4")],
    "catalogue": [("morec_ts_sasrec", "idrec_sasrec"), ("morec_e2e_sasrec", "idrec_sasrec"), ("missrec", "idrec_sasrec")],
    "sets": [("freedom", "lightgcn"), ("alignrec", "lightgcn")],
}


def where(sliced: pd.DataFrame, exp: str, other: str) -> str:
    """In which slices which of two experiments is better, in Markdown: by the 95 % interval and p, corrected (Holm) for the number of slices."""
    if sliced.empty:
        return f"{exp} and {other} are not both finished on this data set."
    parts = sliced.drop(index="all", errors="ignore")
    sure = dict(zip(parts.index, holm(parts["p"]), strict=True))
    better = {exp: [], other: []}
    for name, row in parts.iterrows():
        if sure[name] < 0.05 and row["low"] * row["high"] > 0:
            says = f"{name} ({row['mean']:+.3f} [{row['low']:+.3f}, {row['high']:+.3f}], n = {int(row['n']):,})"
            better[exp if row["mean"] > 0 else other].append(says)
    lines = [
        f"**{name}** is better where: {'; '.join(found)}." if found else f"**{name}** is nowhere shown to be better."
        for name, found in better.items()
    ]
    rest = [name for name in parts.index if sure[name] >= 0.05 or parts.loc[name, "low"] * parts.loc[name, "high"] <= 0]
    return " ".join(lines) + (f" No difference is shown in: {'; '.join(rest)}." if rest else "")

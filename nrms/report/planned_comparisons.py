"""Which of our questions do the runs answer, and how? Planned comparisons of two experiments each -> differences, sentences.

A question is answered by its headlines, which were chosen before anybody looked: at most three, their p-values corrected together (Holm), one that is
not finished counted as if it had shown nothing, so that who looks early gains nothing. All other comparisons are explored: they have no verdict.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields

import numpy as np
import pandas as pd

from nrms.evaluation.statistics import FEWEST_SEEDS, Comparison, holm
from nrms.report import research_questions as questions
from nrms.report.experiments import System, comparable, compare, compare_slices, protocol_of
from nrms.report.format import bracketed, p_value


def questions_of(dataset: str, systems: Sequence[System] | None = None) -> questions.Planned:
    """What is asked of a data set, by the protocol of its runs. systems: all of the data set, if read already."""
    name = protocol_of(dataset, systems).name
    return questions.QUESTIONS[name] | questions.ASKED_TOO[name]


@dataclass(frozen=True)
class Difference:
    """One comparison: main metric of `exp` minus that of `other`, with the numbers of `Comparison` in evaluation/statistics.py."""

    dataset: str
    question: str
    exp: str
    other: str
    about: str
    label: str  # of the metric
    mean: float
    low: float
    high: float
    p: float
    detectable: float
    seeds: int  # the fewest of those that learn; 0 where neither does
    n: int
    by_seed: tuple[float, ...]  # the difference of each seed that both have; empty against a baseline
    corrected: float  # p among the headlines of the question; NaN where it is none
    verdict: str  # see `decide`
    minutes: dict[str, float]  # of training, by experiment, until both have FEWEST_SEEDS seeds; those that have are left out

    @property
    def headline(self) -> bool:
        return self.verdict != EXPLORED

    def __str__(self) -> str:
        text = f"{self.exp} against {self.other} ({self.about}): {self.label} {self.mean:+.3f} ({self.low:+.3f} to {self.high:+.3f}, "
        text += f"p {p_value(self.p)}" + (f", {p_value(self.corrected)} among the headlines): " if self.verdict in DECIDED else "): ")
        text += {
            "more": "better",
            "less": "worse",
            "unclear": f"no difference shown; one of {self.detectable:.3f} would have been, in four of five trials",
            OPEN: f"no verdict under {FEWEST_SEEDS} seeds: another training may turn it round",
            EXPLORED: "explored" if self.seeds == 0 or self.seeds >= FEWEST_SEEDS else "explored, of these trainings alone",
        }[self.verdict]
        same = sum(np.sign(s) == np.sign(self.mean) for s in self.by_seed)
        return text + (f"; same sign in {same} of {len(self.by_seed)} seeds" if len(self.by_seed) > 1 else "; one seed" if self.by_seed else "")


DECIDED, OPEN, EXPLORED = ("more", "less", "unclear"), "open", "explored"  # verdicts
COLUMNS = [f.name for f in fields(Difference)]


def finished(dataset: str, systems: Sequence[System] | None = None) -> dict[str, System]:
    """Systems that are `comparable` by name, an ensemble by its members too (`a + b`), `best baseline` among them.

    Where a name has several (other values), that with the most seeds.
    """
    group = sorted(comparable(dataset, systems), key=lambda s: len(s.seeds))
    by_name = {s.exp: s for s in group} | {" + ".join(s.members): s for s in group if s.members}
    baselines = [s for s in group if s.kind == "baseline"]
    if baselines:
        by_name[questions.BASELINE] = max(baselines, key=lambda s: s.main.mean())
    return by_name


def by_seed(a: System, b: System) -> tuple[float, ...]:
    """Difference in the mean of the main metric for each seed that both systems have; a baseline has no seeds of its own."""
    if "baseline" in (a.kind, b.kind):
        return ()
    first, second = a.main_of_seed(), b.main_of_seed()
    return tuple(first[seed] - second[seed] for seed in sorted(first.keys() & second.keys()))


def differences(dataset: str, systems: Sequence[System] | None = None) -> list[Difference]:
    """All planned comparisons of which both sides are finished, in the order of the questions.

    systems: all of the data set, if read already.
    """
    by_name, label, lines = finished(dataset, systems), protocol_of(dataset, systems).label, []
    for question, planned in questions_of(dataset, systems).items():
        comparisons = [compare(by_name[a], by_name[b]) if {a, b} <= by_name.keys() else None for a, b, _ in planned]
        decisions = decide(comparisons[: questions.HEADLINES]) + [(np.nan, EXPLORED)] * (len(planned) - questions.HEADLINES)
        for (exp, other, about), c, (corrected, verdict) in zip(planned, comparisons, decisions, strict=True):
            if c:
                a, b = by_name[exp], by_name[other]
                facts = {"by_seed": by_seed(a, b), "corrected": corrected, "verdict": verdict, "minutes": minutes_to_go(a) | minutes_to_go(b)}
                lines.append(Difference(dataset, question, a.exp, b.exp, about, label, **asdict(c), **facts))
    return lines


def decide(headlines: Sequence[Comparison | None]) -> list[tuple[float, str]]:
    """(p corrected for their number, verdict) of the headlines of one question; None is one that is not finished.

    Verdicts: more, less or unclear, at a corrected p of 0.05; open where there are too few seeds. What is open or not finished counts with p = 1.
    """
    corrected = holm([np.nan_to_num(c.p, nan=1.0) if c and c.is_of_methods else 1.0 for c in headlines])
    return [
        (p, OPEN if c is None or not c.is_of_methods else "unclear" if not p < 0.05 else "more" if c.mean > 0 else "less")
        for c, p in zip(headlines, corrected, strict=True)
    ]


def minutes_to_go(system: System) -> dict[str, float]:
    """{experiment: minutes of training} of one that learns and has too few seeds for a verdict; an ensemble is not trained itself."""
    lacking = FEWEST_SEEDS - len(system.seeds)
    return {system.exp: lacking * np.nan_to_num(system.mean("minutes"))} if system.learns and not system.members and lacking > 0 else {}


def answer(question: str, comparisons: Sequence[Difference]) -> str:
    """A question with its answer in Markdown: a first sentence that follows from its headlines, then each comparison."""
    of_question = [d for d in comparisons if d.question == question]
    if not of_question:
        planned = (questions.NEWS | questions.CATALOGUE | questions.SETS)[question]
        pairs = "; ".join(f"{exp} and {other}" for exp, other, _ in planned[: questions.HEADLINES])
        return f"**{question}** Not answered yet on this data set: run both of one of these: {pairs}."
    lines = "\n".join(f"- {d}" for d in of_question)
    return f"**{question}** {summary(question, of_question)}\n\n{lines}"


def answers(comparisons: Sequence[Difference], protocol: str) -> str:
    """All questions to data that are judged so, each with its `answer`, and those to others that these comparisons answer."""
    asked = dict.fromkeys([*questions.QUESTIONS[protocol], *(d.question for d in comparisons)])
    return "\n\n".join(answer(question, comparisons) for question in asked)


def summary(question: str, comparisons: Sequence[Difference]) -> str:
    """One sentence that follows from the verdicts of a question's headlines."""
    main = [d for d in comparisons if d.headline]
    if not main:
        return "No headline of this question is finished; what was explored has no verdict."
    names: dict[str, list[str]] = {"more": [], "less": [], "unclear": [], OPEN: []}
    for d in main:
        names[d.verdict].append(f"{named(d, main)} {d.mean:+.3f}")
    parts = []
    if len(names[OPEN]) < len(main):
        better = f" ({', '.join(names['more'])})" if names["more"] else ""
        statement = questions.COUNTED.get(question, questions.FIRST_IS_BETTER)
        parts.append(f"{len(names['more'])} of {len(main) - len(names[OPEN])} {statement}{better}")
    parts += [f"worse: {', '.join(names['less'])}"] if names["less"] else []
    parts += [f"no difference shown: {', '.join(names['unclear'])}"] if names["unclear"] else []
    if names[OPEN]:
        command = way_to_an_answer([d for d in main if d.verdict == OPEN])
        parts.append(f"no verdict under {FEWEST_SEEDS} seeds, these trainings alone: {', '.join(names[OPEN])}; {command}")
    text = "; ".join(parts)
    return f"{text[0].upper()}{text[1:]}."


def way_to_an_answer(lacking: Sequence[Difference]) -> str:
    """The command that trains what these comparisons lack, and how many minutes it takes."""
    minutes = {}
    for d in lacking:
        minutes |= d.minutes
    seeds = " ".join(map(str, range(FEWEST_SEEDS)))
    command = f"python -m nrms run {' '.join(minutes)} --dataset {lacking[0].dataset} --seeds {seeds}"
    total = max(1, round(sum(minutes.values())))
    return f"`{command}` gives one, in about {total} minute{'s' if total > 1 else ''} of training"


def named(d: Difference, among: Sequence[Difference]) -> str:
    """The experiment of a comparison, and what it is held against where it stands in several."""
    return d.exp if sum(other.exp == d.exp for other in among) == 1 else f"{d.exp} against {d.other}"


def table(comparisons: Sequence[Difference]) -> pd.DataFrame:
    """The comparisons as a table."""
    lines = [
        {
            "comparison": f"{d.exp} against {d.other}",
            "what differs": d.about,
            f"{d.label} difference": bracketed(d.mean, d.low, d.high, "+"),
            "p": p_value(d.p),
            "among the headlines": p_value(d.corrected) if d.verdict in DECIDED else d.verdict,
            "detectable": f"{d.detectable:.3f}",
            "by seed": " ".join(f"{s:+.3f}" for s in d.by_seed),
            "n": f"{d.n:,}",
        }
        for d in comparisons
    ]
    return pd.DataFrame(lines).set_index("comparison") if lines else pd.DataFrame()


def by_slice(dataset: str, exp: str, other: str) -> pd.DataFrame:
    """Differences of the main metric of two finished experiments in every slice that both have: the numbers of `Comparison`.

    Empty where one of them is not finished.
    """
    by_name = finished(dataset)
    if not {exp, other} <= by_name.keys():
        return pd.DataFrame()
    rows = {name: asdict(pairs[0, 1]) for name, pairs in compare_slices([by_name[exp], by_name[other]]).items()}
    return pd.DataFrame(rows).T.query("n > 1").astype({"n": int, "seeds": int})


def table_of(comparisons: Sequence[Difference]) -> pd.DataFrame:
    """The comparisons as comparisons.csv has them; `from_table` reads them back."""
    return pd.DataFrame([asdict(d) | {"by_seed": json.dumps(d.by_seed), "minutes": json.dumps(d.minutes)} for d in comparisons], columns=COLUMNS)


def from_table(table: pd.DataFrame) -> list[Difference]:
    lines = table.to_dict("records")
    return [Difference(**line | {"by_seed": tuple(json.loads(line["by_seed"])), "minutes": json.loads(line["minutes"])}) for line in lines]


SLICED = {  # whose difference is shown by slice
    "impressions": [("exp3_gate", "exp4")],
    "catalogue": [("morec_ts_sasrec", "idrec_sasrec"), ("morec_e2e_sasrec", "idrec_sasrec"), ("missrec", "idrec_sasrec")],
    "sets": [("freedom", "lightgcn"), ("alignrec", "lightgcn")],
}


def where(sliced: pd.DataFrame, exp: str, other: str) -> str:
    """In which slices the difference of two experiments is largest each way, in Markdown; without a verdict, for slices are explored."""
    if sliced.empty:
        return f"{exp} and {other} are not both finished on this data set."
    parts = sliced.drop(index="all", errors="ignore")
    if parts.empty:
        return f"**{exp}** and **{other}** have no slice in common."

    def of(name: str) -> str:
        row = parts.loc[name]
        return f"{name} ({bracketed(row['mean'], row['low'], row['high'], '+')}, n = {row['n']:,.0f})"

    text = f"**{exp}** minus **{other}** is largest in: {of(parts['mean'].idxmax())}; smallest in: {of(parts['mean'].idxmin())}."
    return text + (" These intervals are of these trainings alone." if 0 < parts["seeds"].min() < FEWEST_SEEDS else "")

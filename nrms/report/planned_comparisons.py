"""Which of our questions do the runs answer, and how? Planned comparisons of two experiments each -> differences, sentences.

Every comparison is paired by impression, seeds averaged first; all p-values of a data set are corrected together (Holm).
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields

import numpy as np
import pandas as pd

from nrms.evaluation.statistics import compare, compare_each, holm
from nrms.report import experiments
from nrms.report import research_questions as questions
from nrms.report.experiments import System, align, comparable, protocol_of
from nrms.report.format import bracketed, p_value


def questions_of(dataset: str, systems: Sequence[System] | None = None) -> questions.Planned:
    """What is asked of a data set, by the protocol of its runs. systems: all of the data set, if read already."""
    name = protocol_of(dataset, systems).name
    return questions.QUESTIONS[name] | questions.ASKED_TOO[name]


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
        verdict = {"more": "better", "less": "worse", "unclear": "no difference that the test part can show"}[self.verdict]
        text = f"{self.exp} against {self.other} ({self.about}): {self.label} {self.mean:+.3f} "
        text += f"({self.low:+.3f} to {self.high:+.3f}, p {p_value(self.p)}): {verdict}"
        same = sum(np.sign(s) == np.sign(self.mean) for s in self.seeds)
        return text + (f"; same sign in {same} of {len(self.seeds)} seeds" if len(self.seeds) > 1 else "; one seed" if self.seeds else "")


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
    """All planned comparisons of which both sides are finished, in the order of the questions, with p corrected for their number.

    systems: all of the data set, if read already.
    """
    by_name, label, pairs = finished(dataset, systems), protocol_of(dataset, systems).label, []
    for question, planned in questions_of(dataset, systems).items():
        pairs += [(question, by_name[exp], by_name[other], about) for exp, other, about in planned if {exp, other} <= by_name.keys()]
    results = compare_each([align(a, b) for _, a, b, _ in pairs])
    corrected = holm([r["p"] for r in results])
    return [
        Difference(question, a.exp, b.exp, about, r["mean"], r["low"], r["high"], p, r["n"], by_seed(a, b), label)
        for (question, a, b, about), r, p in zip(pairs, results, corrected, strict=True)
    ]


def answer(question: str, comparisons: Sequence[Difference]) -> str:
    """A question with its answer in Markdown: a first sentence that follows from the comparisons, then each of them."""
    of_question = [d for d in comparisons if d.question == question]
    if not of_question:
        planned = (questions.NEWS | questions.CATALOGUE | questions.SETS)[question]
        pairs = "; ".join(f"{exp} and {other}" for exp, other, _ in planned[:3])
        return f"**{question}** Not answered yet on this data set: run both of one of these: {pairs}."
    lines = "\n".join(f"- {d}" for d in of_question)
    return f"**{question}** {summary(question, of_question)}\n\n{lines}"


def answers(comparisons: Sequence[Difference], protocol: str) -> str:
    """All questions to data that are judged so, each with its `answer`, and those to others that these comparisons answer."""
    asked = dict.fromkeys([*questions.QUESTIONS[protocol], *(d.question for d in comparisons)])
    return "\n\n".join(answer(question, comparisons) for question in asked)


def summary(question: str, comparisons: Sequence[Difference]) -> str:
    """One sentence that follows from the verdicts of a question's main comparisons."""
    if question == questions.FROZEN:
        return summary_of_frozen([d for d in comparisons if d.other in ("random", "popularity", "recency", "content")])
    if question == questions.TUNING:
        pairs = {("exp4", "text_frozen"), ("exp3", "exp2"), ("exp3_gate", "exp2_gate")}
        main = [d for d in comparisons if (d.exp, d.other) in pairs] or comparisons
        return f"{count(main, 'tuned encoders are better than the same ones frozen')}."
    if question == questions.IMAGES:
        return summary_of_images(comparisons)
    main = [d for d in comparisons if d.exp != "idrec_sasrec"] or comparisons
    unclear = [named(d, main) for d in main if d.verdict == "unclear"]
    return count(main, questions.COUNTED.get(question, questions.FIRST_IS_BETTER)) + (
        f"; no difference shown: {', '.join(unclear)}." if unclear else "."
    )


def summary_of_frozen(main: Sequence[Difference]) -> str:
    """main: frozen encoders against the best baseline."""
    if not main:
        return "The frozen encoders were compared with each other only."
    best, better = max(main, key=lambda d: d.mean), sum(d.verdict == "more" for d in main)
    if better:
        return f"Yes: {better} of {len(main)} frozen encoders beat the best baseline, {best.other}; {best.exp} by most, {best.mean:+.3f}."
    return f"Not shown: none of {len(main)} frozen encoders beats the best baseline, {best.other}; {best.exp} comes nearest, {best.mean:+.3f}."


def summary_of_images(comparisons: Sequence[Difference]) -> str:
    """What pictures add to the same text alone, and whether it is what they show."""
    main = [d for d in comparisons if d.other == "exp4" and d.exp != "shuffled_images"] or comparisons
    text = f"{count(main, 'ways of adding pictures are better than the same text alone')}."
    helped = any(d.verdict == "more" for d in main)
    of_control = {
        "more": " But pictures that changed places help too, so part of it is not what the pictures show.",
        "unclear": " Pictures that changed places are not seen to help, so it is what they show that counts." if helped else "",
        "less": " Pictures that changed places do harm.",
    }
    controls = [d for d in comparisons if d.exp == "shuffled_images"]
    return text + (of_control[controls[0].verdict] if controls else "")


def count(main: Sequence[Difference], statement: str) -> str:
    """`2 of 3 <statement> (a +0.01, b +0.02); worse: c -0.01`."""
    names = {"more": [], "less": [], "unclear": []}
    for d in main:
        names[d.verdict].append(f"{named(d, main)} {d.mean:+.3f}")
    better = f" ({', '.join(names['more'])})" if names["more"] else ""
    worse = f"; worse: {', '.join(names['less'])}" if names["less"] else ""
    return f"{len(names['more'])} of {len(main)} {statement}{better}{worse}"


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
            "by seed": " ".join(f"{s:+.3f}" for s in d.seeds),
            "n": f"{d.n:,}",
        }
        for d in comparisons
    ]
    return pd.DataFrame(lines).set_index("comparison") if lines else pd.DataFrame()


def by_slice(dataset: str, exp: str, other: str) -> pd.DataFrame:
    """Paired differences of the main metric of two finished experiments in every slice that both have: mean, low, high, p (not corrected), n.

    Empty where one of them is not finished.
    """
    by_name = finished(dataset)
    if not {exp, other} <= by_name.keys():
        return pd.DataFrame()
    values, of_other = experiments.by_slice([by_name[exp], by_name[other]]), experiments.by_slice([by_name[other]])
    rows = {name: compare(*both.T) for name, both in values.items() if name in of_other}
    return pd.DataFrame(rows).T.query("n > 1").astype({"n": int})


def table_of(comparisons: Sequence[Difference], dataset: str) -> pd.DataFrame:
    """The comparisons of a data set as comparisons.csv has them; `from_table` reads them back."""
    lines = [{"dataset": dataset} | asdict(d) | {"seeds": " ".join(f"{s:.6g}" for s in d.seeds)} for d in comparisons]
    return pd.DataFrame(lines, columns=["dataset", *(f.name for f in fields(Difference))])


def from_table(table: pd.DataFrame) -> list[Difference]:
    lines = table.drop(columns="dataset").fillna({"seeds": ""}).to_dict("records")
    return [Difference(**line | {"seeds": tuple(map(float, str(line["seeds"]).split()))}) for line in lines]


SLICED = {  # whose difference is shown by slice
    "impressions": [("exp3_gate", "exp4")],
    "catalogue": [("morec_ts_sasrec", "idrec_sasrec"), ("morec_e2e_sasrec", "idrec_sasrec"), ("missrec", "idrec_sasrec")],
    "sets": [("freedom", "lightgcn"), ("alignrec", "lightgcn")],
}


def where(sliced: pd.DataFrame, exp: str, other: str) -> str:
    """In which slices which of two experiments is better, in Markdown: by the 95 % interval and p, corrected (Holm) for the number of slices."""
    if sliced.empty:
        return f"{exp} and {other} are not both finished on this data set."
    parts = sliced.drop(index="all", errors="ignore")
    better, unclear = {exp: [], other: []}, []
    for (name, row), p in zip(parts.iterrows(), holm(parts["p"]), strict=True):
        if p < 0.05 and row["low"] * row["high"] > 0:
            difference = bracketed(row["mean"], row["low"], row["high"], "+")
            better[exp if row["mean"] > 0 else other].append(f"{name} ({difference}, n = {row['n']:,.0f})")
        else:
            unclear.append(name)
    sentences = [
        f"**{name}** is better where: {'; '.join(slices)}." if slices else f"**{name}** is nowhere shown to be better."
        for name, slices in better.items()
    ]
    return " ".join(sentences) + (f" No difference is shown in: {'; '.join(unclear)}." if unclear else "")

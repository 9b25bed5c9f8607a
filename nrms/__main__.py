"""What can be done at the command line? `python -m nrms COMMAND`: a thin face; everything it does can be called from Python."""

import argparse
import contextlib
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

try:
    from nrms import NrmsError
    from nrms.config.arguments import VALUES, values
    from nrms.config.params_files import check_test_settings, load_dataset, resolve
    from nrms.runtime.terminal import command, printable
except ModuleNotFoundError as error:
    sys.exit(f"nrms: {error.name} is not installed: `pip install -r requirements.txt`, in the environment of {sys.executable}.")

DEMO = (1, 2, 3, 4)
Option = tuple[tuple[str, ...], dict[str, Any]]
parser = argparse.ArgumentParser(prog="python -m nrms", description=__doc__)
commands = parser.add_subparsers(required=True, metavar="COMMAND")


def option(*names: str, **settings: Any) -> Option:
    """An argument of a command, as argparse's add_argument takes it."""
    return names, settings


def subcommand(*options: Option | list[Option]) -> Callable[[Callable], Callable]:
    """Makes a command of a function, with its docstring for help. A list of options: exactly one of them is to be given."""

    def register(function: Callable[[argparse.Namespace], int | None]) -> Callable:
        about = function.__doc__.strip()
        own = commands.add_parser(function.__name__, help=about.splitlines()[0], description=about)
        own.set_defaults(function=function)
        for each in options:
            group = own.add_mutually_exclusive_group(required=True) if isinstance(each, list) else own
            for names, settings in each if isinstance(each, list) else [each]:
                group.add_argument(*names, **settings)
        return function

    return register


def show_data_report(manifest: dict) -> None:
    from nrms.data.sources.rows import counts_of

    for file in manifest["files"]:
        print(f"{file['file']}: {file['rows_in']:,} rows in, {file['rows_out']:,} out")
        for kind, reason, count in counts_of(file):
            print(f"    {kind}: {count:,} {reason}")
    if manifest.get("unread"):
        print(f"not read: {', '.join(manifest['unread'])}")


def show_pictures(facts: dict) -> None:
    from nrms.data.images import SUFFIXES

    if facts["matched"]:
        total, lost = sum(facts["matched"].values()), facts["matched"]["nothing"]
        how = ", ".join(f"{n:,} by {key}" for key, n in facts["matched"].items() if key != "nothing" and n)
        print(f"ids: {total - lost:,} of {total:,} news matched ({(total - lost) / total:.1%}): {how}")
    bad = "".join(f", {n:,} {reason}" for reason, n in facts["bad"].items())
    print(f"pictures: {facts['found']:,} found, {facts['missing']:,} items without{bad}, {facts['unknown']:,} of no known item")
    if facts["twice"]:
        print(f"pictures: {facts['twice']:,} have the name of another one, which stands before them in the order of paths and is taken")
    if facts["others"]:
        others = ", ".join(f"{n:,} {suffix or 'without a suffix'}" for suffix, n in facts["others"].items())
        print(f"pictures: passed over {others}; read are {', '.join(SUFFIXES)}")
    if facts["unknown"] and not facts["found"]:
        print("pictures: none of them goes by the id of an item; name them after it: <id>.jpg")


@subcommand()
def demo(args: argparse.Namespace) -> int:
    """the main job on the demo world, from nothing to reports/index.html"""
    return run_all(DEMO, "newsroom", [0])


@subcommand(
    option("exps", nargs="+", metavar="EXP", help="4, exp4, or the name of any file in params"),
    option("--dataset", default="newsroom"),
    option("--seeds", type=int, nargs="+", default=[0]),
    option("--ensemble", nargs="+", default=[], metavar="EXP", help="these too, and the mean of what they say, as one more row"),
    option("--on", default="auto", metavar="local:N", help="N tasks side by side on this machine; auto: as many as it has cores for"),
    option("--force", action="store_true", help="also what is done already"),
    VALUES,
)
def run(args: argparse.Namespace) -> int:
    """experiments, executed as notebooks into reports/DATASET/EXP/seedK"""
    return run_all(args.exps, args.dataset, args.seeds, on=args.on, force=args.force, together=args.ensemble, **args.overrides)


def run_all(exps: Sequence[object], dataset: str, seeds: Sequence[int], **options: Any) -> int:
    from nrms import pipeline, report
    from nrms.report import planned_comparisons

    failures = pipeline.run(exps, dataset, seeds, **options)
    print(f"\n{report.comparison(dataset).to_string()}\n")
    if lacking := [d for d in planned_comparisons.differences(dataset) if d.verdict == planned_comparisons.OPEN]:
        print(f"These are trainings, not yet answers about methods: {planned_comparisons.way_to_an_answer(lacking)}.\n")
    return 1 if failures else 0


@subcommand(
    option("dataset", help="name of a file in params/data"),
    option("--mirror", action="append", default=[], metavar="URL", help="an https address to try first; names of files are added to it"),
)
def download(args: argparse.Namespace) -> None:
    """the files of a data set from the sources that params/data/DATASET.yaml names, verified, into data/downloads"""
    data = load_dataset(args.dataset)
    from nrms.data.sources.download import download, short

    if data.download is not None:
        print(f"Licence: {data.download.licence}")
    folder = download(args.dataset, data, mirrors=args.mirror)
    print(f"next: python -m nrms prepare {args.dataset} --from {short(folder)}")


@subcommand(
    option("dataset", help="name of a file in params/data"),
    option("--like", metavar="DATASET", help="make params/data/<dataset>.yaml, for data of your own, with the settings of this one"),
    option("--images", type=Path, help="folder of <news id>.jpg, .png or .webp"),
    option("--cards", action="store_true", help="the pictures are IM-MIND cards: the cover is cut out of each"),
    option("--ids", type=Path, help="names of pictures: a table (news id, name), or a folder or zip with MIND-large's news.tsv"),
    option("--from", dest="source", type=Path, help="MIND folder or zip, or a folder with interactions.tsv and items.tsv"),
    VALUES,
)
def prepare(args: argparse.Namespace) -> None:
    """a MIND folder or zip, a log of interactions with its items, or the demo world, into data/DATASET"""
    data = load_dataset(args.like or args.dataset, **args.overrides)  # before anything heavy is imported
    from nrms import home
    from nrms.data.new_dataset import with_settings_of
    from nrms.data.prepare import prepare
    from nrms.runtime.run_record import data_folder

    with with_settings_of(args.dataset, args.like, **args.overrides):
        check_test_settings(args.dataset, args.overrides)
        data = load_dataset(args.dataset, **args.overrides)
        manifest = prepare(args.dataset, data, args.source, args.images, are_cards=args.cards, ids=args.ids)
    show_data_report(manifest)
    if "interactions" in manifest:
        short = manifest["short"]
        print(f"{manifest['users']:,} users, {manifest['interactions']:,} interactions, {manifest['news']:,} items", end="; ")
        print(f"left out for `min_length`: {short['users']:,} users, {short['interactions']:,} interactions")
    if "images" in manifest:
        show_pictures(manifest["images"])
    print(f"wrote {data_folder(args.dataset).relative_to(home())}")
    from nrms.report.experiments import read_systems

    if stale := sum(len(s.runs) for s in read_systems(args.dataset) if s.status == "stale" and s.kind == "model"):
        print(f"{stale} finished runs were on what was there before: `python -m nrms doctor` says how they are made anew")


@subcommand(
    option("exp", metavar="EXP", help="the experiment they were trained for"),
    option("--checkpoint", type=Path, required=True, help="a best.safetensors"),
    option("--dataset", default="newsroom"),
    option("--seed", type=int, default=0, help="names the run folder"),
    VALUES,
)
def evaluate(args: argparse.Namespace) -> None:
    """weights that were trained elsewhere, on the test part of a data set"""
    config = resolve(args.exp, args.dataset, args.seed, checkpoint=str(args.checkpoint), **args.overrides)
    from nrms import report
    from nrms.evaluate import evaluate, evaluate_references
    from nrms.report.pages import index_page

    run = evaluate(config)
    evaluate_references(config)
    index_page.write()
    print(f"{report.comparison(config.dataset, run).to_string()}\n\n{report.answer(run).replace('**', '')}")


@subcommand(
    option("exps", nargs="+", metavar="EXP", help="experiments whose runs are there"),
    option("--dataset", required=True),
    option("--seeds", type=int, nargs="+", default=[0]),
    option("--name", help="of the run folder; else ensemble- and the first experiment"),
    VALUES,
)
def ensemble(args: argparse.Namespace) -> None:
    """the mean of what runs say that are trained already"""
    configs = [[resolve(exp, args.dataset, seed, **args.overrides) for exp in args.exps] for seed in args.seeds]
    from nrms import report
    from nrms.evaluation.ensemble import ensemble
    from nrms.report.pages import index_page

    for members in configs:
        ensemble(members, args.name)
    index_page.write()
    print(report.comparison(args.dataset).to_string())


@subcommand(
    option("--run", required=True, help="a run's folder, or its name: exp3/seed0, or exp3 for its only seed, else seed 0"),
    option("--dataset", required=True),
    option("--part", choices=("test", "dev"), default="test"),
    option("--from", dest="source", type=Path, help="folder or zip of the part, or of a whole MIND; else what was downloaded"),
    option("--images", type=Path, help="folder of <news id>.jpg, .png or .webp of the part's own news"),
)
def submit(args: argparse.Namespace) -> None:
    """prediction.zip for MIND's leaderboard: every impression of its test part, or of dev, ranked by a trained run"""
    load_dataset(args.dataset)
    from nrms.evaluation.leaderboard_file import submit
    from nrms.models.load import find_run

    path, counts = submit(find_run(args.run, args.dataset), args.part, args.source, args.images)
    for what, n in counts.items():
        print(f"{n:,} {what}")
    print(f"wrote {path}, checked: every impression once, its ranks a permutation")


@subcommand(
    option("--run", required=True, metavar="RUN", help="exp3, exp3/seed0, or the folder of a run"),
    option("--dataset", default="newsroom"),
    [
        option("--user", help="a user of the test part, as their latest impression there finds them"),
        option("--history", nargs="*", metavar="ITEM", help="ids of items that somebody clicked, oldest first; none: a newcomer"),
    ],
    option("-k", type=int, default=10, help="items of the list"),
    option("--shown", action="store_true", help="rank what the user was shown, not the whole catalogue"),
)
def recommend(args: argparse.Namespace) -> None:
    """what a finished run recommends to one reader, and why"""
    from nrms.models.load import find_run
    from nrms.serve.one_user import describe, open_run

    served = open_run(find_run(args.run, args.dataset))
    reader = served.reader(args.history, args.user)
    if args.shown and not len(reader.slate):
        raise NrmsError("`--shown` ranks what a user's latest impression showed: give `--user`, and a data set of impressions.")
    print(describe(served, served.rank(reader, args.k, reader.slate if args.shown else None)))


@subcommand(
    option("dataset", help="name of a file in params/data"),
    option("--run", nargs="+", action="extend", default=[], metavar="EXP", help="finished runs whose item vectors are probed too"),
    option("--vectors", nargs="+", action="extend", default=[], type=Path, metavar="FILE", help=".npy files, one row for each item of items.tsv"),
)
def probe(args: argparse.Namespace) -> None:
    """what vectors of items know before training: those that came, of encoders, of runs, in files; a page"""
    load_dataset(args.dataset)
    from nrms.evaluation.probe_vectors import probe_all
    from nrms.report.pages import index_page, probe_page

    own, common, sets = probe_all(args.dataset, args.run, args.vectors)
    paths = probe_page.write(args.dataset, own, common, sets)
    index_page.write()  # which links to it
    print(printable("\n".join([probe_page.formatted(own).to_string(), *sets.absent, *(f"wrote {path}" for path in paths)])))


@subcommand(
    option("--dataset", default="newsroom-large", help="a demo world"),
    option("--repeats", type=int, default=5),
    option("--layers", type=int, default=6, help="of the BERT, of random weights, whose training steps are timed"),
    option("--width", type=int, default=384, help="its width; 12 layers of 768 are BERT-base"),
    option("--batches", type=int, nargs="+", default=[16, 64, 128], help="clicks in a step"),
    option("--copies", type=int, nargs="+", default=[1, 4], help="sizes of logs to read, in data sets; 14 of newsroom-large are MIND-large"),
    option("--catalogue", type=int, nargs=2, default=[10_000, 150_000], metavar=("USERS", "ITEMS"), help="a catalogue to rank"),
)
def bench(args: argparse.Namespace) -> None:
    """the same work done the plain way and ours, timed in one run; into reports/benchmark"""
    from nrms import bench
    from nrms.bench import benchmark

    sizes = {"sizes": tuple(args.batches), "copies": tuple(args.copies), "catalogue": tuple(args.catalogue)}
    results = bench.run(args.dataset, repeats=args.repeats, layers=args.layers, width=args.width, **sizes)
    print(bench.summary(results).round(1).to_string())
    print(bench.costs(results).to_string())
    print(f"wrote {benchmark.path()}")
    with contextlib.suppress(ImportError):  # on a bare machine there is no papermill, and results.json is all there is
        from nrms import pipeline

        pipeline.execute("benchmark", benchmark.path().parent, {"dataset": args.dataset}, "benchmark: page")
        print(f"wrote {benchmark.path().parent / 'benchmark.html'}")


@subcommand()
def report(args: argparse.Namespace) -> None:
    """rebuilds reports/leaderboard.csv and reports/index.html"""
    from nrms import home
    from nrms.report.pages import index_page

    for path in index_page.write(anew=True):
        print(f"wrote {path.relative_to(home())}")


@subcommand(
    option("dataset", help="whose runs are there"),
    option("--to", type=Path, required=True, metavar="FOLDER", help="is made anew; what else it may hold is refused"),
    option("--no-pages", action="store_true", help="index.html alone: the other pages quote titles, pictures and lines of the data"),
    option("--readme", type=Path, nargs="+", default=[], help="files between whose marks the table is written"),
)
def publish(args: argparse.Namespace) -> None:
    """finished results as a folder to be passed on: no data set, no weights, no scores

    Pages quote some titles, pictures and lines of the data: --no-pages leaves them out where these may not be passed on.
    """
    from nrms.report.publish import publish, put_results

    folder = publish(args.dataset, args.to, pages=not args.no_pages)
    for readme in args.readme:
        put_results(readme, folder)
    print(f"wrote {folder}")


@subcommand()
def doctor(args: argparse.Namespace) -> int:
    """checks the installation, the data and the runs, and says what to do about what is wrong"""
    from nrms import doctor

    return doctor.main()


def main(arguments: list[str] | None = None) -> int:
    args = parser.parse_args(arguments)
    args.overrides = values(args)
    return args.function(args) or 0


if __name__ == "__main__":
    command(main)

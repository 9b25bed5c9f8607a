"""The command line: `python -m nrms COMMAND`. A thin face; everything it does can be called from Python.

demo                                   the main job on the demo world, from nothing to reports/index.html
download DATASET                       the files of a data set from the sources that params/data/DATASET.yaml names, verified, into data/downloads
prepare DATASET [--like D] [--from F] [--images G [--cards] [--ids T]]
                                       a MIND folder or zip, a log of interactions with its items (or the demo world), with pictures or IM-MIND
                                       cards, into data/DATASET
run EXP... --dataset D --seeds 0 1     experiments, executed as notebooks into reports/D/EXP/seedK
evaluate EXP --checkpoint F --dataset D  weights that were trained elsewhere, on the test part of D
    [--ensemble EXP...]                these too, and, as one more row, the mean of what they say
ensemble EXP... --dataset D --seeds 0 1  the same mean, of runs that are trained already
submit --run RUN --dataset D [--part P] [--from F] [--images G]
                                       prediction.zip for MIND's leaderboard: every impression of its test part (or of dev) ranked by a trained run
recommend --run RUN --dataset D (--user U | --history N1 N2 ...) [-k 10] [--shown]
                                       what a finished run recommends to one reader, and why
probe DATASET [--run EXP ...] [--vectors FILE.npy ...]
                                       what vectors of items know before training: those that came, of encoders, of runs, in files; a page
bench                                  the same work done the plain way and ours, timed in one run; into reports/benchmark
report                                 rebuilds reports/leaderboard.csv and reports/index.html
publish DATASET --to FOLDER [--no-pages]
                                       its finished results as a folder to be passed on: no data set, no weights, no scores; pages quote some titles,
                                       pictures and lines of the data: --no-pages leaves them out where these may not be passed on
doctor                                 checks the installation, the data and the runs, and says what to do about what is wrong
"""

import argparse
import contextlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

try:
    from nrms import NrmsError
    from nrms.config.arguments import add_values, values
    from nrms.config.params_files import check_test_settings, load_dataset, resolve
    from nrms.runtime.terminal import command, printable
except ModuleNotFoundError as error:
    sys.exit(f"nrms: {error.name} is not installed: `pip install -r requirements.txt`, in the environment of {sys.executable}.")

DEMO = (1, 2, 3, 4)


Commands = argparse._SubParsersAction  # the only name that argparse has for it


def about_data(commands: Commands) -> None:
    commands.add_parser("demo", help="the main job on the demo world")
    fetch = commands.add_parser("download", help="fetch the files of a data set")
    fetch.add_argument("dataset", help="name of a file in params/data")
    fetch.add_argument("--mirror", action="append", default=[], metavar="URL", help="an https address to try first; names of files are added to it")
    prepare = commands.add_parser("prepare", help="make a data set ready")
    prepare.add_argument("dataset", help="name of a file in params/data")
    prepare.add_argument("--like", metavar="DATASET", help="make params/data/<dataset>.yaml, for data of your own, with the settings of this one")
    prepare.add_argument("--images", type=Path, help="folder of <news id>.jpg, .png or .webp")
    prepare.add_argument("--cards", action="store_true", help="the pictures are IM-MIND cards: the cover is cut out of each")
    prepare.add_argument("--ids", type=Path, help="names of pictures: a table (news id, name), or a folder or zip with MIND-large's news.tsv")
    prepare.add_argument("--from", dest="source", type=Path, help="MIND folder or zip, or a folder with interactions.tsv and items.tsv")
    add_values(prepare)


def about_experiments(commands: Commands) -> None:
    run = commands.add_parser("run", help="run experiments")
    run.add_argument("exps", nargs="+", metavar="EXP", help="4, exp4, or the name of any file in params")
    run.add_argument("--dataset", default="newsroom")
    run.add_argument("--seeds", type=int, nargs="+", default=[0])
    run.add_argument("--ensemble", nargs="+", default=[], metavar="EXP", help="these too, and the mean of what they say, as one more row")
    run.add_argument("--on", default="auto", metavar="local:N", help="N tasks side by side on this machine; auto: as many as it has cores for")
    run.add_argument("--force", action="store_true", help="also what is done already")
    judge = commands.add_parser("evaluate", help="evaluate weights that were trained elsewhere")
    judge.add_argument("exp", metavar="EXP", help="the experiment they were trained for")
    judge.add_argument("--checkpoint", type=Path, required=True, help="a best.safetensors")
    judge.add_argument("--dataset", default="newsroom")
    judge.add_argument("--seed", type=int, default=0, help="names the run folder")
    both = commands.add_parser("ensemble", help="the mean of what trained runs say")
    both.add_argument("exps", nargs="+", metavar="EXP", help="experiments whose runs are there")
    both.add_argument("--dataset", required=True)
    both.add_argument("--seeds", type=int, nargs="+", default=[0])
    both.add_argument("--name", help="of the run folder; else ensemble- and the first experiment")
    for parser in (run, judge, both):
        add_values(parser)


def about_what_was_trained(commands: Commands) -> None:
    hand_in = commands.add_parser("submit", help="a file for MIND's leaderboard")
    hand_in.add_argument("--run", required=True, help="a run's folder, or its name: exp3/seed0, or exp3 for its only seed, else seed 0")
    hand_in.add_argument("--dataset", required=True)
    hand_in.add_argument("--part", choices=("test", "dev"), default="test")
    hand_in.add_argument("--from", dest="source", type=Path, help="folder or zip of the part, or of a whole MIND; else what was downloaded")
    hand_in.add_argument("--images", type=Path, help="folder of <news id>.jpg, .png or .webp of the part's own news")
    serve = commands.add_parser("recommend", help="what a finished run recommends to one reader, and why")
    serve.add_argument("--run", required=True, metavar="RUN", help="exp3, exp3/seed0, or the folder of a run")
    serve.add_argument("--dataset", default="newsroom")
    whom = serve.add_mutually_exclusive_group(required=True)
    whom.add_argument("--user", help="a user of the test part, as their latest impression there finds them")
    whom.add_argument("--history", nargs="*", metavar="ITEM", help="ids of items that somebody clicked, oldest first; none: a newcomer")
    serve.add_argument("-k", type=int, default=10, help="items of the list")
    serve.add_argument("--shown", action="store_true", help="rank what the user was shown, not the whole catalogue")
    know = commands.add_parser("probe", help="what vectors of items know before training")
    know.add_argument("dataset", help="name of a file in params/data")
    know.add_argument("--run", nargs="+", action="extend", default=[], metavar="EXP", help="finished runs whose item vectors are probed too")
    know.add_argument(
        "--vectors",
        nargs="+",
        action="extend",
        default=[],
        type=Path,
        metavar="FILE",
        help=".npy files, one row for each item of items.tsv",
    )


def about_the_whole(commands: Commands) -> None:
    bench = commands.add_parser("bench", help="speed against the plain way")
    bench.add_argument("--dataset", default="newsroom-large", help="a demo world")
    bench.add_argument("--repeats", type=int, default=5)
    bench.add_argument("--layers", type=int, default=6, help="of the BERT, of random weights, whose training steps are timed")
    bench.add_argument("--width", type=int, default=384, help="its width; 12 layers of 768 are BERT-base")
    bench.add_argument("--batches", type=int, nargs="+", default=[16, 64, 128], help="clicks in a step")
    bench.add_argument(
        "--copies", type=int, nargs="+", default=[1, 4], help="sizes of logs to read, in data sets; 14 of newsroom-large are MIND-large"
    )
    bench.add_argument("--catalogue", type=int, nargs=2, default=[10_000, 150_000], metavar=("USERS", "ITEMS"), help="a catalogue to rank")
    commands.add_parser("report", help="rebuild all tables and pages")
    publish = commands.add_parser("publish", help="results as a folder to be passed on")
    publish.add_argument("dataset", help="whose runs are there")
    publish.add_argument("--to", type=Path, required=True, metavar="FOLDER", help="is made anew; what else it may hold is refused")
    publish.add_argument("--no-pages", action="store_true", help="index.html alone: the other pages quote titles, pictures and lines of the data")
    publish.add_argument("--readme", type=Path, nargs="+", default=[], help="files between whose marks the table is written")
    commands.add_parser("doctor", help="check the installation, the data and the runs")


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m nrms", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for add in (about_data, about_experiments, about_what_was_trained, about_the_whole):
        add(commands)
    return parser.parse_args(arguments)


def show_data_report(manifest: dict) -> None:
    from nrms.data.sources.rows import counts_of

    for file in manifest["files"]:
        print(f"{file['file']}: {file['rows_in']:,} rows in, {file['rows_out']:,} out")
        for kind, reason, count in counts_of(file):
            print(f"    {kind}: {count:,} {reason}")


def show_pictures(found: dict) -> None:
    if found["matched"]:
        total, lost = sum(found["matched"].values()), found["matched"]["nothing"]
        how = ", ".join(f"{n:,} by {key}" for key, n in found["matched"].items() if key != "nothing" and n)
        print(f"ids: {total - lost:,} of {total:,} news matched ({(total - lost) / total:.1%}): {how}")
    bad = "".join(f", {n:,} {reason}" for reason, n in found["bad"].items())
    print(f"pictures: {found['found']:,} found, {found['missing']:,} items without{bad}, {found['unknown']:,} of no known item")
    if found["unknown"] and not found["found"]:
        print("pictures: none of them goes by the id of an item; name them after it: <id>.jpg, .png or .webp")


Given = dict[str, Any]  # values given with -p


def demo(args: argparse.Namespace, given: Given) -> int:
    return run_all(DEMO, "newsroom", [0])


def run(args: argparse.Namespace, given: Given) -> int:
    return run_all(args.exps, args.dataset, args.seeds, on=args.on, force=args.force, together=args.ensemble, **given)


def run_all(exps: Sequence[object], dataset: str, seeds: Sequence[int], **options: Any) -> int:
    from nrms import pipeline, report

    failures = pipeline.run(exps, dataset, seeds, **options)
    print(f"\n{report.comparison(dataset).to_string()}\n")
    return 1 if failures else 0


def download(args: argparse.Namespace, given: Given) -> None:
    data = load_dataset(args.dataset)
    from nrms.data.sources.download import download, short

    if data.download is not None:
        print(f"Licence: {data.download.licence}")
    folder = download(args.dataset, data, mirrors=args.mirror)
    print(f"next: python -m nrms prepare {args.dataset} --from {short(folder)}")


def prepare(args: argparse.Namespace, given: Given) -> None:
    data = load_dataset(args.like or args.dataset, **given)  # before anything heavy is imported
    from nrms import home
    from nrms.data.new_dataset import with_settings_of
    from nrms.data.prepare import prepare
    from nrms.runtime.run_record import data_folder

    with with_settings_of(args.dataset, args.like, **given):
        check_test_settings(args.dataset, given)
        data = load_dataset(args.dataset, **given)
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


def evaluate(args: argparse.Namespace, given: Given) -> None:
    config = resolve(args.exp, args.dataset, args.seed, checkpoint=str(args.checkpoint), **given)
    from nrms import report
    from nrms.evaluate import evaluate, evaluate_references
    from nrms.report.pages import index_page

    run = evaluate(config)
    evaluate_references(config)
    index_page.write()
    print(f"{report.comparison(config.dataset, run).to_string()}\n\n{report.answer(run).replace('**', '')}")


def ensemble(args: argparse.Namespace, given: Given) -> None:
    configs = [[resolve(exp, args.dataset, seed, **given) for exp in args.exps] for seed in args.seeds]
    from nrms import report
    from nrms.evaluation.ensemble import ensemble
    from nrms.report.pages import index_page

    for members in configs:
        ensemble(members, args.name)
    index_page.write()
    print(report.comparison(args.dataset).to_string())


def submit(args: argparse.Namespace, given: Given) -> None:
    load_dataset(args.dataset)
    from nrms.evaluation.leaderboard_file import submit
    from nrms.models.load import find_run

    path, counts = submit(find_run(args.run, args.dataset), args.part, args.source, args.images)
    for what, n in counts.items():
        print(f"{n:,} {what}")
    print(f"wrote {path}, checked: every impression once, its ranks a permutation")


def recommend(args: argparse.Namespace, given: Given) -> None:
    from nrms.models.load import find_run
    from nrms.serve.one_user import describe, open_run

    served = open_run(find_run(args.run, args.dataset))
    reader = served.reader(args.history, args.user)
    if args.shown and not len(reader.slate):
        raise NrmsError("`--shown` ranks what a user's latest impression showed: give `--user`, and a data set of impressions.")
    print(describe(served, served.rank(reader, args.k, reader.slate if args.shown else None)))


def probe(args: argparse.Namespace, given: Given) -> None:
    load_dataset(args.dataset)
    from nrms.evaluation.probe_vectors import probe_all
    from nrms.report.pages import index_page, probe_page

    own, common, sets = probe_all(args.dataset, args.run, args.vectors)
    paths = probe_page.write(args.dataset, own, common, sets)
    index_page.write()  # which links to it
    print(printable("\n".join([probe_page.formatted(own).to_string(), *sets.absent, *(f"wrote {path}" for path in paths)])))


def bench(args: argparse.Namespace, given: Given) -> None:
    from nrms import bench
    from nrms.bench import benchmark

    sizes = {
        "layers": args.layers,
        "width": args.width,
        "sizes": tuple(args.batches),
        "copies": tuple(args.copies),
        "catalogue": tuple(args.catalogue),
    }
    results = bench.run(args.dataset, repeats=args.repeats, **sizes)
    print(bench.summary(results).round(1).to_string())
    print(bench.costs(results).to_string())
    print(f"wrote {benchmark.path()}")
    with contextlib.suppress(ImportError):  # on a bare machine there is no papermill, and results.json is all there is
        from nrms import pipeline

        pipeline.execute("benchmark", benchmark.path().parent, {"dataset": args.dataset}, "benchmark: page")
        print(f"wrote {benchmark.path().parent / 'benchmark.html'}")


def report(args: argparse.Namespace, given: Given) -> None:
    from nrms import home
    from nrms.report.pages import index_page

    for path in index_page.write(anew=True):
        print(f"wrote {path.relative_to(home())}")


def publish(args: argparse.Namespace, given: Given) -> None:
    from nrms.report.publish import publish, put_results

    folder = publish(args.dataset, args.to, pages=not args.no_pages)
    for readme in args.readme:
        put_results(readme, folder)
    print(f"wrote {folder}")


def doctor(args: argparse.Namespace, given: Given) -> int:
    from nrms import doctor

    return doctor.main()


COMMANDS = {f.__name__: f for f in (demo, download, prepare, run, evaluate, ensemble, recommend, submit, probe, bench, report, publish, doctor)}


def main(arguments: list[str] | None = None) -> int:
    args = parse(arguments)
    return COMMANDS[args.command](args, values(args)) or 0


if __name__ == "__main__":
    command(main)

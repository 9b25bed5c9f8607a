"""A file for the leaderboard: every impression once, in order, every candidate with a rank; and whatever is wrong with such a file is found."""

import json
import shutil
import zipfile

import numpy as np
import pyarrow as pa
import pytest
import torch
from conftest import copy
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from sklearn.metrics import ndcg_score, roc_auc_score

from nrms import NrmsError
from nrms.__main__ import main
from nrms.config import resolve
from nrms.data.sources.rows import Member
from nrms.data.tables import Items
from nrms.evaluate import evaluate
from nrms.evaluation.leaderboard_file import Expected, check, check_can, ranks_of, submit
from nrms.evaluation.ranking import encode_items
from nrms.models.build import build
from nrms.models.load import find_run, load_run
from nrms.runtime.files import read_json
from nrms.train import train

NAME = "newsroom-tiny"


@pytest.fixture(scope="module")
def workshop(tiny, tmp_path_factory):
    """A home with the tiny world and a run of exp2_gate, trained for an epoch and judged: frozen titles and pictures."""
    home = tmp_path_factory.mktemp("submit")
    build(resolve("exp2_gate", NAME, device="cpu"), tiny)  # small models are pre-trained once for all tests
    copy(tiny.folder, home / "data" / NAME)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NRMS_HOME", str(home))
        config = resolve("exp2_gate", NAME, device="cpu", epochs=1, name="gate")
        train(config)
        evaluate(config)
    return home


@pytest.fixture
def home(workshop, monkeypatch):
    monkeypatch.setenv("NRMS_HOME", str(workshop))
    return workshop


@pytest.fixture
def run(home):
    return find_run("gate", NAME)


def write_part(folder, rows, news):
    """A test part of these rows (history, candidates) and news (id, title); returns its path."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = [f"{7 + i}\tU{i}\t11/19/2019 1:44:52 AM\t{history}\t{shown}" for i, (history, shown) in enumerate(rows)]
    (folder / "behaviors.tsv").write_text("\n".join(lines) + "\n")
    (folder / "news.tsv").write_text("".join(f"{name}\tnews\tworld\t{title}\t\thttp://x\t[]\t[]\n" for name, title in news))
    return folder


def strip_labels(home, target):
    """The demo world's dev part as a test part: without labels."""
    shutil.copytree(home / "data" / NAME / "raw" / "dev", target)
    lines = (target / "behaviors.tsv").read_text()
    (target / "behaviors.tsv").write_text(lines.replace("-0", "").replace("-1", ""))
    return target


def read(path):
    """[(id, ranks)] of a prediction.txt, or of the one in a zip."""
    text = zipfile.ZipFile(path).read("prediction.txt").decode() if path.suffix == ".zip" else path.read_text()
    return [(line.split(" ")[0], json.loads(line.split(" ")[1])) for line in text.splitlines()]


def test_ranks_by_hand():
    """1 is the best; of equal scores the first in the file comes first; rows are ranked by themselves."""
    scores = np.array([0.1, 0.9, 0.5, 3.0, 3.0, -np.inf, 4.0])
    assert ranks_of(scores, np.array([0, 3, 7])).tolist() == [3, 1, 2, 2, 3, 4, 1]


def test_old_news_and_new_news(run, home, tmp_path):
    """Unlabelled lines, news of the part's own: the file is what scoring one candidate at a time says, to the byte."""
    _, tables, model = load_run(run)
    model.requires_grad_(False)
    news, vectors = tables.items, encode_items(model)
    bare = int(np.flatnonzero(~tables.pixels.present)[5])  # a twin of it has the same title, and no picture either
    rows = [([1, 2, 3], [4, bare, 9, 4]), ([], [10, 11]), ([bare, 5], [6]), (list(range(20, 90)), [7, 8, bare, 30])]
    twin = {bare: "NEW1"}
    text = [(" ".join(twin.get(i, news.id[i]) for i in h), " ".join(twin.get(i, news.id[i]) for i in c)) for h, c in rows]
    part = write_part(tmp_path / "MINDx_test", text, [("NEW1", news.title[bare]), *((news.id[i], news.title[i]) for i in range(1, 5))])
    path, counts = submit(run, "test", part)
    expected = ""
    for i, (history, candidates) in enumerate(rows):
        past = torch.tensor([history[-50:] or [0]])
        states = model.users(vectors[past], past > 0)
        scores = [float(model.users.score(model.users.at_end(states, past > 0), vectors[[c]][None])[0, 0]) for c in candidates]
        order = sorted(range(len(candidates)), key=lambda k: -scores[k])  # stable
        expected += f"{7 + i} [{','.join(str(order.index(k) + 1) for k in range(len(candidates)))}]\n"
    assert (path.parent / "prediction.txt").read_text() == expected
    assert counts["news that the data set does not have"] == 1 and counts["candidates"] == 11


def test_the_zip_holds_one_member(run, home, tmp_path):
    """prediction.zip holds prediction.txt at its top, nothing else, the same bytes."""
    path, _ = submit(run, "test", strip_labels(home, tmp_path / "test"))
    with zipfile.ZipFile(path) as file:
        assert file.namelist() == ["prediction.txt"] and file.read("prediction.txt") == (path.parent / "prediction.txt").read_bytes()


def test_the_official_numbers_are_ours(run, home):
    """What the official evaluator makes of the dev part's file, plainly written down, is what metrics.json says."""
    path, counts = submit(run, "dev")
    labels = [line.split("\t")[4].split() for line in (home / "data" / NAME / "raw" / "dev" / "behaviors.tsv").read_text().splitlines()]
    rows = []
    for (_, ranks), shown in zip(read(path), labels, strict=True):
        truth, score = [word.endswith("-1") for word in shown], 1 / np.array(ranks)
        if any(truth) and not all(truth):
            mrr = np.mean([1 / r for r, clicked in zip(ranks, truth, strict=True) if clicked])
            rows.append([roc_auc_score(truth, score), mrr, *(ndcg_score([truth], [score], k=k) for k in (5, 10))])
    ours = read_json(run.folder / "metrics.json")["all"]
    assert len(rows) == ours["auc"]["n"] and counts["impressions"] == len(labels)
    np.testing.assert_allclose(np.mean(rows, 0), [ours[name]["mean"] for name in ("auc", "mrr", "ndcg5", "ndcg10")], atol=1e-6)


def test_labels_are_not_looked_at(run, home, tmp_path):
    """The same part with and without labels gives the same file; so does one that is read in several blocks."""
    path, _ = submit(run, "dev")
    labelled = read(path)
    path, _ = submit(run, "test", strip_labels(home, tmp_path / "test"))
    assert read(path) == labelled


def test_blocks_change_nothing(run, home, tmp_path, monkeypatch):
    """A part that is read in many blocks gives the same file."""
    part = strip_labels(home, tmp_path / "test")
    path, _ = submit(run, "test", part)
    before = read(path)
    monkeypatch.setattr("nrms.data.sources.rows.BLOCK", 9_000)
    path, _ = submit(run, "test", part)
    assert read(path) == before


def test_an_unknown_candidate_is_ranked_last(run, home, tmp_path):
    """Candidates that no news.tsv has get the worst ranks, in the order of the file, and are counted; an unknown click is left out."""
    rows = [("N1 N77777", "X1 N2 N3 X2"), ("N1", "N2 N3")]
    part = write_part(tmp_path / "test", rows, [("N1", "a")])
    path, counts = submit(run, "test", part)
    (_, ranks), (_, known) = read(path)
    assert ranks[0] == 3 and ranks[3] == 4 and ranks[1:3] == known
    assert counts["unknown candidates, ranked last"] == 2
    assert counts["impressions with unknown clicks in the history, left out there"] == 1


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("9\tU1\t11/9/2019 1:44:52 AM\tN1", "line 2, not as many columns"),
        ("9\tU1\t11/9/2019 1:44:52 AM\tN1\t ", "line 2, no candidates"),
        ("9\tU1\t2019-11-09\tN1\tN2 N3", "line 2, a time"),
        ("7\tU1\t11/9/2019 1:44:52 AM\tN1\tN2 N3", "line 2, an id that an earlier row has"),
        ("8 8\tU1\t11/9/2019 1:44:52 AM\tN1\tN2 N3", "id '8 8'"),
    ],
)
def test_a_line_that_is_not_sound_is_an_error(line, words, run, home, tmp_path):
    """No line may be left out: the first that is not sound is named with its file, and nothing is written."""
    part = write_part(tmp_path / "test", [("N1", "N2 N3")], [("N1", "a")])
    shutil.rmtree(run.folder / "submit-test", ignore_errors=True)
    with (part / "behaviors.tsv").open("a") as file:
        file.write(line + "\n")
    with pytest.raises(NrmsError, match=words) as error:
        submit(run, "test", part)
    assert "behaviors.tsv" in str(error.value) and not list((run.folder / "submit-test").glob("prediction*"))


def more_of(tables, rows):
    """News behind those of `tables` that are twins of these rows, pictures and all."""
    news = Items(*(np.array([f"T{i}" for i in rows], object) if name == "id" else column[rows] for name, column in vars(tables.items).items()))
    pixels = type(tables.pixels)(np.array(tables.pixels.values[rows]), tables.pixels.present[rows])
    return tables.with_items(news, pixels)


@pytest.mark.parametrize(
    ("exp", "values"),
    [("exp1", {}), ("exp2", {}), ("exp2_gate", {}), ("exp3_side", {}), ("exp4", {"tuning": "top", "tuned_layers": 1}), ("exp3_gate", {})],
)
def test_more_news_leave_the_others_alone(exp, values, tiny):
    """However items are encoded, news behind the data set's own change no vector of theirs, and a twin of an old news has its vector."""
    config = resolve(exp, NAME, device="cpu", **values)
    tables, rows = tiny, np.arange(40, 70)
    torch.manual_seed(0)
    model, other = build(config, tables), build(config, more_of(tables, rows))
    other.load_state_dict(model.state_dict())
    before, after = encode_items(model), encode_items(other)
    torch.testing.assert_close(after[: len(before)], before, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(after[len(before) :], before[rows], rtol=1e-4, atol=1e-4)


def test_pictures_of_new_news(run, home, tmp_path):
    """A new news whose picture is given ranks otherwise than one without."""
    _, tables, _ = load_run(run)
    old = np.flatnonzero(tables.pixels.present)[:6]
    rows = [(" ".join(tables.items.id[1:9]), " ".join(f"NEW{i}" for i in old))]
    part = write_part(tmp_path / "test", rows, [(f"NEW{i}", "the same title") for i in old])
    _, counts = submit(run, "test", part)
    assert counts["pictures of them"] == 0
    assert read(run.folder / "submit-test" / "prediction.zip")[0][1] == [1, 2, 3, 4, 5, 6]  # they are all the same
    (tmp_path / "pictures").mkdir()
    for i in old:
        Image.fromarray(np.array(tables.pixels.values[i])).save(tmp_path / "pictures" / f"NEW{i}.png")
    path, counts = submit(run, "test", part, tmp_path / "pictures")
    assert counts["pictures of them"] == 6 and read(path)[0][1] != [1, 2, 3, 4, 5, 6]


def test_nothing_is_left_beside_the_data(run, home, tmp_path):
    """Pictures and features of a part's news are kept in the run's folder while they are needed; nothing new stands in the data set's. What a
    killed one left is cleared away."""
    data, left = home / "data" / NAME, run.folder / "submit-test" / "new"
    files = set(data.rglob("*"))
    part = write_part(tmp_path / "test", [("N1", "N2 NEW1")], [("NEW1", "a title")])
    (tmp_path / "pictures").mkdir()
    Image.new("RGB", (9, 9)).save(tmp_path / "pictures" / "NEW1.png")
    left.mkdir(parents=True, exist_ok=True)
    (left / "images.npy").touch()
    path, counts = submit(run, "test", part, tmp_path / "pictures")
    assert counts["pictures of them"] == 1 and set(data.rglob("*")) == files
    assert sorted(file.name for file in path.parent.iterdir() if not file.name.startswith(".")) == ["prediction.txt", "prediction.zip"]


def test_a_part_without_impressions_is_an_error(run, home, tmp_path):
    """An empty behaviors.tsv is no part to predict."""
    part = write_part(tmp_path / "test", [], [("N1", "a")])
    with pytest.raises(NrmsError, match="has no impressions"):
        submit(run, "test", part)


GOOD = [("7", [2, 1, 3]), ("8", [1]), ("9", [1, 2]), ("10", [4, 3, 2, 1])]
SPOILT = {
    "doubled": (lambda rows: [*rows[:2], rows[1], *rows[2:]], "line 3, is of the impression 8, which has line 2 already"),
    "missing": (lambda rows: [rows[0], *rows[2:]], "line 2, is of the impression 9: 8 is missing"),
    "cut off": (lambda rows: rows[:3], "ends after line 3: the impression 10"),
    "swapped": (lambda rows: [rows[0], rows[2], rows[1], rows[3]], "line 2, is of the impression 9: 8 is missing"),
    "unknown": (lambda rows: [rows[0], ("80", [1]), *rows[2:]], "line 2, is of the impression 80, which is not in the part"),
    "one too many": (lambda rows: [*rows, ("11", [1])], "line 5, is of the impression 11, which is not in the part"),
    "the first again": (lambda rows: [*rows, rows[0]], "line 5, is of the impression 7, which has line 1 already"),
    "rank doubled": (lambda rows: [("7", [2, 1, 2]), *rows[1:]], "line 1, gives the same rank twice"),
    "rank 0": (lambda rows: [("7", [2, 0, 1]), *rows[1:]], "line 1, has a rank that is none of 1 to 3"),
    "rank too high": (lambda rows: [*rows[:3], ("10", [1, 2, 3, 5])], "line 4, has a rank that is none of 1 to 4"),
    "too short": (lambda rows: [*rows[:2], ("9", [1]), rows[3]], "line 3, has 1 ranks for 2 candidates"),
    "too long": (lambda rows: [*rows[:2], ("9", [1, 2, 3]), rows[3]], "line 3, has 3 ranks for 2 candidates"),
    "spaces": (lambda rows: ["7 [2, 1, 3]", *rows[1:]], "line 1, is no line of the form"),
    "nothing": (lambda rows: [*rows[:1], "8 []", *rows[2:]], "line 2, is no line of the form"),
    "scores": (lambda rows: ["7 [0.2,0.1,0.3]", *rows[1:]], "line 1, is no line of the form"),
    "empty": (lambda rows: [], "ends after line 0: the impression 7"),
}


def judge(path, rows, block=1 << 20):
    """Checks a file of these rows against what GOOD has."""
    path.write_text("".join((row if isinstance(row, str) else f"{row[0]} {json.dumps(row[1]).replace(' ', '')}") + "\n" for row in rows))
    check(Member(path.name, lambda: path.open("rb")), Expected(pa.array([i for i, _ in GOOD]), np.array([len(r) for _, r in GOOD])))


@pytest.mark.parametrize("block", [8, 1 << 20])
@pytest.mark.parametrize("fault", SPOILT)
def test_a_spoilt_file_is_found(fault, block, tmp_path, monkeypatch):
    """Each fault is named with its line, however the file is cut into blocks; the sound file passes."""
    monkeypatch.setattr("nrms.data.sources.rows.BLOCK", block)
    judge(tmp_path / "prediction.txt", GOOD)
    spoil, words = SPOILT[fault]
    with pytest.raises(NrmsError) as error:
        judge(tmp_path / "prediction.txt", spoil(list(GOOD)))
    assert words in str(error.value)


@given(st.permutations(range(1, 7)), st.integers(0, 5), st.integers(0, 9))
def test_one_wrong_rank_is_found(tmp_path_factory, ranks, place, value):
    """Any permutation passes; with one of its numbers replaced by another it does not."""
    path = tmp_path_factory.mktemp("one") / "prediction.txt"
    spoilt = [*ranks[:place], value, *ranks[place + 1 :]]
    path.write_text(f"1 [{','.join(map(str, spoilt))}]\n")

    def look():
        check(Member("p", lambda: path.open("rb")), Expected(pa.array(["1"]), np.array([6])))

    if spoilt == list(ranks):
        look()
    else:
        with pytest.raises(NrmsError):
            look()


def test_a_run_on_a_log_is_refused(movies, board):
    """Ids of items and users who are nodes say nothing of other news: a sentence says so."""
    for exp in ("idrec_sasrec", "lightgcn"):
        config, _ = movies(exp, epochs=1, name=f"refused-{exp.split('_')[0]}")
        train(config)
        evaluate(config)
        with pytest.raises(NrmsError, match="a log of interactions: MIND's leaderboard ranks"):
            submit(find_run(config.name, "movies"), "test", board[0])


def test_a_control_is_refused(run, home):
    """Pictures that changed places, vectors that are weights of the data set's own news: other news have none."""
    config, _, _ = load_run(run)
    for values, words in (({"shuffle_images": True}, "control"), ({"features_learn": True}, "are weights")):
        with pytest.raises(NrmsError, match=words):
            check_can(run, config.model_copy(update=values))


def test_the_command_line(home, run, tmp_path, capsys):
    """`python -m nrms submit` says what it read and where the file is; where there is no test part it says what to give."""
    main(["submit", "--run", "gate", "--dataset", NAME, "--part", "dev"])
    assert "300 impressions" in capsys.readouterr().out
    with pytest.raises(NrmsError, match="no part `test`.*Parts there: train, dev"):
        main(["submit", "--run", "gate", "--dataset", NAME])
    with pytest.raises(NrmsError, match="MINDlarge_test.zip"):
        main(["submit", "--run", "gate", "--dataset", NAME, "--from", str(tmp_path / "nothing")])

"""Downloads against a server that stalls, breaks off, lies and redirects: whole and verified, or not there at all, and then it is said why."""

import fcntl
import hashlib
import io
import re
import shutil
import threading
import time
import zipfile
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from nrms import NrmsError
from nrms.__main__ import main
from nrms.config import load_dataset, resolve
from nrms.config.parameters import Archive, Dataset, Download
from nrms.data import images
from nrms.data.prepare import preparation_digest, prepare
from nrms.data.sources import download as download_file
from nrms.data.sources.download import BrokenOff, Failed, download, fetch

NEWS = "".join(f"N{i}\tsports\ttennis\tTitle {i}\tText\thttp://x\t[]\t[]\n" for i in (1, 2, 3))
ROWS = {"train": 3, "dev": 2}
SHORT = {"timeout": 0.4, "wait": 0.01, "attempts": 3}


def packed(part, rows=None, stored=False):
    """A zip of MIND's form, as whoever hosts it might have packed it."""
    lines = "".join(f"{i}\tU{i}\t11/{9 if part == 'train' else 15}/2019 1:44:52 AM\tN1\tN2-1 N3-0\n" for i in range(rows or ROWS[part]))
    with zipfile.ZipFile(file := io.BytesIO(), "w", zipfile.ZIP_STORED if stored else zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(f"MIND_{part}/news.tsv", NEWS)
        archive.writestr(f"MIND_{part}/behaviors.tsv", lines)
        archive.writestr(f"MIND_{part}/entity_embedding.vec", "0.1\t" * 100)
    return file.getvalue()


BODIES = {f"MIND_{part}.zip": packed(part) for part in ROWS}


class Server(ThreadingHTTPServer):
    """Serves BODIES; what stands before the file's name says how: /ranges/, /stall/, /half/, ..."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.host = f"127.0.0.1:{self.server_port}"
        self.asked, self.tag, self.go_on = [], '"1"', threading.Event()

    def url(self, how):
        return f"http://{self.host}/{how}/"


class Handler(BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def answer(self, status, body=b"", length=None, **headers):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        if length is not False:
            self.send_header("Content-Length", str(len(body) if length is None else length))
        self.end_headers()
        self.wfile.write(body)
        self.wfile.flush()

    def do_GET(self):
        server, (how, name) = self.server, self.path.strip("/").split("/")
        wants = self.headers.get("Range")
        server.asked.append((how, wants, self.headers.get("If-Range")))
        again = sum(asked[0] == how for asked in server.asked) > 1
        body = BODIES[name]
        if how == "missing":
            self.answer(404)
        elif how == "moody":
            self.answer(200, body) if again else self.answer(503)
        elif how == "stall":
            self.answer(200, body[:100], len(body))
            server.go_on.wait(5)
        elif how == "drip":
            self.answer(200, b"", len(body))
            for byte in body:
                self.wfile.write(bytes([byte]))
                if server.go_on.wait(0.05):
                    break
        elif how == "half" and not wants:
            self.answer(200, body[:200], len(body), ETag=server.tag)
        elif how == "half" and self.headers.get("If-Range") in (None, server.tag):
            begin = int(re.fullmatch(r"bytes=(\d+)-", wants)[1])
            self.answer(206, body[begin:], Content_Range=f"bytes {begin}-{len(body) - 1}/{len(body)}", ETag=server.tag)
        elif how == "gone" and wants:
            self.answer(416, Content_Range="bytes */7")
        elif how == "whole" and wants:
            self.answer(416, Content_Range=f"bytes */{len(body)}")
        elif how == "astray" and wants:
            self.answer(206, body[5:], Content_Range=f"bytes 5-{len(body) - 1}/{len(body)}")
        elif how == "longer":
            self.answer(200, body, len(body) + 50)
        elif how == "shorter":
            self.answer(200, body[: len(body) - 50])
        elif how == "endless":
            self.answer(200, length=False)
            while not server.go_on.is_set():
                try:
                    self.wfile.write(bytes(1 << 16))
                except OSError:
                    break
        elif how == "wrong":
            self.answer(200, packed("train", rows=9))
        elif how == "page":
            self.answer(200, b"<html>Please log in</html>")
        elif how == "redirect":
            self.answer(302, Location=f"{server.url('good')}{name}")
        elif how == "down":  # the same machine under a name that may not be spoken to without encryption
            self.answer(302, Location=f"http://localhost:{server.server_port}/good/{name}")
        elif how == "file":
            self.answer(302, Location="file:///etc/passwd")
        elif how == "loop":
            self.answer(302, Location=f"{server.url('loop')}{name}")
        else:  # good; and half, whose file has changed
            self.answer(200, body, Last_Modified=formatdate(0, usegmt=True))
        self.close_connection = True


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    with Server() as running:
        threading.Thread(target=running.serve_forever, args=(0.01,), daemon=True).start()
        yield running
        running.go_on.set()
        running.shutdown()


def dataset(server, *hows, rows=True, sha256=()):
    """A data set whose sources are these ways of the server."""
    counts = {part: {"news.tsv": 3, "behaviors.tsv": n} if rows else {} for part, n in ROWS.items()}
    files = {f"MIND_{part}.zip": Archive(sha256=list(sha256), rows=counts[part]) for part in ROWS}
    licence = Download(
        licence="for research only", by_hand="Ask at https://example.org.\nOr a friend.", sources=[*map(server.url, hows)], files=files
    )
    return Dataset(source="mind", max_bad=1.0, download=licence)


def run(server, *hows, say=lambda line: None, mirrors=(), options=SHORT, **facts):
    return download("mind-small", dataset(server, *hows, **facts), plain={server.host}, say=say, mirrors=mirrors, **options)


def begin(folder, url, data, tag=""):
    """What an earlier call would have left of a download."""
    folder.mkdir(parents=True, exist_ok=True)
    part = folder / f".{url.rsplit('/', 1)[-1]}.{hashlib.sha256(url.encode()).hexdigest()[:8]}.part"
    part.write_bytes(data)
    part.with_suffix(".tag").write_text(tag)
    return part


def visible(folder):
    return sorted(p.name for p in folder.iterdir() if p.name[0] != ".")


def test_what_was_downloaded_is_prepared(server, home, capsys):
    """Both zips arrive byte for byte under data/downloads, nothing is left beside them, and `prepare --from` takes that folder."""
    folder = run(server, "good")
    assert folder == home / "data" / "downloads" / "mind-small" and sorted(p.name for p in folder.iterdir()) == sorted(BODIES)
    assert all((folder / name).read_bytes() == body for name, body in BODIES.items())
    parts = prepare("mind-small", dataset(server), folder)["parts"]
    assert {part: facts["impressions"] for part, facts in parts.items()} == ROWS


def test_what_is_there_is_not_fetched_again(server, home):
    """A second call asks no server; a zip that was put there by hand is as good, and a wrong one is named and left alone."""
    folder, asked = run(server, "good"), len(server.asked)
    (folder / "MIND_dev.zip").write_bytes(packed("dev", stored=True))
    run(server, "good")
    assert len(server.asked) == asked
    (folder / "MIND_dev.zip").write_bytes(b"half")
    with pytest.raises(NrmsError, match="is there, but is not the file"):
        run(server, "good")
    assert (folder / "MIND_dev.zip").read_bytes() == b"half"


@pytest.mark.parametrize("bad", ["missing", "stall", "longer", "shorter", "wrong", "page", "down", "file", "loop", "endless"])
def test_a_bad_source_gives_way_to_the_next(bad, server, home):
    """Whatever is wrong with the first source, the second one's file is what arrives."""
    folder = run(server, bad, "good", options=SHORT | {"max_bytes": 1 << 20, "attempts": 2})
    assert all((folder / name).read_bytes() == body for name, body in BODIES.items())


@pytest.mark.parametrize(
    "bad, says, requests",
    [
        ("missing", "the server says 404", 1),
        ("stall", "timed out", 3),
        ("longer", "broke off at", 3),
        ("shorter", "not a complete zip", 1),
        ("wrong", "behaviors.tsv has 9 rows, not", 1),
        ("page", "not a complete zip", 1),
        ("down", "is no https address", 1),
        ("file", "file:///etc/passwd", 1),
        ("loop", "redirect", None),
        ("endless", "more than the 1,048,576 bytes", 1),
    ],
)
def test_a_source_that_fails_is_said(bad, says, requests, server, home):
    """The reason stands in the instructions; nothing has the file's name; only what may pass is tried again."""
    with pytest.raises(NrmsError) as error:
        run(server, bad, options=SHORT | {"max_bytes": 1 << 20})
    tried = re.findall(rf"- http\S+/{bad}/\S+: (.*)", str(error.value))
    assert len(tried) == 2 and all(says in line for line in tried)
    assert visible(home / "data" / "downloads" / "mind-small") == []
    if requests:
        assert len(server.asked) == requests * len(BODIES)


def test_a_file_that_is_declared_too_large_is_not_fetched(server, tmp_path):
    """A length above the limit is refused before the first byte is written."""
    part = tmp_path / "part"
    with pytest.raises(Failed, match="more than the 10 that are allowed"):
        fetch(server.url("good") + "MIND_train.zip", part, plain={server.host}, max_bytes=10)
    assert not part.exists()


def test_a_disk_without_room_is_said(server, tmp_path, monkeypatch):
    """It is said before it is full."""
    monkeypatch.setattr(download_file.shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10, 10, 0))
    with pytest.raises(NrmsError, match="disk without room"):
        fetch(server.url("good") + "MIND_train.zip", tmp_path / "part", plain={server.host})


def test_what_broke_off_is_resumed(server, home):
    """The second request asks for the rest alone, of the same file by its tag, and the two halves are the file."""
    folder = run(server, "half")
    assert [wants for _, wants, _ in server.asked] == [None, "bytes=200-"] * 2 and server.asked[1][2] == '"1"'
    assert all((folder / name).read_bytes() == body for name, body in BODIES.items())


def test_a_later_call_goes_on(server, home):
    """What one call left behind the next one uses."""
    with pytest.raises(NrmsError, match="What was tried"):
        run(server, "half", options=SHORT | {"attempts": 1})
    del server.asked[:]
    run(server, "half", options=SHORT | {"attempts": 1})
    assert [wants for _, wants, _ in server.asked] == ["bytes=200-"] * 2


def test_each_source_goes_on_with_its_own_half(server, home):
    """What one source left behind is not lost when the next one fails too, and nothing remains when the file is there."""
    with pytest.raises(NrmsError):
        run(server, "half", "longer", options=SHORT | {"attempts": 1})
    folder = run(server, "half", options=SHORT | {"attempts": 1})
    assert [wants for how, wants, _ in server.asked if how == "half"] == [None, None, "bytes=200-", "bytes=200-"]
    assert sorted(p.name for p in folder.iterdir()) == sorted(BODIES)


def test_a_file_that_changed_meanwhile_is_fetched_anew(server, home):
    """If the tag is another, the server sends the whole file, and nothing of the old half remains."""
    with pytest.raises(NrmsError):
        run(server, "half", options=SHORT | {"attempts": 1})
    server.tag = '"2"'
    folder = run(server, "half", options=SHORT | {"attempts": 1})
    assert all((folder / name).read_bytes() == body for name, body in BODIES.items())


@pytest.mark.parametrize("how", ["good", "gone", "half"], ids=["ignores Range", "416", "without a tag"])
def test_halves_of_two_files_never_become_one(how, server, home):
    """Where a server ignores Range, has less than we have, or cannot tell files apart, the file is fetched from its begin."""
    folder = home / "data" / "downloads" / "mind-small"
    for name in BODIES:
        begin(folder, server.url(how) + name, b"x" * 50)
    run(server, how, options=SHORT | {"attempts": 4})
    assert server.asked[0][1] == "bytes=50-" and all((folder / name).read_bytes() == body for name, body in BODIES.items())


def test_what_arrived_whole_but_was_not_verified_is_not_fetched_again(server, home):
    """Killed between the last byte and the check: one question, no byte."""
    folder = home / "data" / "downloads" / "mind-small"
    for name, body in BODIES.items():
        begin(folder, server.url("whole") + name, body)
    run(server, "whole")
    assert len(server.asked) == 2 and visible(folder) == sorted(BODIES)


def test_a_rest_that_begins_elsewhere_is_refused(server, tmp_path):
    """An answer for other bytes than those asked for is not appended."""
    url = server.url("astray") + "MIND_train.zip"
    part = begin(tmp_path, url, b"x" * 50)
    with pytest.raises(Failed, match="begins at 5"):
        fetch(url, part, plain={server.host})
    assert part.read_bytes() == b"x" * 50


def test_a_stall_ends_after_the_time_out(server, tmp_path):
    """A silent server is left after `timeout` seconds; what had arrived stays."""
    with pytest.raises(BrokenOff, match="timed out"):
        fetch(server.url("stall") + "MIND_train.zip", tmp_path / "part", plain={server.host}, timeout=0.2)
    assert (tmp_path / "part").read_bytes() == BODIES["MIND_train.zip"][:100]


def test_a_trickle_is_as_good_as_silence(server, tmp_path):
    """Twenty bytes a second are left after `timeout` seconds, although each comes in time."""
    began = time.monotonic()
    with pytest.raises(BrokenOff, match="bytes a second"):
        fetch(server.url("drip") + "MIND_train.zip", tmp_path / "part", plain={server.host}, timeout=0.3)
    assert time.monotonic() - began < 5 and (tmp_path / "part").read_bytes() == BODIES["MIND_train.zip"][: (tmp_path / "part").stat().st_size]


def test_a_server_in_trouble_is_asked_again(server, home):
    """503, then the file."""
    assert visible(run(server, "moody")) == sorted(BODIES)


def test_redirects_are_followed(server, home):
    """One that stays on https (or a host we named) leads to the file."""
    assert visible(run(server, "redirect")) == sorted(BODIES)


@pytest.mark.parametrize("address", ["http://example.org/", "ftp://example.org/", "file:///tmp/"])
def test_only_https_is_spoken(address, server, home):
    """Another scheme is refused with the address, before any connection."""
    with pytest.raises(NrmsError, match="is no https address"):
        run(server, mirrors=[address])
    assert not server.asked


def test_a_mirror_comes_first(server, home):
    """--mirror is asked before the sources of the file, with or without its last slash."""
    run(server, "missing", mirrors=[server.url("good").rstrip("/")])
    assert {how for how, *_ in server.asked} == {"good"}


def test_a_known_hash_is_enough(server, home, tmp_path):
    """A hash that is known accepts the file; without rows, no other bytes are accepted."""
    hashes = []
    for name, body in BODIES.items():
        (tmp_path / name).write_bytes(body)
        hashes.append(images.file_digest(tmp_path / name))
    assert visible(run(server, "wrong", "good", rows=False, sha256=hashes)) == sorted(BODIES)
    shutil.rmtree(home / "data")
    with pytest.raises(NrmsError, match="it has another hash"):
        run(server, "good", rows=False, sha256=["0" * 64])


@pytest.mark.parametrize(
    "change, says",
    [
        (lambda text: text, None),
        (lambda text: text.rstrip("\n"), None),
        (lambda text: text + text[:20] + "\n", "do not have 8 columns"),
        (lambda text: text[: len(text) // 2], "do not have 8 columns"),
        (lambda text: text + text, "has 6 rows, not 3"),
    ],
    ids=["whole", "no last line end", "odd row", "cut", "twice"],
)
def test_content_is_counted(change, says, tmp_path):
    """Rows and columns of the tables tell the right file, however it was packed."""
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as file:
        file.writestr("deep/er/news.tsv", change(NEWS))
    fault = download_file.fault_of(tmp_path / "x.zip", Archive(rows={"news.tsv": 3}))
    assert fault is None if says is None else says in fault
    assert "has behaviors.tsv 0 times" in download_file.fault_of(tmp_path / "x.zip", Archive(rows={"behaviors.tsv": 3}))


def test_dead_links_end_in_instructions(server, home, monkeypatch):
    """One page: what was tried, where else, where to put it, which command, under which licence."""
    monkeypatch.chdir(home)
    with pytest.raises(NrmsError) as error:
        run(server, "missing")
    page = str(error.value)
    assert all(word in page for word in ("https://example.org", "Or a friend", "for research only", "--mirror", "params/data/mind-small.yaml"))
    assert "python -m nrms prepare mind-small --from data/downloads/mind-small" in page and len(page.splitlines()) < 20


def test_two_at_once_are_one(server, home):
    """A folder that another process fills is left to it."""
    folder = home / "data" / "downloads" / "mind-small"
    folder.mkdir(parents=True)
    with (folder.parent / f".{folder.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(NrmsError, match="another process"):
            run(server, "good")


def test_the_command_says_what_comes_next(server, home, monkeypatch, capsys):
    """`python -m nrms download mind-small`: the licence, where from, and the line to run."""
    monkeypatch.chdir(home)
    (folder := home / "data" / "downloads" / "mind-small").mkdir(parents=True)
    for name, archive in load_dataset("mind-small").download.files.items():
        (folder / name).write_bytes(b"x")
        assert archive.sha256 and archive.rows
    monkeypatch.setattr(download_file, "fault_of", lambda path, archive: None)
    assert main(["download", "mind-small"]) == 0
    said = capsys.readouterr().out
    assert "Microsoft Research License" in said and said.endswith("next: python -m nrms prepare mind-small --from data/downloads/mind-small\n")
    with pytest.raises(NrmsError, match="is generated; .* names nothing to download"):
        main(["download", "newsroom"])


def test_addresses_change_no_experiment():
    """A mirror more or less is the same run, the same family and the same tables."""
    data = load_dataset("mind-small")
    mine = data.download.model_copy(update={"sources": ["https://example.org/"]})
    config, other = resolve(4, "mind-small"), resolve(4, "mind-small", download=mine)
    assert config.data != other.data and (config.hash, config.family, preparation_digest(config.data)) == (
        other.hash,
        other.family,
        preparation_digest(other.data),
    )


def test_the_sources_of_the_data_sets_are_https():
    """Every address that we give speaks https and ends in a slash; a file's name is no path."""
    for name in ("mind-small", "mind-large"):
        found = load_dataset(name).download
        assert found.sources and all(re.fullmatch(r"https://[\w./-]+/", source) for source in found.sources)
    with pytest.raises(NrmsError, match="download"):
        load_dataset("mind-small", download={"licence": "", "by_hand": "", "files": {"../x.zip": {"rows": {"news.tsv": 1}}}})

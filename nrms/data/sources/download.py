"""How do the files of a data set come here from the internet, whole or not at all?

Sources are tried in order, over https alone. What broke off is resumed, also by a later call. A file gets its name when its content is verified:
by its hash or, as whoever hosts a zip anew changes its bytes, by the rows and columns of the tables inside. Nothing is unpacked.
"""

import contextlib
import glob
import hashlib
import http.client
import os
import re
import shutil
import time
import urllib.request
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from urllib.parse import urlsplit

from nrms import NrmsError
from nrms.config.parameters import Archive, Dataset, Download
from nrms.data.images import file_digest
from nrms.data.sources.mind import FILES
from nrms.data.sources.rows import Member, read_blocks
from nrms.data.sources.zips import entries
from nrms.runtime.files import flush
from nrms.runtime.locks import locked
from nrms.runtime.progress import progress
from nrms.runtime.run_record import data_folder

MAX_BYTES = 2 << 30  # of one file; the largest zip of MIND-large has 0.5 GB
MIN_BYTES_A_SECOND = 1000  # who sends less might as well be silent
PIECE = 1 << 20  # bytes read at once
TRANSIENT = (408, 425, 429)  # and all from 500: the same request may succeed later


class Failed(Exception):
    """This source does not have the file, or not the right one; another may."""


class BrokenOff(Exception):
    """The connection failed; what has arrived stays, and the rest may be asked for."""


def check_address(url: str, plain: Collection[str]) -> None:
    """Raises Failed for anything but https, or http to one of the hosts `plain` (host:port)."""
    parts = urlsplit(url)
    if parts.scheme != "https" and not (parts.scheme == "http" and parts.netloc in plain):
        raise Failed(f"{url} is no https address, and nothing is fetched over another")


class Redirects(urllib.request.HTTPRedirectHandler):
    """Follows a few redirects, none of which may lead away from https."""

    max_redirections = 5

    def __init__(self, plain: Collection[str]):
        self.plain = plain

    def redirect_request(self, request, file, code, message, headers, url):
        check_address(url, self.plain)
        return super().redirect_request(request, file, code, message, headers, url)


@contextlib.contextmanager
def failures() -> Iterator[None]:
    """Turns whatever a connection can end in into Failed or BrokenOff."""
    try:
        yield
    except urllib.error.HTTPError as error:
        error.close()
        if error.code in TRANSIENT or error.code >= 500:
            raise BrokenOff(f"the server says {error.code}") from None
        raise Failed(f"the server says {error.code} {' '.join(str(error.reason).split())}") from None
    except (OSError, http.client.HTTPException) as error:  # URLError and time-outs among them
        raise BrokenOff(str(getattr(error, "reason", error)) or type(error).__name__) from None


def begin_of(response: http.client.HTTPResponse) -> tuple[int, int | None]:
    """Where in the file an answer begins, and how long the whole is, if the server says so."""
    if response.status == 206 and (match := re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", ""))):
        return int(match[1]), None if match[2] == "*" else int(match[2])
    if response.status != 200:
        raise Failed(f"the server answers {response.status} in a way that makes no sense")
    length = response.headers.get("Content-Length", "")
    return 0, int(length) if length.isdecimal() else None


def fetch(url: str, part: Path, *, plain: Collection[str] = (), timeout: float = 30, max_bytes: int = MAX_BYTES) -> None:
    """Adds to `part` what is missing of the file behind `url`, or starts over where the server cannot go on or has another file now.

    plain: hosts (host:port) that may be spoken to without encryption. timeout: seconds to wait for a connection, and for each piece.
    Raises BrokenOff when it ends early, Failed when there is no use in trying again.
    """
    note = part.with_suffix(".tag")  # what the server calls this state of the file
    tag, have = (note.read_text(), part.stat().st_size) if part.exists() and note.exists() else ("", 0)
    headers = {"User-Agent": "nrms"} | ({"Range": f"bytes={have}-"} if have else {}) | ({"If-Range": tag} if have and tag else {})
    opener = urllib.request.build_opener(Redirects(plain))
    check_address(url, plain)
    with contextlib.ExitStack() as stack:
        with failures():
            try:
                response = stack.enter_context(opener.open(urllib.request.Request(url, headers=headers), timeout=timeout))
            except urllib.error.HTTPError as error:
                if not have or error.code != 416:
                    raise
                error.close()
                if error.headers.get("Content-Range") == f"bytes */{have}":  # nothing is missing
                    return
                part.unlink()
                raise BrokenOff("what had arrived is of another file") from None
        begin, total = begin_of(response)
        if begin not in (0, have):
            raise Failed(f"asked to go on at byte {have:,}, the server begins at {begin:,}")
        if (total or 0) > max_bytes:
            raise Failed(f"the file has {total:,} bytes, more than the {max_bytes:,} that are allowed")
        if (total or 0) - begin > shutil.disk_usage(part.parent).free:
            raise NrmsError(f"{part.parent} is on a disk without room for the {total - begin:,} bytes of {url}; make some, and call again.")
        tag = response.headers.get("ETag") or response.headers.get("Last-Modified") or ""
        note.write_text("" if tag.startswith("W/") else tag)  # a weak tag does not tell bytes
        file = stack.enter_context(part.open("ab"))
        file.truncate(begin)
        bar = stack.enter_context(progress(what=urlsplit(url).netloc, unit="B", unit_scale=True, total=total, initial=begin))
        have, mark, since = begin, begin, time.monotonic()
        while have <= max_bytes:
            with failures():
                piece = response.read1(PIECE)
            if not piece:
                break
            have += file.write(piece)
            bar.update(len(piece))
            if (passed := time.monotonic() - since) > timeout:
                if have - mark < MIN_BYTES_A_SECOND * passed:
                    raise BrokenOff(f"fewer than {MIN_BYTES_A_SECOND:,} bytes a second came")
                mark, since = have, time.monotonic()
        if have > max_bytes:
            part.unlink()
            raise Failed(f"the file has more than the {max_bytes:,} bytes that are allowed")
        if total is not None and have < total:
            raise BrokenOff(f"it broke off at {have:,} of {total:,} bytes")


def wrong_rows(member: Member, rows: int) -> str | None:
    """How a table of MIND differs from one with so many rows; None where it does not."""
    columns, count, odd = FILES[member.base], 0, 0
    for lines, _ in read_blocks(member):
        count += len(lines)
        odd += sum(line.count(b"\t") != columns - 1 for line in lines)
    if odd:
        return f"{odd:,} of the {count:,} rows of {member.name} do not have {columns} columns"
    return None if count == rows else f"{member.name} has {count:,} rows, not {rows:,}"


def fault_of(path: Path, archive: Archive) -> str | None:
    """Why a file is not the one that `archive` describes; None where it is."""
    if archive.sha256 and file_digest(path) in archive.sha256:
        return None
    if not archive.rows:
        return "it has another hash"
    try:
        members = entries(path, tuple(archive.rows))
        for base, rows in archive.rows.items():
            tables = [member for member in members if member.base == base]
            if len(tables) != 1:
                return f"it has {base} {len(tables)} times, not once"
            if fault := wrong_rows(tables[0], rows):
                return fault
    except NrmsError as error:
        return str(error)
    return None


def get(url: str, target: Path, archive: Archive, *, attempts: int = 5, wait: float = 1, **options) -> None:
    """Fetches one file from one source, again after 1, 2, 4, ... times `wait` seconds where it broke off. options: of `fetch`. Raises Failed."""
    part = target.with_name(f".{target.name}.{hashlib.sha256(url.encode()).hexdigest()[:8]}.part")  # each source has its own
    resumed = part.exists()
    for attempt in range(attempts):
        if attempt:
            time.sleep(wait * 2 ** (attempt - 1))
        try:
            fetch(url, part, **options)
        except BrokenOff as error:
            reason, resumed = str(error), True
            continue
        if not (fault := fault_of(part, archive)):
            flush(part)
            os.replace(part, target)
            for leftover in target.parent.glob(f".{glob.escape(target.name)}.*"):
                leftover.unlink()
            return
        part.unlink()
        reason = f"it is not the file: {fault}"
        if not resumed:  # two halves may be of two files; one whole comes out wrong again
            break
        resumed = False
    raise Failed(reason)


def short(path: Path) -> Path:
    """A path as one would type it here."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def instructions(name: str, download: Download, folder: Path, tried: Sequence[str]) -> str:
    """What to do when no source has the files."""
    missing = " and ".join(file for file in download.files if not (folder / file).exists())
    steps = [
        "Call again: what has arrived is kept, and the download goes on where it was.",
        *download.by_hand.strip().splitlines(),
        f"Put the zips, as they are, into {short(folder)} (or anywhere), then: python -m nrms prepare {name} --from {short(folder)}",
        f"Another address: --mirror https://.../, or a line under `sources` in params/data/{name}.yaml.",
    ]
    lines = [f"{missing} could not be downloaded. What was tried:", *(f"  - {line}" for line in tried or ["nothing: there are no sources"])]
    return "\n".join([*lines, "What you can do:", *(f"  - {step}" for step in steps), f"Licence: {download.licence}"])


def download(name: str, data: Dataset, *, mirrors: Sequence[str] = (), say: Callable[[str], object] = print, **options) -> Path:
    """Fetches and verifies all files of the data set into data/downloads/<name>, and returns that folder. What is there already is only verified.

    mirrors: addresses that are tried before those of the data set's file. options: of `get` and `fetch`.
    Raises NrmsError, with instructions, when a file is to be had nowhere.
    """
    if data.download is None:
        how = "is generated" if data.source == "newsroom" else "comes from a folder of yours: give it to `prepare --from`"
        raise NrmsError(f"The data set {name} {how}; params/data/{name}.yaml names nothing to download (`download:`).")
    sources = [f"{address.removesuffix('/')}/" for address in (*mirrors, *data.download.sources)]
    folder, tried = data_folder("downloads") / name, []
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder, wait=False):
        for file, archive in data.download.files.items():
            target = folder / file
            if target.exists():
                if fault := fault_of(target, archive):
                    raise NrmsError(f"{target} is there, but is not the file ({fault}): move it away, and call again.")
                say(f"{file}: is there")
                continue
            for source in sources:
                say(f"{file}: from {source}")
                try:
                    get(source + file, target, archive, **options)
                    break
                except Failed as failure:
                    tried.append(f"{source}{file}: {failure}")
                    say(f"    {failure}")
    if not all((folder / file).exists() for file in data.download.files):
        raise NrmsError(instructions(name, data.download, folder, tried))
    return folder

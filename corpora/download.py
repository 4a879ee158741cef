"""Fetch the public corpora from their publishers: locked, resumable, and unpacked with suspicion.

`fetch` gets one file, `extract` unpacks an archive, and each corpus has a function that puts both together into the
folder layout that its preparer reads:

    downloads/baved/...        python -m corpora baved --corpus downloads --out data/baved
"""

from __future__ import annotations

import fcntl
import http.client
import logging
import os
import shutil
import stat
import tarfile
import time
import urllib.error
import urllib.parse
import urllib.request
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from tqdm import tqdm

from corpora.datasets import arabic_speech_commands, baved, everyayah, free_spoken_digits
from corpora.files import atomic_dir, read_json, sha256_file, write_json, write_text

GITHUB = "https://github.com"
TRIES = 4
_BLOCK = 1 << 16
_TIMEOUT = 30  # seconds without a byte
_MAX_UNPACKED = 20 * 2**30  # bytes: far above any of these corpora, far below what fills a disk unnoticed

_log = logging.getLogger(__name__)


class DownloadError(RuntimeError):
    """A file could not be fetched; the message names the address and what to do."""


class ArchiveError(ValueError):
    """An archive holds what no corpus has any business to hold, or is damaged."""


def fetch(url: str, dest: Path, sha256: str | None = None, *, tries: int = TRIES) -> Path:
    """Fetch `url` into the file `dest`, once, however many processes ask at the same time; return `dest`.

    What an interrupted transfer left (`.<name>.part`) is continued where the server allows it and still has the same
    file (by its ETag or date). sha256: expected hash of the content, or None where the publisher names none.
    Raises DownloadError after `tries` attempts, or when the content is not the expected one.
    """
    if urllib.parse.urlsplit(url).scheme not in ("http", "https"):
        raise DownloadError(f"{url}: only http and https addresses are fetched")
    dest.parent.mkdir(parents=True, exist_ok=True)
    with locked(dest):
        if dest.exists():  # whoever held the lock before us has fetched it
            _check_sha256(dest, sha256, url)
            return dest
        part = dest.with_name(f".{dest.name}.part")
        for attempt in range(1, tries + 1):
            try:
                _transfer(url, part)
                break
            except (OSError, http.client.HTTPException) as error:
                if _is_local(error):
                    raise
                if _is_refusal(error) or attempt == tries:
                    raise DownloadError(
                        f"{url}: {error or type(error).__name__}. Check the network, or fetch the file by other means "
                        f"and put it at {dest}"
                    ) from error
                _log.warning("%s: %s; attempt %d of %d", url, error, attempt + 1, tries)
                time.sleep(min(2 ** (attempt - 1), 8) * 0.5)
        try:
            _check_sha256(part, sha256, url)
        except DownloadError:
            part.unlink()
            raise
        os.replace(part, dest)
        _validator_file(part).unlink(missing_ok=True)
    return dest


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold an exclusive lock on `path` among the processes of this machine; released even when we are killed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(_lock_file(path), "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _lock_file(path: Path) -> Path:
    return path.with_name(f".{path.name}.lock")


def extract(archive: Path, dest: Path, *, strip: int = 0, max_bytes: int = _MAX_UNPACKED) -> None:
    """Unpack a tar or zip archive into the empty or new folder `dest`, leaving out the first `strip` folders of names.

    Only plain files and folders are written, without special permissions. Raises ArchiveError, before anything
    reaches the disk, for absolute names, names with "..", devices, links that lead out of `dest`, and more than
    `max_bytes`; links that stay inside are left out. No corpus here has any.
    """
    members = list(_members(archive))
    total = 0
    for member in members:
        _refuse(archive, member)
        total += member.size
    if total > max_bytes:
        raise ArchiveError(f"{archive}: unpacks to {total / 2**30:.1f} GiB, more than {max_bytes / 2**30:.1f}")
    dest.mkdir(parents=True, exist_ok=True)
    wanted = {member.name: member for member in members if member.kind == "file"}
    bar = tqdm(total=len(wanted), desc=f"unpack {archive.name}", unit="file", mininterval=0.5)
    with bar, _contents(archive) as contents:
        for name, stream in contents:
            parts = PurePosixPath(name).parts[strip:]
            if name not in wanted or not parts:
                continue
            target = dest.joinpath(*parts)
            target.parent.mkdir(parents=True, exist_ok=True)
            with open(target, "wb") as file:
                shutil.copyfileobj(stream, file, _BLOCK)
            bar.update()


def unpack_once(archive: Path, folder: Path, *, strip: int = 0) -> Path:
    """Unpack an archive into `folder`, whole or not at all, unless that has been done; `folder`.

    It may fill nine tenths of the free disk. Raises ArchiveError as `extract` does.
    """
    stat = archive.stat()
    stamp = [str(archive.resolve()), stat.st_size, stat.st_mtime_ns]
    mark = folder / ".archive.json"
    with locked(folder):
        if not (mark.is_file() and read_json(mark) == stamp):
            free = shutil.disk_usage(folder.parent).free
            with atomic_dir(folder) as temporary:
                extract(archive, temporary, strip=strip, max_bytes=9 * free // 10)
                write_json(temporary / mark.name, stamp)
    return folder


@dataclass(frozen=True)
class _Member:
    name: str
    kind: str  # file, folder, link or other
    size: int
    link: str = ""  # where a link leads, relative to the top of the archive


def _members(archive: Path) -> Iterator[_Member]:
    """What an archive says it holds, without unpacking any of it."""
    try:
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as file:
                for info in file.infolist():
                    mode = info.external_attr >> 16
                    if stat.S_ISLNK(mode):
                        target = file.read(info).decode("utf-8", "replace")
                        yield _Member(info.filename, "link", 0, f"{PurePosixPath(info.filename).parent}/{target}")
                    elif info.is_dir():
                        yield _Member(info.filename, "folder", 0)
                    else:
                        plain = stat.S_IFMT(mode) in (0, stat.S_IFREG)
                        yield _Member(info.filename, "file" if plain else "other", info.file_size)
        else:
            with tarfile.open(archive) as file:
                for info in file:
                    if info.isfile():
                        yield _Member(info.name, "file", info.size)
                    elif info.isdir():
                        yield _Member(info.name, "folder", 0)
                    elif info.issym():
                        yield _Member(info.name, "link", 0, f"{PurePosixPath(info.name).parent}/{info.linkname}")
                    elif info.islnk():  # a hard link is named from the top of the archive
                        yield _Member(info.name, "link", 0, info.linkname)
                    else:
                        yield _Member(info.name, "other", 0)
    except (tarfile.TarError, zipfile.BadZipFile, EOFError, OSError) as error:
        raise ArchiveError(f"{archive}: damaged or no archive ({error}); delete it and fetch it again") from error


@contextmanager
def _contents(archive: Path) -> Iterator[Iterator[tuple[str, BinaryIO]]]:
    """Name and content of every plain file of an archive, in its own order."""
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as file:
            yield ((info.filename, file.open(info)) for info in file.infolist() if not info.is_dir())
    else:
        with tarfile.open(archive) as file:
            yield ((info.name, file.extractfile(info)) for info in file if info.isfile())


def _refuse(archive: Path, member: _Member) -> None:
    """Raise ArchiveError for a member that would write, or lead, outside the folder that it is unpacked into."""
    for what, name in (("name", member.name), ("link", member.link)):
        if name.startswith("/") or "\\" in name or "\0" in name or (len(name) > 1 and name[1] == ":"):
            raise ArchiveError(f"{archive}: {what} {name!r} is absolute or not portable; nothing was unpacked")
        depth = 0
        for part in PurePosixPath(name).parts:
            depth += -1 if part == ".." else 1
            if depth < 0 or (what == "name" and part == ".."):
                raise ArchiveError(f"{archive}: {what} {name!r} leads out of the folder; nothing was unpacked")
    if member.kind == "link" and "//" in member.link:
        raise ArchiveError(f"{archive}: link {member.name!r} leads to an absolute path; nothing was unpacked")
    if member.kind == "other":
        raise ArchiveError(f"{archive}: {member.name!r} is a device or pipe; nothing was unpacked")


def _transfer(url: str, part: Path) -> None:
    """Bring `part` to the whole content of `url`, continuing from what it already holds where that is safe."""
    have = part.stat().st_size if part.exists() else 0
    validator = _validator(part)
    headers = {"User-Agent": "harness-toolkit", "Accept-Encoding": "identity"}
    if have and validator:
        headers |= {"Range": f"bytes={have}-", "If-Range": validator}
    try:
        response = urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=_TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            part.unlink()  # what is there is longer than the file: begin again
        raise
    with response:
        resumed = response.status == http.HTTPStatus.PARTIAL_CONTENT
        if resumed and not response.headers.get("Content-Range", "").startswith(f"bytes {have}-"):
            part.unlink()
            raise OSError(f"the server answered another range than asked for ({have}-)")
        start = have if resumed else 0
        if not resumed:
            validator = response.headers.get("ETag") or response.headers.get("Last-Modified")
            # A weak ETag does not promise equal bytes
            write_json(_validator_file(part), None if (validator or "").startswith("W/") else validator)
        length = response.headers.get("Content-Length")
        expected = start + int(length) if length is not None else None
        bar = tqdm(total=expected, initial=start, desc=part.name[1:-5], unit="B", unit_scale=True, mininterval=0.5)
        with bar, open(part, "ab" if resumed else "wb") as file:
            while block := response.read(_BLOCK):
                file.write(block)
                bar.update(len(block))
            file.flush()
            os.fsync(file.fileno())
        got = part.stat().st_size
        if expected is not None and got != expected:
            raise OSError(f"the connection ended after {got} of {expected} bytes")


def _validator_file(part: Path) -> Path:
    return part.with_name(part.name + ".etag")


def _validator(part: Path) -> str | None:
    path = _validator_file(part)
    try:
        return read_json(path)
    except (OSError, ValueError):
        return None


def _is_refusal(error: Exception) -> bool:
    """True for an answer that another attempt will not change."""
    return isinstance(error, urllib.error.HTTPError) and error.code < 500 and error.code not in (408, 416, 429)


def _is_local(error: Exception) -> bool:
    """True for what happened on this machine, such as a full disk."""
    network = (ConnectionError, TimeoutError, urllib.error.URLError)
    return isinstance(error, OSError) and error.errno is not None and not isinstance(error, network)


def _check_sha256(path: Path, expected: str | None, url: str) -> None:
    if expected is None:
        return
    found = sha256_file(path)
    if found != expected:
        raise DownloadError(
            f"{url}: the content has SHA-256 {found}, expected {expected}; delete {path} if it is there and try again"
        )


# Repositories and their state: HEAD where any state of the corpus will do, a commit where one file is meant.
_COMMANDS = "abdulkaderghandoura/arabic-speech-commands-dataset/archive/HEAD.tar.gz"
_BAVED = "40uf411/Basic-Arabic-Vocal-Emotions-Dataset/archive/HEAD.tar.gz"
_DIGITS = "Jakobovski/free-spoken-digit-dataset/archive/HEAD.tar.gz"
_RECITATION = "quranstatic/yasser-salama-hadr-gapless-2/archive/HEAD.tar.gz"
_RECITER = "yasser_salama"
_QURAN = "risan/quran-json/raw/9051fd00c68a29b221a958c1cdf1c9fa7c9cc8c7/data/quran.json"
_QURAN_SHA256 = "bd74e2cefe800e2600baa4a6056d1e83a83c771f6ff525064cb08bdccbf128bf"


def download_arabic_speech_commands(root: Path, *, host: str = GITHUB) -> Path:
    """Fetch Arabic Speech Commands into `<root>/arabic_speech_commands`, with the table of its Arabic words."""

    def fill(folder: Path) -> None:
        _unpack_repository(f"{host}/{_COMMANDS}", folder, root)
        table = "".join(f"{keyword}\t{word}\n" for keyword, word in arabic_speech_commands.KEYWORDS.items())
        write_text(folder / "keywords.tsv", table)

    return _once(root / arabic_speech_commands.INFO.name, fill, arabic_speech_commands.check_layout)


def download_baved(root: Path, *, host: str = GITHUB) -> Path:
    """Fetch BAVED into `<root>/baved`. Its publisher states no licence: use it, do not pass it on."""
    return _once(
        root / baved.INFO.name,
        lambda folder: _unpack_repository(f"{host}/{_BAVED}", folder, root),
        baved.check_layout,
    )


def download_everyayah(root: Path, *, host: str = GITHUB, quran_sha256: str | None = _QURAN_SHA256) -> Path:
    """Fetch one recitation and the text of the Quran into `<root>/everyayah`."""

    def fill(folder: Path) -> None:
        repository = folder / ".repository"
        _unpack_repository(f"{host}/{_RECITATION}", repository, root)
        if not (repository / "audio").is_dir():
            raise DownloadError(f"{host}/{_RECITATION}: expected a folder audio/ with one MP3 a verse")
        (repository / "audio").rename(folder / _RECITER)
        shutil.rmtree(repository)
        fetch(f"{host}/{_QURAN}", folder / "quran.json", quran_sha256)
        _lock_file(folder / "quran.json").unlink()

    return _once(root / everyayah.INFO.name, fill, everyayah.check_layout)


def download_free_spoken_digits(root: Path, *, host: str = GITHUB) -> Path:
    """Fetch Free Spoken Digits into `<root>/free_spoken_digits`."""
    return _once(
        root / free_spoken_digits.INFO.name,
        lambda folder: _unpack_repository(f"{host}/{_DIGITS}", folder, root),
        free_spoken_digits.check_layout,
    )


DOWNLOADS: dict[str, Callable[..., Path]] = {
    arabic_speech_commands.INFO.name: download_arabic_speech_commands,
    baved.INFO.name: download_baved,
    everyayah.INFO.name: download_everyayah,
    free_spoken_digits.INFO.name: download_free_spoken_digits,
}


def _once(folder: Path, fill: Callable[[Path], None], check_layout: Callable[[Path], None]) -> Path:
    """Make a corpus folder with `fill`, whole or not at all, unless it is there; one process at a time."""
    with locked(folder):
        if not folder.exists():
            with atomic_dir(folder) as temporary:
                fill(temporary)
                check_layout(temporary)
    return folder


def _unpack_repository(url: str, folder: Path, root: Path) -> None:
    """Unpack the archive of a repository, which holds everything in one folder, into `folder`.

    The archive lies in `root` while it is fetched, so that an interrupted transfer can go on, and is deleted once it
    is unpacked.
    """
    owner, repository = urllib.parse.urlsplit(url).path.split("/")[1:3]
    archive = root / f".{owner}-{repository}.tar.gz"
    fetch(url, archive)
    try:
        extract(archive, folder, strip=1)
    except ArchiveError:
        archive.unlink(missing_ok=True)  # a damaged archive must not be met again by the next attempt
        raise
    archive.unlink()
    _lock_file(archive).unlink(missing_ok=True)

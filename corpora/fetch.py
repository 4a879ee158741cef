"""Fetch files over HTTP, resumable, and unpack archives with checks.

A corpus that can be fetched has `download(root)`, built from `make_once` and `fetch_repository`:

    downloads/baved/...        python -m corpora baved --corpus downloads --out data/baved
"""

from __future__ import annotations

import gzip
import http.client
import logging
import lzma
import os
import re
import shutil
import stat
import tarfile
import time
import urllib.error
import urllib.parse
import urllib.request
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from tqdm import tqdm

from corpora.files import CorpusError, atomic_dir, lock_file, locked, read_json, sha256_file, write_json

GITHUB = "https://github.com"
_BLOCK = 1 << 16
_TIMEOUT = 30  # seconds without a byte
_ZIP_UTF8 = 0x800  # flag of an entry whose name is in UTF-8
_ZIP_ENCODINGS = ("utf-8", "cp1256", "cp720")
_NOT_ASCII = re.compile("[^\x00-\x7f]+")
_ARABIC_NAME = re.compile("[\u0621-\u0652\u060c\u061b\u061f\u00a0]+")
_MAX_UNPACKED = 20 * 2**30  # bytes: larger than each of these corpora, too small to fill a disk unnoticed

_log = logging.getLogger(__name__)


def fetch(
    url: str, dest: Path, sha256: str | None = None, *, tries: int = 4, sleep: Callable[[float], object] = time.sleep
) -> Path:
    """Fetch `url` into the file `dest`, unless it exists; return `dest`. Of several processes one fetches the file.

    An interrupted transfer (`.<name>.part`) is resumed if the server allows it and its file is the same, by ETag or
    date. sha256: expected hash of the content, None where the publisher names none.  sleep: waits between attempts.
    Raises CorpusError after `tries` attempts, or when the content has another hash.
    """
    if urllib.parse.urlsplit(url).scheme not in ("http", "https"):
        raise CorpusError(f"{url}: only http and https addresses are fetched")
    dest.parent.mkdir(parents=True, exist_ok=True)
    with locked(dest):
        if dest.exists():  # fetched by the process that held the lock before
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
                    raise CorpusError(
                        f"{url}: {error or type(error).__name__}. Check the network, or fetch the file by other means "
                        f"and put it at {dest}"
                    ) from error
                _log.warning("%s: %s; attempt %d of %d", url, error, attempt + 1, tries)
                sleep(min(2 ** (attempt - 1), 8) * 0.5)
        try:
            _check_sha256(part, sha256, url)
        except CorpusError:
            part.unlink()
            raise
        os.replace(part, dest)
        _validator_file(part).unlink(missing_ok=True)
    return dest


def extract(archive: Path, dest: Path, *, strip: int = 0, max_bytes: int = _MAX_UNPACKED) -> None:
    """Unpack a tar or zip archive into the empty or new folder `dest`, without the first `strip` folders of each name.

    Only plain files and folders are written, without special permissions; links inside the folder are left out. Raises
    CorpusError, before anything is written, for absolute names, names with "..", devices, links that lead out of
    `dest`, and archives that unpack to more than `max_bytes`.
    """
    _unpack(archive, dest, _checked_members(archive, max_bytes), strip)


def _checked_members(archive: Path, max_bytes: int) -> list[_Member]:
    members = list(_members(archive))
    total = 0
    for member in members:
        _refuse(archive, member)
        total += member.size
    if total > max_bytes:
        raise CorpusError(f"{archive}: unpacks to {total / 2**30:.1f} GiB, more than {max_bytes / 2**30:.1f}")
    return members


def _unpack(archive: Path, dest: Path, members: list[_Member], strip: int) -> None:
    dest.mkdir(parents=True, exist_ok=True)
    wanted = {member.name: member for member in members if member.kind == "file"}
    bar = tqdm(total=len(wanted), desc=f"unpack {archive.name}", unit="file", mininterval=0.5)
    with bar, _damage(archive), _contents(archive) as contents:
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
    """Unpack an archive into `folder`, whole or not at all, unless that has been done; return `folder`.

    The content may be as large as nine tenths of the free disk space. Raises CorpusError as `extract` does.
    """
    stat = archive.stat()
    stamp = [str(archive.resolve()), stat.st_size, stat.st_mtime_ns]
    mark = folder / ".archive.json"

    def is_done() -> bool:
        return mark.is_file() and read_json(mark) == stamp

    if is_done():
        return folder
    there = next(path for path in folder.absolute().parents if path.is_dir())
    members = _checked_members(archive, 9 * shutil.disk_usage(there).free // 10)
    with locked(folder):
        if not is_done():
            with atomic_dir(folder) as temporary:
                _unpack(archive, temporary, members, strip)
                write_json(temporary / mark.name, stamp)
    return folder


def make_once(folder: Path, fill: Callable[[Path], None], check: Callable[[Path], object]) -> Path:
    """Make a corpus folder, whole or not at all, unless it exists; return it. One process at a time does the work.

    fill: writes the files into a temporary folder.  check: raises if that folder lacks files of the corpus.
    """
    with locked(folder):
        if not folder.exists():
            with atomic_dir(folder) as temporary:
                fill(temporary)
                check(temporary)
    return folder


def fetch_repository(url: str, folder: Path, root: Path) -> None:
    """Fetch the archive of a repository and unpack its content into `folder`.

    url: of a .tar.gz file, as https://<host>/<owner>/<repository>/... .  root: folder for the archive while it is
    fetched, so that an interrupted transfer can be resumed; the archive is deleted afterwards.
    """
    owner, repository = urllib.parse.urlsplit(url).path.split("/")[1:3]
    archive = root / f".{owner}-{repository}.tar.gz"
    fetch(url, archive)
    try:
        extract(archive, folder, strip=1)
    except CorpusError:
        archive.unlink(missing_ok=True)  # it is damaged: the next attempt fetches it again
        raise
    archive.unlink()
    lock_file(archive).unlink(missing_ok=True)


@dataclass(frozen=True)
class _Member:
    name: str
    kind: str  # file, folder, link or other
    size: int
    link: str = ""  # where a link leads, relative to the top of the archive


def _members(archive: Path) -> Iterator[_Member]:
    """List an archive without unpacking it, and read a compressed tar to its end, where its checksum is.

    Raises CorpusError for a damaged archive.
    """
    with _damage(archive):
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as file:
                for name, info in _zip_names(archive, file):
                    mode = info.external_attr >> 16
                    if stat.S_ISLNK(mode):
                        target = file.read(info).decode("utf-8", "replace")
                        yield _Member(name, "link", 0, f"{PurePosixPath(name).parent}/{target}")
                    elif info.is_dir():
                        yield _Member(name, "folder", 0)
                    else:
                        plain = stat.S_IFMT(mode) in (0, stat.S_IFREG)
                        yield _Member(name, "file" if plain else "other", info.file_size)
        else:
            with tarfile.open(archive, tarinfo=_StrictHeader) as file:
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
                while file.fileobj and file.fileobj.read(_BLOCK):  # tarfile stops at the mark of the end
                    pass


class _StrictHeader(tarfile.TarInfo):
    """A header whose damage is an error; tarfile takes it for the end of the archive and drops the rest."""

    @classmethod
    def frombuf(cls, buf: bytes, encoding: str, errors: str) -> tarfile.TarInfo:
        try:
            return super().frombuf(buf, encoding, errors)
        except tarfile.HeaderError as error:
            if not any(buf):  # the mark of the end, or the end of the file
                raise
            raise tarfile.ReadError(f"a damaged header: {error}") from error


@contextmanager
def _damage(archive: Path) -> Iterator[None]:
    """Raise CorpusError, which names the archive, for every error that a damaged archive causes."""
    try:
        yield
    except RuntimeError as error:  # zipfile: a password; NotImplementedError, an unknown method of compression
        raise CorpusError(
            f"{archive}: cannot be unpacked ({error}); unpack it by other means and name its folder"
        ) from error
    except (tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError) as error:
        raise CorpusError(f"{archive}: damaged or no archive ({error}); delete it and fetch it again") from error
    except OSError as error:
        if error.errno is not None and not isinstance(error, gzip.BadGzipFile):  # of the disk, not of the archive
            raise
        raise CorpusError(f"{archive}: damaged or no archive ({error}); delete it and fetch it again") from error


@contextmanager
def _contents(archive: Path) -> Iterator[Iterator[tuple[str, BinaryIO]]]:
    """Pairs (name, content) of the plain files of an archive, in its order."""
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as file:
            yield ((name, file.open(info)) for name, info in _zip_names(archive, file) if not info.is_dir())
    else:
        with tarfile.open(archive) as file:
            yield ((info.name, file.extractfile(info)) for info in file if info.isfile())


def _zip_names(archive: Path, file: zipfile.ZipFile) -> list[tuple[str, zipfile.ZipInfo]]:
    """Pairs (name, entry). A name without the flag for UTF-8 is in the encoding of the machine that wrote it.

    All such names of an archive have one encoding: UTF-8 if they are valid in it, an Arabic code page of Windows or DOS
    if their other letters are Arabic, at least two in a row, in it; otherwise cp437, as the format says.
    """
    infos = file.infolist()
    raw = {id(info): info.filename.encode("cp437") for info in infos if not info.flag_bits & _ZIP_UTF8}
    joined = b"/".join(raw.values())
    if joined.isascii():
        return [(info.filename, info) for info in infos]
    chosen = next((encoding for encoding in _ZIP_ENCODINGS if _reads_as(joined, encoding)), "cp437")
    _log.info("%s: its names state no encoding; read as %s", archive, chosen)
    return [(raw[id(info)].decode(chosen) if id(info) in raw else info.filename, info) for info in infos]


def _reads_as(names: bytes, encoding: str) -> bool:
    """Whether names are valid in an encoding and, if that is not UTF-8, Arabic."""
    try:
        text = names.decode(encoding)
    except UnicodeDecodeError:
        return False
    if encoding == "utf-8":
        return True
    runs = _NOT_ASCII.findall(text)
    return all(_ARABIC_NAME.fullmatch(run) for run in runs) and any(len(run) > 1 for run in runs)


def _refuse(archive: Path, member: _Member) -> None:
    """Raise CorpusError for a member that would be written outside the folder, or that links outside it."""
    for what, name in (("name", member.name), ("link", member.link)):
        if name.startswith("/") or "\\" in name or "\0" in name or (len(name) > 1 and name[1] == ":"):
            raise CorpusError(f"{archive}: {what} {name!r} is absolute or not portable; nothing was unpacked")
        depth = 0
        for part in PurePosixPath(name).parts:
            depth += -1 if part == ".." else 1
            if depth < 0 or (what == "name" and part == ".."):
                raise CorpusError(f"{archive}: {what} {name!r} leads out of the folder; nothing was unpacked")
    if member.kind == "link" and "//" in member.link:
        raise CorpusError(f"{archive}: link {member.name!r} leads to an absolute path; nothing was unpacked")
    if member.kind == "other":
        raise CorpusError(f"{archive}: {member.name!r} is a device or pipe; nothing was unpacked")


def _transfer(url: str, part: Path) -> None:
    """Fetch `url` into `part`; resume where `part` ends if the server's file is unchanged."""
    have = part.stat().st_size if part.exists() else 0
    validator = _validator(part)
    headers = {"User-Agent": "harness-toolkit", "Accept-Encoding": "identity"}
    if have and validator:
        headers |= {"Range": f"bytes={have}-", "If-Range": validator}
    try:
        response = urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=_TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            part.unlink()  # longer than the server's file: start again
        raise
    with response:
        resumed = response.status == http.HTTPStatus.PARTIAL_CONTENT
        if resumed and not response.headers.get("Content-Range", "").startswith(f"bytes {have}-"):
            part.unlink()
            raise OSError(f"the server sent another range than the requested one ({have}-)")
        start = have if resumed else 0
        if not resumed:
            validator = response.headers.get("ETag") or response.headers.get("Last-Modified")
            # A weak ETag does not guarantee equal bytes
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
    """True for an HTTP error that another attempt would repeat."""
    return isinstance(error, urllib.error.HTTPError) and error.code < 500 and error.code not in (408, 416, 429)


def _is_local(error: Exception) -> bool:
    """True for an error of this machine, such as a full disk."""
    network = (ConnectionError, TimeoutError, urllib.error.URLError)
    return isinstance(error, OSError) and error.errno is not None and not isinstance(error, network)


def _check_sha256(path: Path, expected: str | None, url: str) -> None:
    if expected is None:
        return
    found = sha256_file(path)
    if found != expected:
        raise CorpusError(
            f"{url}: the content has SHA-256 {found}, expected {expected}; delete {path} if it exists and try again"
        )

"""Fetching: once, resumable, checked; unpacking: nothing outside the folder. All against a server on this machine."""

from __future__ import annotations

import functools
import gzip
import hashlib
import io
import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

import corpora.fetch
from corpora.fetch import extract, unpack_once
from corpora.files import CorpusError, locked

CONTENT = bytes(range(256)) * 2000  # 512 kB
fetch = functools.partial(corpora.fetch.fetch, sleep=lambda _: None)


def test_fetch_writes_the_content_once(server, tmp_path):
    server.files["/a.bin"] = CONTENT
    digest = hashlib.sha256(CONTENT).hexdigest()
    path = fetch(f"{server.url}/a.bin", tmp_path / "sub/a.bin", digest)
    assert path.read_bytes() == CONTENT
    fetch(f"{server.url}/a.bin", path, digest)
    assert len(server.asked) == 1
    assert sorted(entry.name for entry in path.parent.iterdir()) == [".a.bin.lock", "a.bin"]


def test_an_interrupted_download_is_resumed(server, tmp_path):
    server.files["/a.bin"] = CONTENT
    server.cut = 1
    fetch(f"{server.url}/a.bin", tmp_path / "a.bin", hashlib.sha256(CONTENT).hexdigest())
    assert (tmp_path / "a.bin").read_bytes() == CONTENT
    assert server.asked == [("/a.bin", None), ("/a.bin", f"bytes={len(CONTENT) // 2}-")]


def test_a_killed_download_is_continued_by_the_next_run(server, tmp_path):
    server.files["/a.bin"] = CONTENT
    server.cut = 1
    with pytest.raises(CorpusError, match=f"{len(CONTENT) // 2} of {len(CONTENT)}"):
        fetch(f"{server.url}/a.bin", tmp_path / "a.bin", tries=1)
    assert not (tmp_path / "a.bin").exists() and (tmp_path / ".a.bin.part").stat().st_size == len(CONTENT) // 2
    fetch(f"{server.url}/a.bin", tmp_path / "a.bin")
    assert (tmp_path / "a.bin").read_bytes() == CONTENT
    assert server.asked[-1][1] == f"bytes={len(CONTENT) // 2}-"


def test_a_changed_file_is_fetched_from_its_start(server, tmp_path):
    server.files["/a.bin"] = CONTENT
    server.cut = 1
    with pytest.raises(CorpusError):
        fetch(f"{server.url}/a.bin", tmp_path / "a.bin", tries=1)
    server.files["/a.bin"] = CONTENT[::-1]
    fetch(f"{server.url}/a.bin", tmp_path / "a.bin")
    assert (tmp_path / "a.bin").read_bytes() == CONTENT[::-1]  # not half of each


def test_without_ranges_the_whole_file_is_fetched(server, tmp_path):
    server.files["/a.bin"] = CONTENT
    server.cut, server.ranges = 1, False
    fetch(f"{server.url}/a.bin", tmp_path / "a.bin")
    assert (tmp_path / "a.bin").read_bytes() == CONTENT


def test_a_partial_file_longer_than_the_servers_is_deleted(server, tmp_path):
    server.files["/a.bin"] = CONTENT
    tag = hashlib.sha256(CONTENT).hexdigest()[:16]
    (tmp_path / ".a.bin.part").write_bytes(CONTENT + b"more")
    (tmp_path / ".a.bin.part.etag").write_text(f'"\\"{tag}\\""')
    fetch(f"{server.url}/a.bin", tmp_path / "a.bin")
    assert (tmp_path / "a.bin").read_bytes() == CONTENT


def test_wrong_content_is_refused_and_not_kept(server, tmp_path):
    server.files["/a.bin"] = CONTENT
    with pytest.raises(CorpusError, match=r"a.bin: .*[0-9a-f]{64}.* 000"):
        fetch(f"{server.url}/a.bin", tmp_path / "a.bin", "0" * 64)
    assert not (tmp_path / "a.bin").exists() and not (tmp_path / ".a.bin.part").exists()


def test_a_refusal_is_final_and_a_server_error_is_retried(server, tmp_path):
    with pytest.raises(CorpusError, match=r"/none: .*404"):
        fetch(f"{server.url}/none", tmp_path / "none")
    assert len(server.asked) == 1
    server.files["/a.bin"] = CONTENT
    server.status = 503
    with pytest.raises(CorpusError, match="503"):
        fetch(f"{server.url}/a.bin", tmp_path / "a.bin", tries=3)
    assert len(server.asked) == 4
    with pytest.raises(CorpusError, match="file:///etc/passwd"):
        fetch("file:///etc/passwd", tmp_path / "b")


def test_a_full_disk_is_reported_as_such(server, tmp_path, monkeypatch):
    server.files["/a.bin"] = CONTENT

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        fetch(f"{server.url}/a.bin", tmp_path / "a.bin")
    assert len(server.asked) == 1


def test_two_processes_download_once(server, tmp_path):
    server.files["/a.bin"] = CONTENT
    code = "import sys, pathlib; from corpora.fetch import fetch; fetch(sys.argv[1], pathlib.Path(sys.argv[2]))"
    command = [sys.executable, "-c", code, f"{server.url}/a.bin", str(tmp_path / "a.bin")]
    environment = {**os.environ, "PYTHONPATH": str(Path(corpora.__file__).parents[1])}
    with locked(tmp_path / "a.bin"):  # both are waiting before either may begin
        running = [subprocess.Popen(command, env=environment) for _ in range(2)]
        with pytest.raises(subprocess.TimeoutExpired):
            running[0].wait(timeout=2)
        assert not server.asked
    assert [process.wait(timeout=60) for process in running] == [0, 0]
    assert (tmp_path / "a.bin").read_bytes() == CONTENT
    assert len(server.asked) == 1


def _tar(members: list[tuple[tarfile.TarInfo, bytes]]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for info, content in members:
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def _member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "", mode: int = 0o644) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.mode = kind, link, mode
    return info


@pytest.mark.parametrize(
    "evil",
    [
        _member("/tmp/evil"),
        _member("top/../../evil"),
        _member("top/a/../../b"),
        _member("..\\evil"),
        _member("top/link", tarfile.SYMTYPE, "../../outside"),
        _member("top/link", tarfile.SYMTYPE, "/etc/passwd"),
        _member("top/link", tarfile.LNKTYPE, "../outside"),
        _member("top/link", tarfile.LNKTYPE, "/etc/passwd"),
        _member("top/device", tarfile.CHRTYPE),
        _member("top/pipe", tarfile.FIFOTYPE),
    ],
    ids=lambda info: f"{info.name}-{info.linkname}",
)
def test_a_malicious_archive_is_refused_whole(evil, tmp_path):
    archive = tmp_path / "a.tar.gz"
    archive.write_bytes(_tar([(_member("top/good.wav"), b"fine"), (evil, b"")]))
    with pytest.raises(CorpusError, match=r"a.tar.gz|\d.zip"):
        extract(archive, tmp_path / "in/out", strip=1)
    assert {path.name for path in tmp_path.rglob("*")} == {"a.tar.gz"}


def test_a_malicious_zip_is_refused(tmp_path):
    for number, name in enumerate(("../evil", "/evil", "link")):
        archive = tmp_path / f"{number}.zip"
        with zipfile.ZipFile(archive, "w") as file:
            file.writestr("good.txt", "fine")
            info = zipfile.ZipInfo(name)
            if name == "link":
                info.external_attr = 0o120777 << 16
            file.writestr(info, "/etc/passwd")
        with pytest.raises(CorpusError, match=r"a.tar.gz|\d.zip"):
            extract(archive, tmp_path / "out")
        assert not (tmp_path / "out").exists()


def test_plain_content_is_unpacked_without_special_permissions(tmp_path):
    archive = tmp_path / "a.tar.gz"
    members = [
        (_member("top", tarfile.DIRTYPE), b""),
        (_member("top/zoom in/كلمة.wav", mode=0o4777), b"audio"),
        (_member("top/inside", tarfile.SYMTYPE, "zoom in/x"), b""),
    ]
    archive.write_bytes(_tar(members))
    extract(archive, tmp_path / "out", strip=1)
    path = tmp_path / "out/zoom in/كلمة.wav"
    assert path.read_bytes() == b"audio" and not path.stat().st_mode & 0o7111
    assert not (tmp_path / "out/inside").exists()  # a link that stays inside is left out
    with zipfile.ZipFile(tmp_path / "b.zip", "w") as file:
        file.writestr("top/x.txt", "text")
    extract(tmp_path / "b.zip", tmp_path / "unzipped", strip=1)
    assert (tmp_path / "unzipped/x.txt").read_text() == "text"


def test_archives_that_are_too_large_or_damaged(tmp_path):
    archive = tmp_path / "a.tar.gz"
    archive.write_bytes(_tar([(_member("top/a"), b"0" * 2000)]))
    with pytest.raises(CorpusError, match="a.tar.gz"):
        extract(archive, tmp_path / "out", max_bytes=1000)
    archive.write_bytes(archive.read_bytes()[:60])
    with pytest.raises(CorpusError, match="a.tar.gz"):
        extract(archive, tmp_path / "out")
    archive.write_bytes(b"<html>sorry</html>")
    with pytest.raises(CorpusError, match="a.tar.gz"):
        extract(archive, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def damaged_archives() -> dict[str, bytes]:
    """Archives that begin well: only their checksums or later headers are wrong."""
    content = _tar([(_member("top/a"), os.urandom(3000)), (_member("top/b"), b"2" * 3000)])
    tar = bytearray(gzip.decompress(content))
    tar[512 + 3072 + 20] ^= 0xFF  # in the header of top/b
    zipped = io.BytesIO()
    with zipfile.ZipFile(zipped, "w") as archive:
        archive.writestr("a.txt", "1" * 3000)
    stored = bytearray(zipped.getvalue())
    stored[100] ^= 0xFF
    method = bytearray(zipped.getvalue())
    for place in (method.find(b"PK\x03\x04") + 8, method.find(b"PK\x01\x02") + 10):
        method[place] = 99
    password = bytearray(zipped.getvalue())
    for place in (password.find(b"PK\x03\x04") + 6, password.find(b"PK\x01\x02") + 8):
        password[place] |= 1
    return {
        "checksum.tar.gz": content[:-8] + bytes([content[-8] ^ 0xFF]) + content[-7:],
        "stream.tar.gz": content[:200] + b"\xff\xff" + content[202:],
        "header.tar": bytes(tar),
        "checksum.zip": bytes(stored),
        "method.zip": bytes(method),
        "password.zip": bytes(password),
    }


@pytest.mark.parametrize("name", damaged_archives())
def test_a_damaged_archive_is_refused_and_leaves_nothing(tmp_path, name):
    (tmp_path / name).write_bytes(damaged_archives()[name])
    with pytest.raises(CorpusError, match=name):
        unpack_once(tmp_path / name, tmp_path / "new" / "out")
    assert not (tmp_path / "new" / "out").exists()


class _RawName(zipfile.ZipInfo):
    """An entry whose name is in latin-1, without the flag for UTF-8."""

    def _encodeFilenameFlags(self) -> tuple[bytes, int]:
        return self.filename.encode("latin-1"), 0


def _zip_with_raw_names(path: Path, names: list[bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for number, name in enumerate(names):
            archive.writestr(_RawName(name.decode("latin-1")), str(number))
    return path


@pytest.mark.parametrize(
    ("encoding", "names"),
    [
        ("utf-8", ["صوت/سلام.wav", "صوت/é.wav"]),
        ("cp1256", ["صوت/سلام عليكم.wav", "list.csv", "وَلد 1.wav"]),
        ("cp720", ["صوت/سلام عليكم.wav", "ملف 1.wav"]),
        ("cp437", ["Straße/Größe.wav", "café.wav"]),
        ("cp437", ["Straße.wav"]),  # its byte is an Arabic letter in cp1256; words have more than one
    ],
)
def test_names_of_a_zip_without_a_stated_encoding(encoding: str, names: list[str], tmp_path: Path):
    archive = _zip_with_raw_names(tmp_path / "a.zip", [name.encode(encoding) for name in names])
    extract(archive, tmp_path / "out")
    found = [path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert sorted(found) == sorted(names)

"""Downloads: once, resumable, checked, and nothing that leaves its folder. All against a server on this machine."""

from __future__ import annotations

import hashlib
import io
import os
import subprocess
import sys
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from corpora import download
from corpora.download import ArchiveError, DownloadError, extract, fetch
from corpora.prepare.ingest import CorpusError

CONTENT = bytes(range(256)) * 2000  # 512 kB


class _Server(ThreadingHTTPServer):
    """Serves `files`; `cut` breaks that many answers off half-way; `ranges` = whether it can go on from a byte."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files: dict[str, bytes] = {}
        self.cut = 0
        self.ranges = True
        self.status = 200
        self.asked: list[tuple[str, str | None]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    server: _Server

    def do_GET(self) -> None:
        asked = self.headers.get("Range")
        self.server.asked.append((self.path, asked))
        content = self.server.files.get(self.path)
        if content is None or self.server.status != 200:
            self.send_error(404 if content is None else self.server.status)
            return
        tag = f'"{hashlib.sha256(content).hexdigest()[:16]}"'
        start = 0
        if asked and self.server.ranges and self.headers.get("If-Range", tag) == tag:
            start = int(asked.removeprefix("bytes=").rstrip("-"))
            if start >= len(content):
                self.send_error(416)
                return
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        else:
            self.send_response(200)
        self.send_header("ETag", tag)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        body = content[start:]
        if self.server.cut > 0:
            self.server.cut -= 1
            body = body[: len(body) // 2]
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[_Server]:
    server = _Server()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    monkeypatch.setattr(download.time, "sleep", lambda _: None)


def test_fetch_writes_the_content_once(server, tmp_path):
    server.files["/a.bin"] = CONTENT
    digest = hashlib.sha256(CONTENT).hexdigest()
    path = fetch(f"{server.url}/a.bin", tmp_path / "sub/a.bin", digest)
    assert path.read_bytes() == CONTENT
    fetch(f"{server.url}/a.bin", path, digest)
    assert len(server.asked) == 1
    assert sorted(entry.name for entry in path.parent.iterdir()) == [".a.bin.lock", "a.bin"]


def test_an_interrupted_download_goes_on(server, tmp_path):
    server.files["/a.bin"] = CONTENT
    server.cut = 1
    fetch(f"{server.url}/a.bin", tmp_path / "a.bin", hashlib.sha256(CONTENT).hexdigest())
    assert (tmp_path / "a.bin").read_bytes() == CONTENT
    assert server.asked == [("/a.bin", None), ("/a.bin", f"bytes={len(CONTENT) // 2}-")]


def test_a_killed_download_is_continued_by_the_next_run(server, tmp_path):
    server.files["/a.bin"] = CONTENT
    server.cut = 1
    with pytest.raises(DownloadError, match="ended after"):
        fetch(f"{server.url}/a.bin", tmp_path / "a.bin", tries=1)
    assert not (tmp_path / "a.bin").exists() and (tmp_path / ".a.bin.part").stat().st_size == len(CONTENT) // 2
    fetch(f"{server.url}/a.bin", tmp_path / "a.bin")
    assert (tmp_path / "a.bin").read_bytes() == CONTENT
    assert server.asked[-1][1] == f"bytes={len(CONTENT) // 2}-"


def test_a_file_that_changed_meanwhile_is_begun_again(server, tmp_path):
    server.files["/a.bin"] = CONTENT
    server.cut = 1
    with pytest.raises(DownloadError):
        fetch(f"{server.url}/a.bin", tmp_path / "a.bin", tries=1)
    server.files["/a.bin"] = CONTENT[::-1]
    fetch(f"{server.url}/a.bin", tmp_path / "a.bin")
    assert (tmp_path / "a.bin").read_bytes() == CONTENT[::-1]  # not half of each


def test_a_server_without_ranges_is_asked_for_the_whole(server, tmp_path):
    server.files["/a.bin"] = CONTENT
    server.cut, server.ranges = 1, False
    fetch(f"{server.url}/a.bin", tmp_path / "a.bin")
    assert (tmp_path / "a.bin").read_bytes() == CONTENT


def test_a_left_over_that_is_too_long_is_dropped(server, tmp_path):
    server.files["/a.bin"] = CONTENT
    tag = hashlib.sha256(CONTENT).hexdigest()[:16]
    (tmp_path / ".a.bin.part").write_bytes(CONTENT + b"more")
    (tmp_path / ".a.bin.part.etag").write_text(f'"\\"{tag}\\""')
    fetch(f"{server.url}/a.bin", tmp_path / "a.bin")
    assert (tmp_path / "a.bin").read_bytes() == CONTENT


def test_wrong_content_is_refused_and_not_kept(server, tmp_path):
    server.files["/a.bin"] = CONTENT
    with pytest.raises(DownloadError, match=r"a.bin: the content has SHA-256 [0-9a-f]{64}, expected 000"):
        fetch(f"{server.url}/a.bin", tmp_path / "a.bin", "0" * 64)
    assert not (tmp_path / "a.bin").exists() and not (tmp_path / ".a.bin.part").exists()


def test_refusals_are_final_and_faults_are_tried_again(server, tmp_path):
    with pytest.raises(DownloadError, match=r"/none: HTTP Error 404.*put it at"):
        fetch(f"{server.url}/none", tmp_path / "none")
    assert len(server.asked) == 1
    server.files["/a.bin"] = CONTENT
    server.status = 503
    with pytest.raises(DownloadError, match="503"):
        fetch(f"{server.url}/a.bin", tmp_path / "a.bin", tries=3)
    assert len(server.asked) == 4
    with pytest.raises(DownloadError, match="only http and https"):
        fetch("file:///etc/passwd", tmp_path / "b")


def test_a_full_disk_is_not_blamed_on_the_network(server, tmp_path, monkeypatch):
    server.files["/a.bin"] = CONTENT

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(download.os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        fetch(f"{server.url}/a.bin", tmp_path / "a.bin")
    assert len(server.asked) == 1


def test_two_processes_download_once(server, tmp_path):
    server.files["/a.bin"] = CONTENT
    code = "import sys, pathlib; from corpora.download import fetch; fetch(sys.argv[1], pathlib.Path(sys.argv[2]))"
    command = [sys.executable, "-c", code, f"{server.url}/a.bin", str(tmp_path / "a.bin")]
    environment = {**os.environ, "PYTHONPATH": str(Path(download.__file__).parents[1])}
    with download.locked(tmp_path / "a.bin"):  # both are waiting before either may begin
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
    with pytest.raises(ArchiveError, match="nothing was unpacked"):
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
        with pytest.raises(ArchiveError, match="nothing was unpacked"):
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
    with pytest.raises(ArchiveError, match="more than"):
        extract(archive, tmp_path / "out", max_bytes=1000)
    archive.write_bytes(archive.read_bytes()[:60])
    with pytest.raises(ArchiveError, match="damaged"):
        extract(archive, tmp_path / "out")
    archive.write_bytes(b"<html>sorry</html>")
    with pytest.raises(ArchiveError, match="no archive"):
        extract(archive, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def _repository(folder: Path) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        tar.add(folder, arcname="repository-0123456")
    return buffer.getvalue()


def test_every_corpus_is_laid_out_as_its_preparer_expects(server, corpus_trees, tmp_path):
    made = {name: getattr(corpus_trees, name)(tmp_path / "made" / name) for name in download.DOWNLOADS}
    (made["arabic_speech_commands"] / "keywords.tsv").unlink()  # the publisher's repository has none
    recitation = tmp_path / "made/recitation"
    recitation.mkdir()
    (made["everyayah"] / "a_reciter").rename(recitation / "audio")
    served = {name: _repository(folder) for name, folder in made.items()} | {"everyayah": _repository(recitation)}
    for name, address in (
        ("arabic_speech_commands", download._COMMANDS),
        ("baved", download._BAVED),
        ("everyayah", download._RECITATION),
        ("free_spoken_digits", download._DIGITS),
    ):
        server.files[f"/{address}"] = served[name]
    quran = (made["everyayah"] / "quran.json").read_bytes()
    server.files[f"/{download._QURAN}"] = quran
    server.cut = 1
    for name, function in download.DOWNLOADS.items():
        options = {"quran_sha256": hashlib.sha256(quran).hexdigest()} if name == "everyayah" else {}
        folder = function(tmp_path / "downloads", host=server.url, **options)
        assert folder == tmp_path / "downloads" / name
    assert (folder / "recordings/6_theo_6.wav").exists()
    assert "zoom in\tتكبير\n" in (tmp_path / "downloads/arabic_speech_commands/keywords.tsv").read_text()
    everyayah_files = {path.name for path in (tmp_path / "downloads/everyayah").iterdir()}
    assert everyayah_files == {"yasser_salama", "quran.json"}
    left = [path.name for path in (tmp_path / "downloads").iterdir() if not path.name.endswith(".lock")]
    assert sorted(left) == sorted(download.DOWNLOADS)  # no archive, no temporary folder
    count = len(server.asked)
    download.download_baved(tmp_path / "downloads", host=server.url)
    assert len(server.asked) == count


def test_what_is_not_the_corpus_is_not_kept(server, tmp_path):
    (tmp_path / "other").mkdir()
    (tmp_path / "other/README.md").write_text("moved")
    server.files[f"/{download._BAVED}"] = _repository(tmp_path / "other")
    with pytest.raises(CorpusError, match=r"expected <word 0-6>"):
        download.download_baved(tmp_path / "downloads", host=server.url)
    assert not (tmp_path / "downloads/baved").exists()


def test_the_pinned_text_is_the_one_at_hand(real_speech):
    found = hashlib.sha256((real_speech / "everyayah/quran.json").read_bytes()).hexdigest()
    assert found == download._QURAN_SHA256

"""Assembling and serving the page: its files, its headers, and clear errors; no browser, no npm."""

from __future__ import annotations

import http.client
import json
import re
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from downstream import DownstreamError
from downstream.__main__ import main
from downstream.asr.recogniser import CHARACTERS, linear_layer
from downstream.web import packages, site
from downstream.web.server import HEADERS, Server
from downstream.web.site import PAGE, assemble, write_site
from upstream.model.modeldir import model_sha256

Make = Callable[..., Path]


@pytest.fixture
def libraries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache with files in place of ONNX Runtime's."""
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "libraries"
    folder.mkdir()
    for name in packages.RUNTIME:
        (folder / name).write_text(name)
    monkeypatch.setattr(site, "runtime", lambda page: folder)
    return folder


@pytest.fixture
def head(tmp_path: Path, recogniser: Make) -> Path:
    return recogniser(tmp_path / "tiny")


def page_json(files: dict[str, bytes | Path]) -> dict:
    (name,) = [name for name in files if name.endswith("/page.json")]
    return json.loads(files[name])


def test_every_reference_is_among_the_files(head: Path, libraries: Path) -> None:
    files = assemble(head, precision="fp32")
    index = files["index.html"].decode()
    named = re.findall(r'(?:href|src)="\./([^"]+)"', index)
    assert len(named) == 3 and set(named) <= set(files)
    facts = page_json(files)
    (folder,) = {name.rpartition("/")[0] for name in files if name.startswith("page/")}
    for name in (facts["encoder"], facts["weights"], *(facts["ort"] + name for name in packages.RUNTIME)):
        assert name.startswith("../../") and name[6:] in files, folder
    scripts = {name: content.decode() for name, content in files.items() if name.endswith(".js") and name != "sw.js"}
    for text in scripts.values():
        wanted = re.findall(r'(?:from |new URL\()"\./([\w.]+)"', text)
        assert {f"{folder}/{name}" for name in wanted} <= set(files)
    kept = json.loads(re.search(r"^const FILES = (.*);$", files["sw.js"].decode(), re.MULTILINE)[1])
    assert set(kept) == {"./", *files} - {"index.html", "sw.js"}
    assert facts["characters"] == CHARACTERS and facts["squeeze"] == 1 and facts["precision"] == "fp32"
    assert facts["bytes"] == files[facts["encoder"][6:]].stat().st_size


def test_weights_of_the_head_are_fp32_in_order(head: Path, libraries: Path) -> None:
    from safetensors.numpy import load_file

    files = assemble(head, precision="fp32")
    values = np.frombuffer(files[page_json(files)["weights"][6:]], "<f4")
    state = load_file(head / "head.safetensors")
    assert np.array_equal(values, np.concatenate([state["weight"].ravel(), state["bias"]]))


def test_a_change_gets_other_paths(head: Path, libraries: Path, tmp_path: Path, recogniser: Make) -> None:
    """Browsers keep what they have under a path."""
    first = assemble(head, precision="fp32")
    assert assemble(head, precision="fp32") == first
    (tmp_path / "list").write_text("v1 بسم الله\n", encoding="utf-8")
    second = assemble(head, precision="fp32", texts=tmp_path / "list")
    changed = {name.rpartition("/")[0] for name in set(first) ^ set(second)}
    assert len(changed) == 2 and all(name.startswith("page/") for name in changed)
    other = assemble(recogniser(tmp_path / "other", seed=1), precision="fp32")
    assert not {name for name in set(first) & set(other) if name.startswith(("page/", "model/"))}
    page = tmp_path / "page"
    shutil.copytree(PAGE, page, ignore=shutil.ignore_patterns("node_modules"))
    (page / "app.js").write_text((page / "app.js").read_text("utf-8") + "\n// changed\n", encoding="utf-8")
    assert not {name for name in assemble(head, precision="fp32", page=page) if name in first and "page/" in name}


def test_a_list_in_quran_spelling_is_converted(head: Path, libraries: Path, tmp_path: Path) -> None:
    path = tmp_path / "list.text"
    path.write_text("v1 ٱلۡكِتَٰبِ مَآ\n\nv2 الحمد\n", encoding="utf-8")
    facts = page_json(assemble(head, precision="fp32", texts=path, spans=2))
    assert facts["texts"] == {"ids": ["v1", "v2"], "texts": ["الكتاب ما", "الحمد"], "lines": ["ٱلۡكِتَٰبِ مَآ", "الحمد"]}
    assert facts["spans"] == 2 and facts["textsName"] == "list.text"


def test_an_export_is_made_once(head: Path, libraries: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    export = site.export_onnx
    monkeypatch.setattr(site, "export_onnx", lambda *a, **k: made.append(a) or export(*a, **k))
    first = assemble(head)
    assert len(made) == 1 and assemble(head) == first and len(made) == 1


def test_an_export_of_other_weights_is_not_used(head: Path, libraries: Path, tmp_path: Path, recogniser: Make) -> None:
    other = recogniser(tmp_path / "other", seed=1).parent
    site.export_onnx(other, head.parent / "int8.onnx", precision="int8")
    facts = page_json(files := assemble(head))
    assert facts["encoderKey"] == facts["headKey"] == model_sha256(head.parent)
    assert (tmp_path / "cache") in files[facts["encoder"][6:]].parents


def test_a_head_of_another_model_is_refused(head: Path, libraries: Path, tmp_path: Path, recogniser: Make) -> None:
    other = recogniser(tmp_path / "other", seed=1)
    with pytest.raises(DownstreamError, match="trained on other weights .* with --model"):
        assemble(head, other.parent, precision="fp32")
    with pytest.raises(DownstreamError, match="holds .* the head was trained on"):
        linear_layer(head, 32)


def test_a_page_without_its_files_is_refused(head: Path, tmp_path: Path) -> None:
    with pytest.raises(DownstreamError, match="missing from this installation"):
        assemble(head, page=tmp_path / "nothing")


def test_missing_npm_is_named_with_the_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path))
    page = bare_page(tmp_path)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(DownstreamError, match="npm is missing.*install Node.js.*or copy ort.wasm.min.mjs"):
        packages.runtime(page)


def bare_page(folder: Path) -> Path:
    """Copies of the page's lists for npm, without node_modules."""
    page = folder / "page"
    page.mkdir()
    for name in ("package.json", "package-lock.json"):
        shutil.copy(PAGE / name, page)
    return page


def test_npm_fills_the_cache_once_and_its_errors_are_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path / "cache"))
    page = bare_page(tmp_path)
    calls = []

    def run(command: list[str], cwd: str, **options: object) -> subprocess.CompletedProcess:
        calls.append(command)
        if len(calls) == 1:
            return subprocess.CompletedProcess(command, 1, "", "npm error code ENOTFOUND\nnpm error network down\n")
        dist = Path(cwd) / "node_modules" / packages.PACKAGE / "dist"
        dist.mkdir(parents=True)
        assert (Path(cwd) / "package-lock.json").is_file()
        for name in packages.RUNTIME:
            (dist / name).write_text(name)
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(packages.subprocess, "run", run)
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    with pytest.raises(DownstreamError, match="ENOTFOUND; npm error network down"):
        packages.runtime(page)
    folder = packages.runtime(page)
    assert packages.runtime(page) == folder and len(calls) == 2
    assert {path.name for path in folder.iterdir()} == set(packages.RUNTIME)


def test_an_installed_package_of_another_version_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path / "cache"))
    page = bare_page(tmp_path)
    package = page / "node_modules" / packages.PACKAGE
    (package / "dist").mkdir(parents=True)
    for name in packages.RUNTIME:
        (package / "dist" / name).write_text(name)
    for version, used in ((packages.wanted_version(page), True), ("0.0.1", False)):
        (package / "package.json").write_text(json.dumps({"version": version}))
        if used:
            assert packages.runtime(page) == package / "dist"
        else:
            monkeypatch.setattr(shutil, "which", lambda name: None)
            with pytest.raises(DownstreamError, match="npm is missing"):
                packages.runtime(page)


def test_the_lock_file_names_no_registry() -> None:
    text = (PAGE / "package-lock.json").read_text("utf-8")
    assert "resolved" not in text and "integrity" in text
    wanted = json.loads((PAGE / "package.json").read_text("utf-8"))["dependencies"][packages.PACKAGE]
    assert wanted == packages.wanted_version(PAGE)


@pytest.fixture
def server() -> Iterator[Server]:
    files = {
        "index.html": b"<p>",
        "sw.js": b"1",
        "ort/1/a.wasm": b"\0asm",
        "ort/1/a.mjs": b"2",
        "page/1/page.json": b"{}",
    }
    with Server(files, 0) as found:
        thread = threading.Thread(target=found.serve_forever)
        thread.start()
        yield found
        found.shutdown()
        thread.join()


def ask(server: Server, path: str, method: str = "GET", **headers: str) -> http.client.HTTPResponse:
    connection = http.client.HTTPConnection("127.0.0.1", server.server_address[1])
    connection.request(method, path, headers=headers)
    return connection.getresponse()


def test_headers_and_types(server: Server) -> None:
    kinds = {
        "/": "text/html; charset=utf-8", "/sw.js": "text/javascript; charset=utf-8",
        "/ort/1/a.wasm": "application/wasm", "/ort/1/a.mjs": "text/javascript; charset=utf-8",
        "/page/1/page.json": "application/json",
    }  # fmt: skip
    for path, kind in kinds.items():
        answer = ask(server, path)
        assert answer.status == 200 and answer.headers["Content-Type"] == kind
        assert {name: answer.headers[name] for name in HEADERS} == HEADERS
        assert answer.headers["Cross-Origin-Opener-Policy"] == "same-origin"
        assert answer.headers["Cross-Origin-Embedder-Policy"] == "require-corp"
        assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
        assert ("immutable" in answer.headers["Cache-Control"]) == (path.count("/") > 1)
    assert ask(server, "/?lang=ar").read() == b"<p>"
    head = ask(server, "/ort/1/a.wasm", "HEAD")
    assert head.headers["Content-Length"] == "4" and head.read() == b""


def test_nothing_else_is_served(server: Server) -> None:
    assert server.server_address[0] == "127.0.0.1"
    assert ask(server, "/../pyproject.toml").status == ask(server, "/nothing").status == 404
    assert ask(server, "/", Host="example.org").status == ask(server, "/", Host="example.org:80").status == 403
    assert ask(server, "/", Host="localhost:1").status == 200


def test_a_port_in_use_is_named(server: Server, head: Path, libraries: Path, capsys: pytest.CaptureFixture) -> None:
    port = server.server_address[1]
    assert main(["web", "--head", str(head), "--port", str(port)]) == 2
    assert f"--port {port} is in use; give another one" in capsys.readouterr().err


def test_the_page_as_a_folder(head: Path, libraries: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    out = tmp_path / "out"
    for _ in range(2):  # an older page is replaced
        assert main(["web", "--head", str(head), "--out", str(out), "--precision", "fp32"]) == 0
    assert "Cross-Origin-Embedder-Policy: require-corp" in capsys.readouterr().out
    files = assemble(head, precision="fp32")
    assert {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()} == set(files)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").touch()
    assert main(["web", "--head", str(head), "--out", str(tmp_path / "mine")]) == 2
    assert (tmp_path / "mine" / "thesis.tex").exists()
    write_site(files, tmp_path / "again")
    assert (tmp_path / "again" / "index.html").read_bytes() == files["index.html"]

"""`push` to a stand-in for the Hub on this machine: the model directory arrives byte for byte."""

from __future__ import annotations

import base64
import hashlib
import http.server
import json
import os
import re
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch

from upstream.model.encoder import build_encoder
from upstream.model.family import geometry
from upstream.model.modeldir import FILES, load_model, save_model

ROOT = Path(__file__).resolve().parents[3]


class Hub(http.server.BaseHTTPRequestHandler):
    """The calls of `huggingface_hub` for one commit: create, preupload, Git LFS, commit."""

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        server, path = self.server, self.path.partition("?")[0]
        server.tokens.add(self.headers.get("Authorization"))
        if self.headers.get("Authorization") != "Bearer hf_standin":
            return self.answer({"error": "Invalid credentials"}, 401)
        if path == "/api/repos/create":
            asked = json.loads(body)
            server.created.append(asked)
            owner, name = asked.get("organization") or "someone", asked["name"]
            return self.answer({"url": f"{server.url}/{owner}/{name}", "id": f"{owner}/{name}"})
        if path == "/api/validate-yaml":
            server.cards.append(json.loads(body)["content"])
            return self.answer({"warnings": [], "errors": []})
        if re.fullmatch(r"/api/models/[\w/-]+/preupload/main", path):
            files = json.loads(body)["files"]
            modes = [
                {
                    "path": f["path"],
                    "uploadMode": "lfs" if f["path"].endswith(".safetensors") else "regular",
                    "shouldIgnore": False,
                    "oid": None,
                }
                for f in files
            ]
            return self.answer({"files": modes})
        if path.endswith("/info/lfs/objects/batch"):
            objects = [
                {**o, "actions": {"upload": {"href": f"{server.url}/lfs/{o['oid']}"}}}
                for o in json.loads(body)["objects"]
            ]
            return self.answer({"transfer": "basic", "objects": objects})
        if re.fullmatch(r"/api/models/[\w/-]+/commit/main", path):
            for line in body.decode().splitlines():
                entry = json.loads(line)
                value = entry["value"]
                if entry["key"] == "file":
                    server.files[value["path"]] = base64.b64decode(value["content"])
                elif entry["key"] == "lfsFile":
                    server.files[value["path"]] = server.blobs[value["oid"]]
            return self.answer(
                {"commitUrl": f"{server.url}/someone/harness-st/commit/abc", "commitOid": "abc", "hookOutput": ""}
            )
        return self.answer({"error": f"no such call: {path}"}, 404)

    def do_PUT(self):
        content = self.rfile.read(int(self.headers["Content-Length"]))
        oid = self.path.rsplit("/", 1)[-1]
        assert hashlib.sha256(content).hexdigest() == oid
        self.server.blobs[oid] = content
        self.answer({})

    def answer(self, obj, status=200):
        content = json.dumps(obj).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *args):
        pass


@pytest.fixture
def hub():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.url = f"http://127.0.0.1:{server.server_port}"
    server.created, server.cards, server.tokens, server.files, server.blobs = [], [], set(), {}, {}
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def model_dir(tmp_path) -> Path:
    torch.manual_seed(0)
    return save_model(build_encoder(geometry("mini_hst")), tmp_path / "harness_st", {"name": "نموذج", "iteration": 3})


def push(hub, model_dir: Path, home: Path, token: str) -> subprocess.CompletedProcess:
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "TRANSFORMERS_"))}
    environment |= {"HF_ENDPOINT": hub.url, "HF_TOKEN": token, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1"}
    command = [sys.executable, "-m", "upstream", "push", str(model_dir), "someone/harness-st", "--private"]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)


@pytest.mark.slow
def test_the_directory_arrives_with_its_card_and_nothing_else(hub, model_dir, tmp_path):
    (model_dir / "optimizer.pt").write_bytes(b"stays here")
    done = push(hub, model_dir, tmp_path / "home", "hf_standin")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == f"{hub.url}/someone/harness-st/commit/abc"
    assert hub.created[0]["name"] == "harness-st" and hub.created[0]["visibility"] == "private"
    assert set(hub.files) == set(FILES)
    assert all(hub.files[name] == (model_dir / name).read_bytes() for name in FILES)
    (card,) = set(hub.cards)
    assert "نموذج" in card and card.startswith("---\nlicense: apache-2.0")
    arrived = tmp_path / "arrived"
    arrived.mkdir()
    for name, content in hub.files.items():
        (arrived / name).write_bytes(content)
    assert load_model(arrived).config.num_hidden_layers == 2


@pytest.mark.slow
def test_a_refused_token_is_one_line(hub, model_dir, tmp_path):
    done = push(hub, model_dir, tmp_path / "home", "hf_other")
    assert done.returncode == 2 and hub.files == {}
    assert len(done.stderr.strip().splitlines()) == 1 and "Invalid credentials" in done.stderr

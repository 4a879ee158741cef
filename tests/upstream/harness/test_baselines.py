"""Baselines: one contract for all encoders; weights from a folder or fetched once, else a one-line error."""

from __future__ import annotations

import hashlib
import http.server
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
from transformers import (
    SeamlessM4TFeatureExtractor,
    Wav2Vec2BertConfig,
    Wav2Vec2BertModel,
    Wav2Vec2Config,
    Wav2Vec2Model,
    WavLMConfig,
    WavLMModel,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperModel,
)

from corpora.files import read_json, write_json
from upstream.__main__ import main
from upstream.errors import UpstreamError
from upstream.harness import baselines
from upstream.harness.baselines import BaselineError, baseline, listing, local_folder, locate, table
from upstream.harness.expert import UpstreamExpert
from upstream.harness.other_encoders import OTHER_ENCODERS, OtherExpert, expert_of
from upstream.model.encoder import frame_count

ROOT = Path(__file__).resolve().parents[3]
SHAPE = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
CONV = {"conv_dim": [16] * 7, "num_conv_pos_embeddings": 8, "num_conv_pos_embedding_groups": 2, "vocab_size": 5}


def wave(samples: int) -> torch.Tensor:
    return 0.1 * torch.randn(samples, generator=torch.Generator().manual_seed(samples))


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> dict[str, Path]:
    """A tiny model of every family as Transformers itself saves it, random weights."""
    folder = tmp_path_factory.mktemp("baselines")
    torch.manual_seed(0)
    whisper = WhisperConfig(
        d_model=32,
        encoder_layers=2,
        encoder_attention_heads=2,
        encoder_ffn_dim=48,
        decoder_layers=1,
        decoder_attention_heads=2,
        decoder_ffn_dim=48,
        vocab_size=60,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        decoder_start_token_id=1,
    )
    made = {
        "whisper": (WhisperModel(whisper), WhisperFeatureExtractor()),
        "wav2vec2-bert": (
            Wav2Vec2BertModel(Wav2Vec2BertConfig(**SHAPE, layerdrop=0.1, apply_spec_augment=True)),
            SeamlessM4TFeatureExtractor(feature_size=80, num_mel_bins=80),
        ),
        "wavlm": (WavLMModel(WavLMConfig(**SHAPE, **CONV, num_buckets=16, do_stable_layer_norm=True)), None),
        "wav2vec2": (Wav2Vec2Model(Wav2Vec2Config(**SHAPE, **CONV, do_stable_layer_norm=True)), None),
    }
    for name, (model, extractor) in made.items():
        model.eval().save_pretrained(folder / name, safe_serialization=True)
        if extractor is None:
            write_json(folder / name / "preprocessor_config.json", {"do_normalize": True, "sampling_rate": 16000})
        else:
            extractor.save_pretrained(folder / name)
    return {name: folder / name for name in made}


@pytest.mark.parametrize("kind", [*OTHER_ENCODERS])
def test_info_describes_an_encoder_of_another_family(models, kind, tmp_path, capsys):
    path = models[kind]
    assert main(["info", "--json", str(path)]) == 0
    facts = json.loads(capsys.readouterr().out)
    model = expert_of(path).model
    sizes = {name: p.numel() for name, p in model.encoder.named_parameters()}
    # The sinusoid of Whisper's positions is no parameter of the module, but is in the file.
    assert facts["parameters"] - sum(sizes.values()) in (0, sizes.get("embed_positions.weight", 0))
    assert (facts["layers"], facts["width"], facts["heads"], facts["ffn"]) == (len(model.layers()), 32, 2, 48)
    assert facts["frame_rate"] == 50.0
    assert main(["info", str(path)]) == 0
    assert f"harness_transformers={path}" in (said := capsys.readouterr().out) and kind in said
    shutil.copytree(path, tmp_path / "m")
    config = read_json(path / "config.json")
    write_json(tmp_path / "m" / "config.json", {k: v for k, v in config.items() if k not in ("hidden_size", "d_model")})
    assert main(["info", str(tmp_path / "m")]) == 2 and "config.json lacks" in capsys.readouterr().err
    write_json(tmp_path / "m" / "config.json", config | ({"conv_kernel": 5} if kind == "wavlm" else {}))
    if kind != "wavlm":
        write_json(tmp_path / "m" / "preprocessor_config.json", {"stride": "2", "hop_length": "2"})
    assert main(["info", str(tmp_path / "m")]) == 2 and "state no frame rate" in capsys.readouterr().err
    shutil.copytree(path, tmp_path / "m", dirs_exist_ok=True)
    (tmp_path / "m" / "model.safetensors").write_bytes(b"no weights")
    assert main(["info", str(tmp_path / "m")]) == 2 and "cannot be read" in capsys.readouterr().err


def their_states(kind: str, folder: Path, wav: torch.Tensor) -> tuple[list[torch.Tensor], torch.Tensor]:
    """Transformers' own hidden states (those below the top) and last state, by its own loader and extractor."""
    with torch.no_grad():
        if kind == "whisper":
            model = WhisperModel.from_pretrained(folder).eval().encoder
            extractor = WhisperFeatureExtractor.from_pretrained(folder)
            given = extractor(wav.numpy(), sampling_rate=16000, return_tensors="pt")
            out = model(given.input_features, output_hidden_states=True)
        elif kind == "wav2vec2-bert":
            model = Wav2Vec2BertModel.from_pretrained(folder).eval()
            extractor = SeamlessM4TFeatureExtractor.from_pretrained(folder)
            given = extractor(wav.numpy(), sampling_rate=16000, return_tensors="pt")
            out = model(given.input_features, output_hidden_states=True)
        else:
            model = (WavLMModel if kind == "wavlm" else Wav2Vec2Model).from_pretrained(folder).eval()
            normalised = (wav - wav.mean()) / (wav.var(unbiased=False) + 1e-7) ** 0.5
            out = model(normalised[None], output_hidden_states=True)
    return [state[0] for state in out.hidden_states[:-1]], out.last_hidden_state[0]


@pytest.mark.parametrize("kind", ["whisper", "wav2vec2-bert", "wavlm", "wav2vec2"])
def test_hidden_states_are_transformers_own(models, kind):
    expert = expert_of(models[kind])
    assert isinstance(expert, OtherExpert) == (kind in OTHER_ENCODERS)
    samples = 400 + 320 * 40 + 160  # 10 ms frames come in an even number
    wav = wave(samples)
    with torch.no_grad():
        states = expert([wav])["hidden_states"]
    below, last = their_states(kind, models[kind], wav)
    frames = -(-samples // 320) if kind == "whisper" else frame_count(samples)
    assert len(states) == 3 and {s.shape for s in states} == {(1, -(-samples // 320), 32)}
    for ours, theirs in zip(states, [*below, last], strict=True):
        torch.testing.assert_close(ours[0, :frames], theirs[:frames], atol=2e-5, rtol=1e-4)
    if kind == "whisper":  # 1500 positions of 20 ms, of which only the clip's are kept
        assert len(last) == 1500 and not torch.allclose(states[-1][0, -1], last[-1], atol=1e-3)


@pytest.mark.parametrize("kind", list(OTHER_ENCODERS))
def test_a_clip_does_not_depend_on_its_batch_or_on_the_mode(models, kind):
    expert = expert_of(models[kind])
    wavs = [wave(n) for n in (11000, 22000, 800, 0)]
    with torch.no_grad():
        together = expert(wavs)["hidden_states"]
        for row, wav in enumerate(wavs):
            alone = expert([wav])["hidden_states"]
            length = alone[0].shape[1]
            for ours, single in zip(together, alone, strict=True):
                assert torch.equal(ours[row, :length], single[0])
    assert expert.get_downsample_rates("hidden_states") == 320
    expert.requires_grad_(False)
    expert.train()
    assert not expert.training
    with torch.no_grad():
        again = expert(wavs)["hidden_states"]
    assert all(torch.equal(a, b) for a, b in zip(together, again, strict=True))
    expert.requires_grad_(True)
    expert.train()
    trained = expert([wave(8000)])["hidden_states"]
    assert len(trained) == 3, "no layer may be dropped in train mode"
    trained[-1].sum().backward()
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in expert.parameters())


def test_whisper_reads_more_than_its_30_seconds_in_pieces(models):
    expert = expert_of(models["whisper"])
    long = wave(16000 * 31)
    with torch.no_grad():
        states = expert([long])["hidden_states"]
        first, rest = (expert([part])["hidden_states"][-1][0] for part in long.split(16000 * 30))
    assert states[-1].shape[1] == 50 * 31
    torch.testing.assert_close(states[-1][0], torch.cat([first, rest]))


def test_odd_last_frame_of_w2v_bert_keeps_to_the_frame_formula(models):
    expert = expert_of(models["wav2vec2-bert"])
    for samples in (400, 559, 560, 719, 720, 8000, 8161):
        with torch.no_grad():
            assert expert.model.states(wave(samples))[-1].shape[0] == frame_count(samples), samples


def test_broken_model_directories_are_refused(models, tmp_path):
    with pytest.raises(UpstreamError, match="config.json"):
        expert_of(tmp_path)
    write_json(tmp_path / "config.json", {"model_type": "bert"})
    with pytest.raises(UpstreamError, match="`bert`"):
        expert_of(tmp_path)
    config = json.loads((models["whisper"] / "config.json").read_text())
    write_json(tmp_path / "config.json", config)
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80\x04.")
    with pytest.raises(UpstreamError, match="model.safetensors"):
        expert_of(tmp_path)
    (tmp_path / "model.safetensors").write_bytes((models["whisper"] / "model.safetensors").read_bytes()[:2000])
    with pytest.raises(UpstreamError, match="model.safetensors"):
        expert_of(tmp_path)
    (tmp_path / "model.safetensors").write_bytes((models["whisper"] / "model.safetensors").read_bytes())
    write_json(tmp_path / "config.json", config | {"encoder_layers": 3})
    with pytest.raises(UpstreamError, match=r"lacks 15 tensors, first `layers\.2"):
        expert_of(tmp_path)
    write_json(tmp_path / "config.json", config | {"encoder_ffn_dim": 64})
    with pytest.raises(UpstreamError, match=str(tmp_path)):
        expert_of(tmp_path)


def published(name: str):
    """The configuration of each published encoder, from its paper's geometry."""
    large = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096}
    large |= {"feat_extract_norm": "layer", "do_stable_layer_norm": True}
    from transformers import HubertConfig, HubertModel
    from transformers.models.whisper.modeling_whisper import WhisperEncoder

    if name.startswith("whisper"):
        size = {"base": (512, 6, 8, 80), "small": (768, 12, 12, 80), "medium": (1024, 24, 16, 80)}
        size["large_v3"] = (1280, 32, 20, 128)
        width, layers, heads, mels = size[name.removeprefix("whisper_")]
        shape = {"d_model": width, "encoder_layers": layers, "encoder_attention_heads": heads, "num_mel_bins": mels}
        return WhisperEncoder(WhisperConfig(encoder_ffn_dim=4 * width, **shape))
    if name.startswith("wavlm"):
        return WavLMModel(WavLMConfig(**({} if name == "wavlm_base_plus" else large)))
    if name == "w2v_bert_2":
        return Wav2Vec2BertModel(Wav2Vec2BertConfig())
    if name == "mms_1b":
        large |= {"hidden_size": 1280, "num_hidden_layers": 48, "intermediate_size": 5120}
    model, config = (HubertModel, HubertConfig) if name.startswith("hubert") else (Wav2Vec2Model, Wav2Vec2Config)
    return model(config() if name == "hubert_base" else config(conv_bias=True, **large))


@pytest.mark.parametrize("name", list(table()))
def test_parameters_of_the_table_are_those_of_the_built_encoder(name):
    with torch.device("meta"):
        built = published(name)
    assert sum(p.numel() for p in built.parameters()) == table()[name].parameters


def test_a_local_folder_comes_first_and_no_network_is_one_clear_line(models, tmp_path, monkeypatch):
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("HARNESS_BASELINES", raising=False)
    row = baseline("whisper_base")
    assert local_folder(row) is None
    with pytest.raises(BaselineError) as failed:  # the tests are offline
        locate(row)
    assert "\n" not in str(failed.value) and "HARNESS_BASELINES/whisper_base" in str(failed.value)
    with pytest.raises(BaselineError, match="whisper_base"):
        locate(row, tmp_path)
    assert locate(row, models["whisper"]) == models["whisper"]
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "whisper_base").symlink_to(models["whisper"])
    monkeypatch.setenv("HARNESS_BASELINES", str(tmp_path / "here"))
    assert locate(row) == tmp_path / "here" / "whisper_base"
    line = next(text for text in listing().splitlines() if text.startswith("whisper_base "))
    assert str(tmp_path / "here" / "whisper_base") in line and "apache-2.0" in line and "20.6" in line
    with pytest.raises(BaselineError, match="`whisper_small`"):
        baseline("whisper_smal")


class Hub(http.server.BaseHTTPRequestHandler):
    """The calls of the hub's client: the files with their sums, then each file, whole or from a byte offset."""

    folder: Path
    asked: list[tuple[str, str]] = []
    cut = 0  # number of answers with weights that end in the middle
    sha256 = ""
    commit = "0123456789abcdef0123456789abcdef01234567"

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        self.answer(body=True)

    def answer(self, body: bool) -> None:
        cls = type(self)
        path = self.path.split("?")[0]
        if path.startswith("/api/models/"):
            files, tree = [], []
            for file in sorted(self.folder.iterdir()):
                size = file.stat().st_size
                files.append({"rfilename": file.name, "size": size})
                tree.append({"type": "file", "path": file.name, "size": size, "oid": "0" * 40})
                if file.suffix == ".safetensors":
                    files[-1]["lfs"] = {"sha256": cls.sha256, "size": size, "pointerSize": 134}
                    tree[-1]["lfs"] = {"oid": cls.sha256, "size": size, "pointerSize": 134}
            if "/tree/" in path:
                return self.send(200, json.dumps(tree).encode(), {}, body)
            facts = {"id": "openai/whisper-base", "sha": self.commit, "siblings": files, "private": False}
            return self.send(200, json.dumps(facts | {"tags": [], "downloads": 0, "likes": 0}).encode(), {}, body)
        file = self.folder / path.rsplit("/", 1)[-1]
        if "/resolve/" not in path or not file.is_file():
            return self.send(404, b"{}", {}, body)
        content = file.read_bytes()
        start = int(re.match(r"bytes=(\d+)-", self.headers.get("Range", "bytes=0-"))[1])
        if body:
            cls.asked.append((file.name, self.headers.get("Range", "")))
        headers = {"X-Repo-Commit": self.commit, "ETag": f'"{hashlib.sha256(content).hexdigest()}"'}
        status = 200
        if start:
            status, headers["Content-Range"] = 206, f"bytes {start}-{len(content) - 1}/{len(content)}"
        part = content[start:]
        if body and file.suffix == ".safetensors" and cls.cut:
            cls.cut -= 1
            return self.send(status, part[: len(part) // 2], headers, True, length=len(part))
        return self.send(status, part, headers, body)

    def send(self, status: int, content: bytes, headers: dict[str, str], body: bool, length: int | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(length or len(content)), "Accept-Ranges": "bytes", **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if body:
            self.wfile.write(content)

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def hub(tmp_path):
    """A local stand-in for the hub with one repository; its weights are more than the client keeps in memory."""
    Hub.folder, Hub.asked, Hub.cut = tmp_path / "hub", [], 0
    Hub.folder.mkdir()
    for name in ("config.json", "preprocessor_config.json", "README.md"):
        write_json(Hub.folder / name, {})
    content = bytes(range(256)) * (24 << 12)
    (Hub.folder / "model.safetensors").write_bytes(content)
    (Hub.folder / "pytorch_model.bin").write_bytes(b"never asked for")
    Hub.sha256 = hashlib.sha256(content).hexdigest()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


def start(hub: str, cache: Path) -> subprocess.Popen:
    program = "from upstream.harness.baselines import baseline, locate; print(locate(baseline('whisper_base')))"
    variables = {"HF_ENDPOINT": hub, "HF_HUB_OFFLINE": "0", "HARNESS_CACHE": str(cache), "HF_HUB_DISABLE_XET": "1"}
    environment = {k: v for k, v in os.environ.items() if k != "HARNESS_BASELINES"} | variables
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, env=environment, **pipes)


@pytest.mark.slow
def test_two_processes_fetch_once_resume_after_a_break_and_then_need_no_network(hub, tmp_path):
    Hub.cut = 1
    cache = tmp_path / "cache"
    both = [start(hub, cache) for _ in range(2)]
    outputs = [process.communicate(timeout=180) for process in both]
    assert [process.returncode for process in both] == [0, 0], outputs
    folders = {out.strip().splitlines()[-1] for out, _ in outputs}
    (folder,) = map(Path, folders)
    assert (folder / "model.safetensors").read_bytes() == (Hub.folder / "model.safetensors").read_bytes()
    assert {name for name, _ in Hub.asked} == {"config.json", "preprocessor_config.json", "model.safetensors"}
    weights = [asked for name, asked in Hub.asked if name == "model.safetensors"]
    assert len(weights) == 2 and not weights[0] and re.match(r"bytes=\d+-", weights[1]), "fetched once, in two parts"
    assert json.loads((folder / "fetched.json").read_text())["revision"] == Hub.commit
    Hub.asked.clear()
    third = start("http://127.0.0.1:9", cache)
    out, errors = third.communicate(timeout=180)
    assert third.returncode != 0, "another endpoint is another source"
    assert "cannot be fetched from http://127.0.0.1:9/openai/whisper-base" in errors
    again = start(hub, cache)
    out, _ = again.communicate(timeout=180)
    assert out.strip() == str(folder) and not Hub.asked


@pytest.mark.slow
def test_a_file_with_a_wrong_sha256_is_not_used(hub, tmp_path):
    Hub.sha256 = "0" * 64
    process = start(hub, tmp_path / "cache")
    _, errors = process.communicate(timeout=180)
    assert process.returncode != 0 and "expected 0000" in errors
    assert not list(tmp_path.rglob("fetched.json")) and not list(tmp_path.glob("cache/*/model.safetensors"))


@pytest.mark.slow
def test_names_are_on_s3prls_hub_and_fall_back_to_its_own_entries(models, tmp_path, monkeypatch):
    import s3prl.hub
    from s3prl.nn import S3PRLUpstream

    import upstream

    upstream.register("s3prl")
    upstream.register("s3prl")
    assert set(table()) <= set(s3prl.hub.options())
    (tmp_path / "hubert_base").symlink_to(models["wav2vec2"])
    monkeypatch.setenv("HARNESS_BASELINES", str(tmp_path))
    assert isinstance(s3prl.hub.hubert_base(), UpstreamExpert)
    states, lengths = S3PRLUpstream("whisper_small", path_or_url=str(models["whisper"]))(
        torch.stack([wave(16000)]), torch.tensor([16000])
    )
    assert [s.shape for s in states] == [(1, 50, 32)] * 3 and lengths[0].tolist() == [50]
    monkeypatch.delenv("HARNESS_BASELINES")
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path / "cache"))
    asked = []

    def theirs(refresh, **options):
        asked.append(options)
        raise ConnectionError("no route\nto host")

    monkeypatch.setattr(s3prl.hub, "xls_r_300m", theirs)
    upstream.register("s3prl")
    try:
        with pytest.raises(BaselineError, match="xls_r_300m.*no route to host"):
            s3prl.hub.xls_r_300m()
        assert asked == [{}]
        with pytest.raises(ValueError, match="`legcy`"):
            s3prl.hub.whisper_small(legcy=True)
    finally:
        monkeypatch.undo()
        restore(s3prl.hub)


def restore(hub) -> None:
    """Register S3PRL's own function behind our entry again."""
    from s3prl.upstream.wav2vec2 import hubconf

    hub.xls_r_300m = hubconf.xls_r_300m
    for name, entry in baselines.entries(hub).items():
        setattr(hub, name, entry)

"""The S3PRL upstream folder: frames, padding, modes, and models by name and by URL."""

from __future__ import annotations

import functools
import hashlib
import http.server
import shutil
import threading
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from corpora.files import CorpusError
from upstream.errors import UpstreamError
from upstream.harness import hubconf
from upstream.harness.expert import UpstreamExpert
from upstream.harness.locate import cache_folder, parse_sums
from upstream.model.encoder import build_encoder, encode, frame_count
from upstream.model.family import Geometry
from upstream.model.modeldir import FILES, load_model, save_model

NAMES = {"harness_l", "harness_s", "harness_st", "harness_l_it1", "random_l"}


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory) -> Path:
    torch.manual_seed(0)
    shape = dict(conv_channels=8, pos_conv_kernel=8, pos_conv_groups=4)
    model = build_encoder(Geometry("tiny", 2, 16, 2, 32, "waveform", **shape))
    return save_model(model, tmp_path_factory.mktemp("models") / "harness_st", {"name": "tiny"})


@pytest.fixture(scope="module")
def expert(model_dir) -> UpstreamExpert:
    return UpstreamExpert(model_dir)


def wave(samples: int, seed: int = 0) -> torch.Tensor:
    return 0.1 * torch.randn(samples, generator=torch.Generator().manual_seed(seed))


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.integers(0, 5000), min_size=1, max_size=4))
def test_frames_of_each_item_are_its_own(expert, lengths):
    wavs = [wave(n, seed=i) for i, n in enumerate(lengths)]
    with torch.no_grad():
        states = expert(wavs)["hidden_states"]
    total = max(1, -(-max(lengths) // 320))
    assert isinstance(states, list) and [s.shape for s in states] == [(len(wavs), total, 16)] * 3
    for i, wav in enumerate(wavs):
        item = torch.nn.functional.pad(wav, (0, max(0, 400 - len(wav))))
        with torch.no_grad():
            alone = encode(expert.model, [item]).hidden_states
        frames = frame_count(len(item))
        for state, mine in zip(states, alone, strict=True):
            torch.testing.assert_close(state[i, :frames], mine[0], atol=2e-5, rtol=0)
            tail = state[i, frames:]
            torch.testing.assert_close(tail, state[i, frames - 1 : frames].expand_as(tail), atol=0, rtol=0)


def test_empty_list_and_two_dimensional_input_are_refused(expert):
    with pytest.raises(ValueError, match="empty"):
        expert([])
    with pytest.raises(ValueError, match=r"waveform 1 has shape \(1, 800\)"):
        expert([wave(800), wave(800)[None]])


def test_frozen_expert_stays_in_eval_mode_and_a_trainable_one_does_not(model_dir):
    expert = UpstreamExpert(model_dir)
    assert expert.train().training and expert.model.training
    expert.eval()
    for p in expert.parameters():
        p.requires_grad = False
    torch.nn.Sequential(expert).train()  # a trainer calls train() on what holds the upstream
    assert not any(m.training for m in expert.modules())
    next(expert.parameters()).requires_grad = True
    assert expert.train().model.encoder.layers[0].training


def test_expert_frozen_after_train_was_called_has_no_dropout(model_dir):
    expert = UpstreamExpert(model_dir).train()
    for p in expert.parameters():
        p.requires_grad = False
    first, second = (expert([wave(4000)])["hidden_states"][-1] for _ in range(2))
    assert torch.equal(first, second)


def test_train_mode_has_dropout_and_every_layer(model_dir):
    expert = UpstreamExpert(model_dir)
    expert.model.config.layerdrop = 0.0
    expert.train()
    first, second = (expert([wave(4000)])["hidden_states"] for _ in range(2))
    assert len(first) == len(second) == 3 and not torch.equal(first[-1], second[-1])
    assert UpstreamExpert(model_dir).model.config.layerdrop == 0.0


def test_hooks_on_layers_see_their_output(expert):
    seen = []
    layer = expert.model.encoder.layers[0]
    handle = layer.register_forward_hook(lambda module, inputs, output: seen.append(output))
    with torch.no_grad():
        states = expert([wave(16000)])["hidden_states"]
    handle.remove()
    output = seen[0][0] if isinstance(seen[0], tuple) else seen[0]
    assert torch.equal(output[0], states[1][0, : output.shape[1]])


def test_names_are_read_from_the_models_folder(model_dir, monkeypatch):
    monkeypatch.setenv("HARNESS_MODELS", str(model_dir.parent))
    loaded = hubconf.harness_st(refresh=False, model_config=None, ckpt=None)
    mine = load_model(model_dir)
    assert all(torch.equal(a, b) for a, b in zip(loaded.model.parameters(), mine.parameters(), strict=True))
    assert {n for n in vars(hubconf) if not n.startswith("_") and callable(getattr(hubconf, n))} == NAMES | {
        "harness_custom",
        "harness_local",
        "harness_open",
        "harness_open_tiny",
        "harness_url",
    }


@pytest.mark.parametrize("name", sorted(NAMES))
def test_errors_for_missing_names_give_the_command_that_trains_them(name, monkeypatch, tmp_path):
    monkeypatch.delenv("HARNESS_MODELS", raising=False)
    with pytest.raises(UpstreamError, match=rf"{name}.*HARNESS_MODELS.*run\.sh"):
        getattr(hubconf, name)()
    (tmp_path / "harness_x").mkdir()
    (tmp_path / "harness_x" / "config.json").write_text("{}")
    monkeypatch.setenv("HARNESS_MODELS", str(tmp_path))
    with pytest.raises(UpstreamError, match=rf"{name}.*harness_x.*run\.sh"):
        getattr(hubconf, name)()


def test_wrong_use_of_the_entries_is_named(model_dir, tmp_path):
    with pytest.raises(ValueError, match="path_or_url: DIR"):
        hubconf.harness_custom()
    with pytest.raises(ValueError, match="`chkpt`"):
        hubconf.harness_custom(str(model_dir), chkpt="x")
    with pytest.raises(ValueError, match="https://example.org/model"):
        hubconf.harness_local("https://example.org/model")
    with pytest.raises(UpstreamError, match="absent"):
        hubconf.harness_local(str(tmp_path / "absent"))


class Quiet(http.server.SimpleHTTPRequestHandler):
    asked: list[str] = []

    def do_GET(self):
        self.asked.append(self.path.rsplit("/", 1)[-1])
        super().do_GET()

    def log_message(self, *args):
        pass


@pytest.fixture
def served(model_dir, tmp_path, monkeypatch):
    """A local web server with the model under /m/harness_st; yields (base URL, folder, requested names)."""
    folder = tmp_path / "site" / "m" / "harness_st"
    shutil.copytree(model_dir, folder)
    Quiet.asked = []
    handler = functools.partial(Quiet, directory=str(tmp_path / "site"))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path / "cache"))
    yield f"http://127.0.0.1:{server.server_port}/m/harness_st", folder, Quiet.asked
    server.shutdown()
    server.server_close()


def write_sums(folder: Path) -> dict[str, str]:
    sums = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in FILES}
    (folder / "sha256sums").write_text("".join(f"{digest}  {name}\n" for name, digest in sums.items()))
    return sums


def test_url_is_downloaded_once_and_refreshed_when_it_changed(served, model_dir):
    url, folder, asked = served
    write_sums(folder)
    expert = hubconf.harness_custom(url)
    assert sorted(asked) == sorted([*FILES, "sha256sums"])
    same = zip(expert.model.parameters(), load_model(model_dir).parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in same)
    hubconf.harness_url(url + "/")
    assert len(asked) == 5

    changed = load_model(model_dir)
    changed.encoder.layer_norm.bias.data.fill_(3.0)
    save_model(changed, folder, {"name": "changed"})
    write_sums(folder)
    assert hubconf.harness_url(url).model.encoder.layer_norm.bias[0].item() == 0.0
    assert hubconf.harness_url(url, refresh=True).model.encoder.layer_norm.bias[0].item() == 3.0


def test_url_without_or_with_wrong_sums_is_refused(served):
    url, folder, _ = served
    with pytest.raises(CorpusError, match="404"):
        hubconf.harness_url(url)
    sums = write_sums(folder)
    with pytest.raises(UpstreamError, match="README.md"):
        hubconf.harness_url(url, sha256sums={k: v for k, v in sums.items() if k != "README.md"})
    wrong = dict(sums, **{"model.safetensors": "0" * 64})
    with pytest.raises(CorpusError, match="0000"):
        hubconf.harness_url(url, sha256sums=wrong)
    assert not (cache_folder(url) / "model.safetensors").exists()


def test_sums_are_parsed_and_other_file_names_are_ignored():
    digest = "ab" * 32
    text = f"{digest} *./config.json\r\n" + "".join(f"{digest}  {name}\n" for name in FILES[1:])
    assert parse_sums(text + f"{digest}  ../../evil\n") == dict.fromkeys(FILES, digest)
    with pytest.raises(UpstreamError, match="line 1"):
        parse_sums("abc config.json")

"""S3PRL's own requirements for an upstream, and its commands through our launcher."""

from __future__ import annotations

import sys
from argparse import Namespace
from pathlib import Path

import pytest
import torch
import yaml

import upstream
from upstream.__main__ import main
from upstream.model.encoder import build_encoder
from upstream.model.family import Geometry
from upstream.model.modeldir import save_model

SECONDS = (0.05, 0.33, 1.0, 2.5)
TOLERATED = 5  # frames that S3PRL's interfaces allow between a length and its features


@pytest.fixture(scope="module", params=["waveform", "logmel", "squeezed"])
def model_dir(request, tmp_path_factory) -> Path:
    torch.manual_seed(1)
    shape = dict(conv_channels=8, pos_conv_kernel=8, pos_conv_groups=4)
    front_end = "waveform" if request.param == "waveform" else "logmel"
    squeeze = 2 if request.param == "squeezed" else 1
    model = build_encoder(Geometry("tiny", 3, 16, 2, 32, front_end, squeeze=squeeze, **shape))
    return save_model(model, tmp_path_factory.mktemp("s3prl") / request.param, {"name": request.param})


@pytest.fixture(scope="module")
def hub():
    upstream.register("s3prl")
    import s3prl.hub

    return s3prl.hub


@pytest.fixture(scope="module")
def wavs() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [0.1 * torch.randn(round(s * 16000), generator=generator) for s in SECONDS]


@torch.no_grad()
def test_two_instances_and_two_calls_give_the_same_features(hub, model_dir, wavs):
    first, second = (hub.harness_custom(str(model_dir)).eval() for _ in range(2))
    once, again, other = first(wavs), first(wavs), second(wavs)
    for a, b, c in zip(once["hidden_states"], again["hidden_states"], other["hidden_states"], strict=True):
        assert torch.equal(a, b) and torch.equal(a, c)


@torch.no_grad()
def test_features_have_the_length_that_s3prl_counts(hub, model_dir, wavs):
    expert = hub.harness_custom(str(model_dir)).eval()
    rate = expert.get_downsample_rates("hidden_states")
    for wav in wavs:
        for state in expert([wav])["hidden_states"]:
            assert state.dim() == 3 and state.shape[0] == 1
            assert abs(state.shape[1] - round(len(wav) / rate)) < TOLERATED


@torch.no_grad()
def test_an_item_does_not_depend_on_its_batch(hub, model_dir, wavs):
    expert = hub.harness_custom(str(model_dir)).eval()
    together = expert(wavs)["hidden_states"]
    for i, wav in enumerate(wavs):
        for state, alone in zip(together, expert([wav])["hidden_states"], strict=True):
            torch.testing.assert_close(state[i, : alone.shape[1]], alone[0], atol=2e-5, rtol=0)


def test_the_number_of_states_is_constant_in_train_mode(hub, model_dir, wavs):
    expert = hub.harness_custom(str(model_dir)).train()
    assert expert.training
    assert {len(expert(wavs)["hidden_states"]) for _ in range(5)} == {4}


@torch.no_grad()
def test_both_of_s3prls_featurizers_take_the_states(hub, model_dir, wavs):
    from s3prl.nn import Featurizer, S3PRLUpstream
    from s3prl.upstream.interfaces import Featurizer as OldFeaturizer

    expert = hub.harness_custom(str(model_dir))
    old = OldFeaturizer(expert, upstream_device="cpu")
    features = old(wavs, expert.eval()(wavs))
    assert [f.shape[1] for f in features] == [16] * len(wavs) and old.downsample_rate == 320
    assert all(abs(len(f) - len(wav) / 320) < TOLERATED for f, wav in zip(features, wavs, strict=True))

    new = S3PRLUpstream("harness_custom", path_or_url=str(model_dir)).eval()
    batch = torch.nn.utils.rnn.pad_sequence(wavs, batch_first=True)
    states, lengths = new(batch, torch.tensor([len(wav) for wav in wavs]))
    mixed, counted = Featurizer(new)(states, lengths)
    assert counted.tolist() == [-(-len(wav) // 320) for wav in wavs]
    for i, f in enumerate(features):
        torch.testing.assert_close(mixed[i, : len(f)], f[: mixed.shape[1]], atol=2e-5, rtol=0)


def test_frozen_upstream_in_s3prls_own_container_is_in_eval_mode(hub, model_dir, wavs):
    from s3prl.nn.upstream import Featurizer, S3PRLUpstream, UpstreamDownstreamModel

    inner = S3PRLUpstream("harness_custom", path_or_url=str(model_dir))
    inner.requires_grad_(False)
    whole = UpstreamDownstreamModel(inner, Featurizer(inner), lambda h, n: h).train()
    assert not any(m.training for m in inner.upstream.modules())
    batch, lengths = wavs[2][None], torch.tensor([len(wavs[2])])
    assert torch.equal(whole(batch, lengths), whole(batch, lengths))


def test_no_tensor_leaves_the_device(hub, model_dir, wavs, monkeypatch):
    expert = hub.harness_custom(str(model_dir)).eval()
    for name in ("numpy", "cpu", "__array__", "tolist"):
        monkeypatch.setattr(torch.Tensor, name, lambda *a, **k: pytest.fail("left the device"))
    states = expert(wavs)["hidden_states"]
    monkeypatch.undo()
    assert torch.isfinite(states[-1]).all()


def test_hooks_run_on_every_layer_the_front_end_and_the_projection(hub, model_dir, wavs):
    expert = hub.harness_custom(str(model_dir)).eval()
    seen = []
    watched = [expert.model.feature_extractor, expert.model.feature_projection, expert.model.encoder.pos_conv_embed]
    for module in [*watched, *expert.model.encoder.layers, expert.model.encoder.layer_norm]:
        module.register_forward_hook(lambda module, *_: seen.append(module))
    expert(wavs)
    assert len(seen) == len(set(map(id, seen))) == 3 + 3 + 1


@pytest.mark.parametrize("model_dir", ["logmel"], indirect=True)
def test_the_runner_trains_a_probe_and_reads_its_checkpoint(model_dir, tmp_path, monkeypatch):
    from s3prl.downstream.example import dataset

    monkeypatch.setattr(dataset, "EXAMPLE_DATASET_SIZE", 4)
    monkeypatch.setattr(dataset, "EXAMPLE_WAV_MIN_SEC", 1)
    monkeypatch.setattr(dataset, "EXAMPLE_WAV_MAX_SEC", 2)
    config = {
        "runner": {
            "total_steps": 2, "gradient_clipping": 1, "gradient_accumulate_steps": 1, "log_step": 1, "eval_step": 2,
            "save_step": 2, "max_keep": 1, "eval_dataloaders": ["dev"],
        },
        "optimizer": {"name": "TorchOptim", "torch_optim_name": "Adam", "lr": 1e-3},
        "downstream_expert": {
            "datarc": {"num_workers": 0, "train_batch_size": 2, "eval_batch_size": 2},
            "modelrc": {"input_dim": 8},
        },
    }  # fmt: skip
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    out = tmp_path / "result"
    options = ["-u", "harness_custom", "-k", str(model_dir), "-d", "example", "-c", str(tmp_path / "config.yaml")]
    command = ["s3prl", "-m", "train", *options, "-p", str(out), "--device", "cpu"]
    before = list(sys.argv)
    assert main(command) == 0
    assert (out / "states-2.ckpt").is_file() and sys.argv == before
    assert main(["s3prl", "-m", "evaluate", "-e", str(out / "states-2.ckpt"), "-t", "dev", "--device", "cpu"]) == 0
    assert Namespace not in torch.serialization.get_safe_globals()  # what one command needs is not left to the process


def test_the_launcher_reaches_s3prls_problems_and_names_unknown_ones(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["s3prl", "SuperbER", "--print_config"])
    assert stopped.value.code == 0
    printed = capsys.readouterr().out
    assert "build_upstream" in printed and "Default config of" in printed
    assert main(["s3prl", "SuperbAR"]) == 2
    error = capsys.readouterr().err
    assert "`SuperbAR` is unknown; the nearest known one is `Superb" in error and error.count("\n") == 1
    assert main(["s3prl", "--help"]) == 0
    assert "python -m upstream s3prl PROBLEM" in capsys.readouterr().out

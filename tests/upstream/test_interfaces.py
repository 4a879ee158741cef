"""One model directory through S3PRL, ESPnet and Transformers: the same numbers on every valid frame."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import torch
import yaml

import upstream
from upstream.model.encoder import build_encoder, encode, frame_count
from upstream.model.family import Geometry
from upstream.model.modeldir import load_model, save_model

LENGTHS = (16000, 11111, 800, 5043)
TOLERANCE = 2e-5
GEOMETRIES = {
    "waveform": Geometry(
        "tiny_wave", 3, 32, 2, 64, "waveform", conv_channels=16, pos_conv_kernel=16, pos_conv_groups=4
    ),
    "logmel": Geometry("tiny_mel", 3, 32, 2, 64, "logmel", pos_conv_kernel=16, pos_conv_groups=4),
    "squeezed": Geometry("tiny_fast", 3, 32, 2, 64, "logmel", pos_conv_kernel=16, pos_conv_groups=4, squeeze=2),
    "copied": Geometry("tiny_open", 3, 32, 2, 64, "logmel", stem="convolution", positions="sinusoid"),
}


@pytest.fixture(scope="module", params=sorted(GEOMETRIES))
def model_dir(request, tmp_path_factory) -> Path:
    torch.manual_seed(1)
    model = build_encoder(GEOMETRIES[request.param])
    for p in model.parameters():  # initial norms and biases of 1 and 0 would hide a swapped tensor
        p.data.add_(0.05 * torch.randn_like(p))
    return save_model(
        model, tmp_path_factory.mktemp("interfaces") / request.param, {"name": request.param, "iteration": 2}
    )


@pytest.fixture(scope="module")
def wavs() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [0.1 * torch.randn(n, generator=generator) for n in LENGTHS]


@pytest.fixture(scope="module", autouse=True)
def registered():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert upstream.register() == ["s3prl", "transformers"]


def padded(wavs: list[torch.Tensor], noise: float = 0.0) -> tuple[torch.Tensor, torch.Tensor]:
    batch = noise * torch.randn(len(wavs), max(map(len, wavs)))
    for row, wav in zip(batch, wavs, strict=True):
        row[: len(wav)] = wav
    return batch, torch.tensor([len(wav) for wav in wavs])


@torch.no_grad()
def reference(model_dir: Path, wav: torch.Tensor) -> list[torch.Tensor]:
    """Hidden states of one waveform alone, (T, D) each, from our own forward pass."""
    return [state[0] for state in encode(load_model(model_dir), [wav]).hidden_states]


def s3prl_upstream(model_dir: Path):
    from s3prl.nn import S3PRLUpstream

    return S3PRLUpstream("harness_custom", path_or_url=str(model_dir))


def espnet_frontend(model_dir: Path, **options):
    from espnet2.asr.frontend.s3prl import S3prlFrontend

    conf = {"upstream": "harness_custom", "path_or_url": str(model_dir)}
    return S3prlFrontend(fs=16000, frontend_conf=conf, **options)


@torch.no_grad()
@pytest.mark.slow
def test_s3prl_gives_our_hidden_states_on_valid_frames_and_repeats_the_last(model_dir, wavs):
    model = s3prl_upstream(model_dir).eval()
    states, lengths = model(*padded(wavs, noise=1.0))
    assert model.num_layers == 4 and model.downsample_rates == [320] * 4 and len(states) == 4
    for i, wav in enumerate(wavs):
        alone, frames = reference(model_dir, wav), frame_count(len(wav))
        for state, length, mine in zip(states, lengths, alone, strict=True):
            assert length[i] == -(-len(wav) // 320)
            torch.testing.assert_close(state[i, :frames], mine, atol=TOLERANCE, rtol=0)
            tail = state[i, frames:]
            torch.testing.assert_close(tail, mine[-1:].expand_as(tail), atol=TOLERANCE, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize("samples", [1, 100, 399, 400, 800])
@pytest.mark.slow
def test_s3prl_takes_short_inputs_alone_and_in_a_batch(model_dir, wavs, samples):
    model = s3prl_upstream(model_dir).eval()
    short = wavs[0][:samples]
    states, lengths = model(*padded([short]))
    assert lengths[0].tolist() == [-(-samples // 320)]
    assert all(torch.isfinite(s).all() and s.shape[1] == lengths[0][0] for s in states)
    beside, lengths = model(*padded([wavs[1], short]))
    assert lengths[0].tolist() == [-(-len(wavs[1]) // 320), -(-samples // 320)]
    assert all(torch.isfinite(s).all() for s in beside)
    if samples >= 800:  # below that S3PRL itself pads a short clip that is alone
        torch.testing.assert_close(beside[-1][1, : states[-1].shape[1]], states[-1][0], atol=TOLERANCE, rtol=0)


def test_s3prl_layer_count_is_constant_in_train_mode_and_gradients_flow(model_dir, wavs):
    model = s3prl_upstream(model_dir).train()
    for _ in range(3):
        states, _ = model(*padded(wavs))
        assert len(states) == 4
    states[-1].square().mean().backward()
    grads = [p.grad for p in model.parameters() if p.grad is not None]
    assert grads and all(torch.isfinite(g).all() for g in grads)


def test_espnet_frozen_front_end_is_deterministic_in_train_mode_and_equals_s3prl(model_dir, wavs):
    frontend = espnet_frontend(model_dir, multilayer_feature=True)
    for p in frontend.upstream.parameters():
        p.requires_grad = False
    frontend.train()
    batch = padded(wavs)
    with torch.no_grad():
        first, lengths = frontend(*batch)
        second, _ = frontend(*batch)
    assert torch.equal(first, second)
    assert frontend.output_size() == 32 and frontend.hop_length == 320
    for i, wav in enumerate(wavs):
        frames = frame_count(len(wav))
        mean = torch.stack(reference(model_dir, wav)).mean(0)  # the layer weights start equal
        torch.testing.assert_close(first[i, :frames], mean, atol=TOLERANCE, rtol=0)
        assert lengths[i] == -(-len(wav) // 320)


def test_espnet_fine_tuned_front_end_has_dropout_and_gradients(model_dir, wavs):
    torch.manual_seed(0)
    frontend = espnet_frontend(model_dir, multilayer_feature=True).train()
    first, _ = frontend(*padded(wavs))
    second, _ = frontend(*padded(wavs))
    assert not torch.equal(first, second)
    first.sum().backward()
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in frontend.upstream.parameters())


def test_espnet_front_end_reloads_its_checkpoint(model_dir, wavs, tmp_path):
    first, second = espnet_frontend(model_dir), espnet_frontend(model_dir)
    with torch.no_grad():
        for p in first.parameters():
            p.add_(0.1)
    torch.save(first.state_dict(), tmp_path / "front.pth")
    second.load_state_dict(torch.load(tmp_path / "front.pth", weights_only=True))
    first.eval(), second.eval()
    with torch.no_grad():
        assert torch.equal(first(*padded(wavs))[0], second(*padded(wavs))[0])
    second.reload_pretrained_parameters()
    with torch.no_grad():
        original = espnet_frontend(model_dir).eval()(*padded(wavs))[0]
        torch.testing.assert_close(second(*padded(wavs))[0], original)


def espnet_asr(model_dir: Path, folder: Path):
    """ESPnet's own recogniser with our front end, built from a configuration as its trainer builds it."""
    from espnet2.tasks.asr import ASRTask

    config = {
        "frontend": "s3prl",
        "frontend_conf": {
            "frontend_conf": {"upstream": "harness_custom", "path_or_url": str(model_dir)},
            "multilayer_feature": True,
        },
        "freeze_param": ["frontend.upstream"],
        "specaug": None,
        "normalize": None,
        "preencoder": "linear",
        "preencoder_conf": {"input_size": 32, "output_size": 16},
        "encoder": "rnn",
        "encoder_conf": {"hidden_size": 8, "output_size": 8, "num_layers": 1},
        "decoder": "rnn",
        "model_conf": {"ctc_weight": 1.0},
        "token_type": "char",
        "token_list": ["<blank>", "<unk>", "<space>", "ا", "ب", "<sos/eos>"],
        "output_dir": str(folder),
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config, allow_unicode=True), encoding="utf-8")
    args = ASRTask.get_parser().parse_args(["--config", str(folder / "config.yaml")])
    return ASRTask, args, ASRTask.build_model(args)


@pytest.mark.parametrize("frozen", [True, False])
@pytest.mark.slow
def test_an_espnet_recogniser_trains_saves_and_reloads(model_dir, wavs, tmp_path, frozen):
    task, args, model = espnet_asr(model_dir, tmp_path)
    if frozen:  # as the trainer does for `freeze_param`
        for name, parameter in model.named_parameters():
            if any(name.startswith(f"{prefix}.") for prefix in args.freeze_param):
                parameter.requires_grad = False
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimiser = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.5)
    speech, lengths = padded(wavs[:2])
    text, text_lengths = torch.tensor([[3, 4, 2], [4, 3, 0]]), torch.tensor([3, 2])
    loss, _, _ = model.train()(speech=speech, speech_lengths=lengths, text=text, text_lengths=text_lengths)
    loss.backward()
    optimiser.step()
    changed = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert any("frontend.upstream" in name for name in changed) is not frozen
    assert "frontend.featurizer.weights" in changed and any(name.startswith("ctc.") for name in changed)

    torch.save(model.state_dict(), tmp_path / "model.pth")
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(vars(args), allow_unicode=True), encoding="utf-8")
    again, _ = task.build_model_from_file(tmp_path / "config.yaml", tmp_path / "model.pth")
    model.eval(), again.eval()
    with torch.no_grad():
        for mine, theirs in zip(model.encode(speech, lengths), again.encode(speech, lengths), strict=True):
            assert torch.equal(mine, theirs)


@torch.no_grad()
def test_transformers_gives_our_hidden_states(model_dir, wavs):
    from transformers import AutoFeatureExtractor, AutoModel, HubertModel

    extract = AutoFeatureExtractor.from_pretrained(model_dir)
    waveform = model_dir.name == "waveform"
    model = (HubertModel if waveform else AutoModel).from_pretrained(model_dir).eval()
    inputs = extract([w.numpy() for w in wavs], sampling_rate=16000, padding=True, return_tensors="pt")
    options = {"output_hidden_states": True} if waveform else {}
    outputs = model(**inputs, **options)
    for i, wav in enumerate(wavs):
        alone, frames = reference(model_dir, wav), frame_count(len(wav))
        torch.testing.assert_close(outputs.last_hidden_state[i, :frames], alone[-1], atol=TOLERANCE, rtol=0)
        if waveform:  # Transformers' own top state comes before the final norm, so it is not compared
            for theirs, mine in zip(outputs.hidden_states[:-1], alone[:-1], strict=True):
                torch.testing.assert_close(theirs[i, :frames], mine, atol=TOLERANCE, rtol=0)

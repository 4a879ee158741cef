"""One step gives the same gradients for any split into batches; a loss that is not finite changes no weight."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from upstream.config import PretrainConfig
from upstream.errors import UpstreamError
from upstream.model.encoder import build_encoder, frame_count, run_layers
from upstream.model.family import geometry
from upstream.pretrain.data import Batch, StepBatches, batch_mask
from upstream.pretrain.module import Pretraining
from upstream.pretrain.step import BadBatches, frame_totals, take_step
from upstream.pretrain.train import resolve_compile

K = 5
CONFIG = PretrainConfig(dropout=0.0, unmasked_weight=0.3, precision="fp32")
SIZES = {"waveform": {"conv_channels": 16}, "logmel": {}}


def module(front_end="logmel", config=CONFIG):
    torch.manual_seed(0)
    g = geometry("mini_hst", front_end=front_end, width=32, heads=2, ffn=64, pos_conv_groups=4, **SIZES[front_end])
    return Pretraining(build_encoder(g), K, config).train()


def batch(lengths, slot=0, seed=0):
    rng = np.random.default_rng([seed, slot])
    frames = [frame_count(n) for n in lengths]
    mask = torch.from_numpy(batch_mask(frames, 0.6, 4, rng))
    valid = torch.arange(max(frames)) < torch.tensor(frames)[:, None]
    labels = torch.from_numpy(rng.integers(0, K, mask.shape))
    wavs = [torch.from_numpy(0.1 * rng.standard_normal(n).astype(np.float32)) for n in lengths]
    return Batch(0, slot, wavs, labels, mask, valid, [f"u{slot}{i}" for i in range(len(lengths))])


def joined(one, two):
    """Both batches as one, with padding."""
    width = max(one.mask.shape[1], two.mask.shape[1])
    pad = lambda x: torch.nn.functional.pad(x, (0, width - x.shape[1]))  # noqa: E731
    fields = {name: torch.cat([pad(getattr(b, name)) for b in (one, two)]) for name in ("labels", "mask", "valid")}
    return replace(one, wavs=one.wavs + two.wavs, utt_ids=one.utt_ids + two.utt_ids, **fields)


def step(m, parts, optimizer=None, config=CONFIG):
    """A step that keeps its gradients: the learning rate is 0."""
    optimizer = optimizer or torch.optim.SGD(m.parameters(), lr=0.0)
    return take_step(
        StepBatches(0, parts, (0, 0, 0)), optimizer, list(m.parameters()),
        seed=config.seed, clip=1e9, device=torch.device("cpu"), compute=m.compute,
        backward=lambda loss: loss.backward(),
    )  # fmt: skip


def gradients(m):
    return {name: p.grad.clone() for name, p in m.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("front_end", ["waveform", "logmel"])
def test_accumulated_batches_equal_one_large_batch(front_end):
    """Of very unequal sizes: a mean of their means would differ."""
    one, two = batch([16000]), batch([9000, 3000, 2000], 1)
    m = module(front_end)
    apart = step(m, [one, two])
    accumulated = gradients(m)
    together = step(m, [joined(one, two)])
    torch.testing.assert_close(sum(r.loss for r in apart.losses), together.losses[0].loss, rtol=1e-5, atol=1e-6)
    for name, gradient in gradients(m).items():
        small = 1e-6 + 1e-4 * float(gradient.abs().max())
        torch.testing.assert_close(accumulated[name], gradient, rtol=1e-3, atol=small)
    totals = frame_totals([one, two], torch.device("cpu"))
    assert totals.masked == one.frames[0] + two.frames[0]
    assert totals.masked + totals.unmasked == int(one.valid.sum() + two.valid.sum())


@pytest.mark.parametrize("front_end", ["waveform", "logmel"])
def test_checkpointing_changes_no_gradient(front_end):
    """Dropout included: the second computation draws the same numbers."""
    config = replace(CONFIG, dropout=0.2, layerdrop=0.3)
    found = []
    for on in (False, True):
        m = module(front_end, replace(config, checkpointing=on))
        step(m, [batch([8000, 5000])])
        found.append(gradients(m))
        recomputed = [layer for layer in m.encoder.modules() if getattr(layer, "gradient_checkpointing", False)]
        assert bool(recomputed) == on
    assert found[0].keys() == found[1].keys()
    for name, gradient in found[0].items():
        torch.testing.assert_close(found[1][name], gradient)


@pytest.mark.slow
def test_layerdrop_depends_on_the_step_alone():
    """Not on the sizes of a process's batches: on the CPU their dropout draws from the global generator."""
    config = replace(CONFIG, dropout=0.5, layerdrop=0.5)
    m = module(config=config)
    m.encoder.config.layerdrop = 0.5
    ran = []
    for i, layer in enumerate(m.encoder.encoder.layers):
        layer.register_forward_hook(lambda *_, i=i: ran.append(i))
    patterns = set()
    for number in range(12):
        chosen = []
        for lengths in ([16000], [4000, 3000, 900]):
            ran.clear()
            take_step(
                StepBatches(number, [batch(lengths)], (0, 0, 0)), torch.optim.SGD(m.parameters(), lr=0.0),
                list(m.parameters()), seed=0, clip=1.0, device=torch.device("cpu"), compute=m.compute,
                backward=lambda loss: loss.backward(),
            )  # fmt: skip
            chosen.append(tuple(ran))
        assert chosen[0] == chosen[1]
        patterns.add(chosen[0])
    assert len(patterns) > 2, "always the same layers"


def weights(m):
    return {name: p.detach().clone() for name, p in m.named_parameters()}


@pytest.mark.parametrize("bad", [0, 1])
def test_a_loss_that_is_not_finite_moves_no_weight(bad):
    m = module()
    optimizer = torch.optim.AdamW(m.parameters(), lr=0.1)
    step(m, [batch([4000])], optimizer)  # so that there are moments that could move something
    before = weights(m)
    parts = [batch([8000]), batch([5000], 1)]
    parts[bad].wavs[0][:] = float("nan")
    result = step(m, parts, optimizer)
    assert "the loss is nan" in result.bad and f"batch {bad + 1} of 2" in result.bad
    assert result.culprits == (parts[bad],)
    assert all(torch.equal(value, before[name]) for name, value in weights(m).items())
    assert step(m, [batch([8000])], optimizer).bad is None


def test_a_gradient_that_is_not_finite_moves_no_weight():
    """Infinite samples below a mask: the mask embedding hides them from the loss, and the gradient passes through."""
    m = module()
    before = weights(m)
    made = batch([8000])
    first = int(made.mask[0].nonzero()[0])
    made.wavs[0][320 * (first + 1) : 320 * (first + 1) + 40] = float("inf")
    result = step(m, [made], torch.optim.AdamW(m.parameters(), lr=0.1))
    assert torch.isfinite(result.losses[0].loss) and "gradient's norm" in result.bad and result.culprits == (made,)
    assert all(torch.equal(value, before[name]) for name, value in weights(m).items())


def test_bad_batches_are_kept_and_too_many_end_the_run(tmp_path, caplog):
    from corpora.files import read_json

    bad = BadBatches(tmp_path, allowed=2, rate=0.1)
    bad.add(0, "the loss is nan", [batch([4000, 3000])])
    assert "u00, u01" in caplog.text and len(list(tmp_path.iterdir())) == 2
    row = read_json(next(tmp_path.glob("*.json")))["utterances"][1]
    assert row["utt_id"] == "u01" and row["samples"] == 3000 and 0 < row["rms"] < row["peak"]
    bad.add(1, "the loss is nan", [])
    bad.add(50, "the loss is nan", [])  # a third one, but fewer than a tenth
    with pytest.raises(UpstreamError, match="step 9.* inf.* 4 of 10 "):
        bad.add(9, "the loss is inf", [batch([4000])])


def test_only_the_first_bad_batches_are_stored(tmp_path):
    bad = BadBatches(tmp_path, allowed=10, rate=0.0, stored=2)
    for number in range(4):
        bad.add(number, "the loss is nan", [replace(batch([2000]), step=number)])
    assert len(list(tmp_path.glob("*.json"))) == 2


def test_masks_are_bool_and_others_are_refused():
    """`~` of an integer mask is an index: silently wrong, and slow."""
    made = batch([8000, 4000])
    assert made.mask.dtype == made.valid.dtype == torch.bool
    m = module("waveform").eval()
    padded = torch.zeros(2, 8000)
    _, valid = run_layers(m.encoder, padded, torch.tensor([8000, 4000]))
    assert valid.dtype == torch.bool
    with pytest.raises((RuntimeError, TypeError)):
        run_layers(m.encoder, padded, time_mask=made.mask.long())
    with pytest.raises((RuntimeError, TypeError, ValueError)):
        m.compute(replace(made, mask=made.mask.long()))


def test_the_waveform_receives_no_gradient():
    """Transformers requests it by default; it costs a convolution and is not used."""
    m, seen = module("waveform"), []
    m.encoder.feature_extractor.conv_layers[0].register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    step(m, [batch([4000])])
    assert not seen[0].requires_grad
    assert all(p.grad is not None for p in m.encoder.feature_extractor.parameters()), "nothing may be frozen"


@pytest.mark.slow
def test_compile_is_left_to_gpus():
    assert resolve_compile("on") and not resolve_compile("off")
    assert resolve_compile("auto") == torch.cuda.is_available()
    m = module()
    names = set(m.state_dict())
    for layer in m.encoder.encoder.layers:
        layer.compile(dynamic=True)
    assert set(m.state_dict()) == names, "checkpoints of compiled and plain runs are one format"


def test_a_step_of_a_streaming_model_masks_with_one_random_chunk(monkeypatch):
    """All batches of a step, and so all processes, have the same chunk; the next step has another."""
    from upstream.model import encoder

    torch.manual_seed(0)
    g = geometry("mini_hst", width=32, heads=2, ffn=64, pos_conv_groups=4, left_context=16)
    m = Pretraining(build_encoder(g), K, CONFIG).train()
    drawn = []
    real = encoder._chunk_mask
    monkeypatch.setattr(
        encoder, "_chunk_mask", lambda frames, chunk, left: drawn.append(chunk) or real(frames, chunk, left)
    )
    for number in range(6):
        parts = [batch([20000, 9000], 0), batch([16000], 1)]
        result = take_step(
            StepBatches(number, parts, (0, 0, 0)), torch.optim.SGD(m.parameters(), lr=0.0), list(m.parameters()),
            seed=1, clip=1e9, device=torch.device("cpu"), compute=m.compute, backward=lambda loss: loss.backward(),
        )  # fmt: skip
        assert result.bad is None and len(drawn) == 2 * number + 2 and drawn[-1] == drawn[-2]
    assert len(set(drawn)) > 3 and 8 <= min(drawn) <= max(drawn) <= 64
    m.eval()
    with torch.no_grad():
        m.compute(batch([20000, 9000]))
    assert drawn[-1] == 16


@pytest.mark.parametrize("front_end", ["logmel", "waveform"])
def test_training_hears_channels_and_validation_does_not(front_end):
    plain, filtered = (module(front_end, replace(CONFIG, channel_db=db)) for db in (0.0, 10.0))
    clips = batch([4000, 3000])

    def loss(this):
        torch.manual_seed(5)
        return this.compute(clips).loss.item()

    assert loss(plain) != pytest.approx(loss(filtered), rel=1e-5)
    plain.eval(), filtered.eval()
    assert loss(plain) == loss(filtered)

"""Loss and gradients of a whole pre-training step against torchaudio's HuBERT, which we did not write."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from upstream.config import PretrainConfig
from upstream.model.encoder import build_encoder, frame_count, normalise_waveform
from upstream.model.family import geometry
from upstream.pretrain.data import Batch, batch_mask
from upstream.pretrain.module import Pretraining

torchaudio = pytest.importorskip("torchaudio", reason="the reference is torchaudio's")

K, PROJECTION = 23, 16
SHAPE = geometry("hst", layers=2, width=32, heads=2, ffn=64, conv_channels=24, pos_conv_kernel=16, pos_conv_groups=4)
CONFIG = PretrainConfig(dropout=0.0, unmasked_weight=0.4, projection=PROJECTION, precision="fp32")


class OurMask(torch.nn.Module):
    """In place of torchaudio's mask generator: the same embedding, on the frames that we chose."""

    def __init__(self, mask, embedding):
        super().__init__()
        self.mask, self.embedding = mask, torch.nn.Parameter(embedding.detach().clone())

    def forward(self, x, padding_mask):
        return torch.where(self.mask.unsqueeze(-1), self.embedding, x), self.mask


@pytest.fixture(scope="module")
def step():
    """One batch of noise clips of two lengths, our module, and torchaudio's model with the same weights.

    Theirs is in eval mode: it takes its dropout from the configuration, ours has it from `PretrainConfig` (0 here).
    """
    from torchaudio.models.wav2vec2.components import LogitGenerator
    from torchaudio.models.wav2vec2.model import HuBERTPretrainModel
    from torchaudio.models.wav2vec2.utils import import_huggingface_model

    torch.manual_seed(0)
    ours = Pretraining(build_encoder(SHAPE), K, CONFIG).train()
    with torch.no_grad():
        for parameter in ours.encoder.parameters():
            if parameter.dim() == 1:
                parameter.add_(0.2 * torch.randn_like(parameter))
    lengths = [12000, 7777]
    wavs = [torch.randn(n) for n in lengths]
    frames = [frame_count(n) for n in lengths]
    mask = torch.from_numpy(batch_mask(frames, 0.8, 4, np.random.default_rng(0)))
    valid = torch.arange(max(frames)) < torch.tensor(frames)[:, None]
    labels = torch.randint(K, valid.shape) * valid
    batch = Batch(0, 0, wavs, labels.unsqueeze(-1), mask, valid, ["a", "b"])

    encoder = import_huggingface_model(ours.encoder)
    head = ours.heads["units"]
    logits = LogitGenerator(SHAPE.width, K, PROJECTION, skip_masked=False, skip_nomask=False)
    theirs = HuBERTPretrainModel(encoder, OurMask(mask, ours.encoder.masked_spec_embed), logits, None).eval()
    with torch.no_grad():
        logits.final_proj.weight.copy_(head.projection.weight)
        logits.final_proj.bias.copy_(head.projection.bias)
        logits.label_embeddings.copy_(head.units)
    return ours, theirs, batch, torch.tensor(lengths)


def reference_loss(model, batch, lengths):
    padded = torch.nn.utils.rnn.pad_sequence([normalise_waveform(wav) for wav in batch.wavs], batch_first=True)
    masked, unmasked, _ = model(padded, batch.labels[..., 0], lengths)
    parts = [F.cross_entropy(x, torch.zeros(len(x), dtype=torch.long)) for x in (masked, unmasked)]
    return parts[0] + CONFIG.unmasked_weight * parts[1], len(masked), len(unmasked)


def test_loss_and_gradients_equal_torchaudios(step):
    ours, theirs, batch, lengths = step
    mine = ours.compute(batch)
    reference, masked, unmasked = reference_loss(theirs, batch, lengths)
    result = mine.sets["units"]
    assert (result.masked_frames, result.unmasked_frames) == (masked, unmasked)
    torch.testing.assert_close(mine.loss, reference, rtol=1e-5, atol=1e-5)
    mine.loss.backward()
    reference.backward()
    head, logits = ours.heads["units"], theirs.logit_generator
    hubert, wav2vec2 = ours.encoder, theirs.wav2vec2
    pairs = {
        "head projection": (head.projection.weight, logits.final_proj.weight),
        "unit embeddings": (head.units, logits.label_embeddings),
        "mask embedding": (hubert.masked_spec_embed, theirs.mask_generator.embedding),
        "feature projection": (
            hubert.feature_projection.projection.weight,
            wav2vec2.encoder.feature_projection.projection.weight,
        ),
        "final norm": (hubert.encoder.layer_norm.weight, wav2vec2.encoder.transformer.layer_norm.weight),
    }
    for index, (a, b) in enumerate(zip(hubert.encoder.layers, wav2vec2.encoder.transformer.layers, strict=True)):
        for name in ("attention.q_proj", "attention.v_proj", "attention.out_proj", "layer_norm", "final_layer_norm"):
            pairs[f"layer {index} {name}"] = (a.get_submodule(name).weight, b.get_submodule(name).weight)
        for name in ("intermediate_dense", "output_dense"):
            pairs[f"layer {index} {name}"] = (
                a.get_submodule(f"feed_forward.{name}").weight,
                b.get_submodule(f"feed_forward.{name}").weight,
            )
    convolutions = zip(hubert.feature_extractor.conv_layers, wav2vec2.feature_extractor.conv_layers, strict=True)
    for index, (a, b) in enumerate(convolutions):
        pairs[f"convolution {index}"] = (a.conv.weight, b.conv.weight)
    for name, (a, b) in pairs.items():
        scale = float(b.grad.abs().max())
        assert scale > 0, name
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-4, atol=1e-4 * scale, msg=lambda m, n=name: f"{n}: {m}")

"""Time one optimisation step of HuBERT-Base geometry against torchaudio's `hubert_pretrain_base`.

    python -m bench.pretrain [--clips 2] [--seconds 10] [--runs 5] [--norm layer|group] [--no-compile]

Both sides get the same waveforms, crops, masks, units (K = 500) and precision (32 bits on the CPU, bf16 on a GPU),
masked and unmasked terms of equal weight, no LayerDrop, no attention dropout, the same dropout elsewhere, AdamW and
gradient clipping. With `--norm layer` both have the layer norms of HuBERT-Large, as our models do; `group` is
`hubert_pretrain_base` unchanged. In compiled rows the Transformer layers are compiled, as in our training. The ratio
compares the faster of the compiled and the plain row of each side.
"""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import HubertConfig, HubertModel

from bench.common import alternate, hardware, medians, print_table, synchronise
from corpora.audio import SAMPLE_RATE
from upstream.config import PretrainConfig
from upstream.model.encoder import frame_count
from upstream.pretrain.data import Batch, StepBatches, batch_mask
from upstream.pretrain.module import Pretraining
from upstream.pretrain.objective import UnitHead, unit_loss
from upstream.pretrain.step import take_step

K = 500
DROPOUT = 0.1
# Makers' figures of dense bf16 operations per second.
PEAK = {"H100": 989e12, "H200": 989e12, "A100": 312e12, "L40S": 362e12, "4090": 165e12}


class GivenMask(nn.Module):
    """Replaces frames by torchaudio's mask embedding at given places, instead of random ones."""

    def __init__(self, embedding: nn.Parameter, mask: Tensor) -> None:
        super().__init__()
        self.mask_embedding, self.mask = embedding, mask

    def forward(self, x: Tensor, padding_mask: Tensor | None) -> tuple[Tensor, Tensor]:
        return torch.where(self.mask.unsqueeze(-1), self.mask_embedding.to(x.dtype), x), self.mask


class Logits(nn.Module):
    """Replaces torchaudio's logit generator and returns the frames, for our head and loss."""

    def forward(self, x: Tensor, *_: Tensor) -> tuple[Tensor, Tensor]:
        return x, x


def make_batch(clips: int, seconds: float, device: torch.device) -> Batch:
    """Noise with random units and HuBERT's masks."""
    rng = np.random.default_rng(0)
    samples = int(seconds * SAMPLE_RATE)
    frames = frame_count(samples)
    mask = torch.from_numpy(batch_mask([frames] * clips, 0.8, 10, rng)).to(device)
    labels = torch.from_numpy(rng.integers(0, K, (clips, frames))).to(device)
    wavs = [torch.from_numpy(0.1 * rng.standard_normal(samples).astype(np.float32)).to(device) for _ in range(clips)]
    return Batch(0, 0, wavs, labels, mask, torch.ones_like(mask), [f"clip{i}" for i in range(clips)])


def our_module(norm: str, device: torch.device, layers: int = 12) -> Pretraining:
    """HuBERT-Base in our training module, with this many layers."""
    torch.manual_seed(0)
    config = HubertConfig(
        num_hidden_layers=layers,
        feat_extract_norm=norm,
        do_stable_layer_norm=norm == "layer",
        conv_bias=norm == "layer",
        apply_spec_augment=False,
        mask_time_prob=0.05,
        attn_implementation="sdpa",
    )
    train = PretrainConfig(dropout=DROPOUT, masked_weight=1.0, unmasked_weight=1.0)
    return Pretraining(HubertModel(config), K, train).to(device).train()


def their_module(norm: str, batch: Batch, device: torch.device, layers: int = 12) -> nn.Module:
    """torchaudio's model with our masks."""
    from torchaudio.models import hubert_pretrain_base, hubert_pretrain_model

    if norm == "group" and layers != 12:
        raise ValueError("--layers: `hubert_pretrain_base`, --norm group, has 12 layers")

    torch.manual_seed(0)
    dropouts = {
        "encoder_projection_dropout": DROPOUT,
        "encoder_attention_dropout": 0.0,
        "encoder_ff_interm_dropout": 0.0,
        "encoder_dropout": DROPOUT,
        "encoder_layer_drop": 0.0,
        "mask_prob": 0.8,
        "mask_channel_prob": 0.0,
        "feature_grad_mult": None,
        "num_classes": K,
    }
    if norm == "group":
        model = hubert_pretrain_base(**dropouts)
    else:  # the same sizes, with the norms of `hubert_pretrain_large`
        model = hubert_pretrain_model(
            extractor_mode="layer_norm", extractor_conv_layer_config=None, extractor_conv_bias=True,
            encoder_embed_dim=768, encoder_pos_conv_kernel=128, encoder_pos_conv_groups=16, encoder_num_layers=layers,
            encoder_num_heads=12, encoder_ff_interm_features=3072, encoder_layer_norm_first=True,
            mask_selection="static", mask_other=0.0, mask_length=10, no_mask_overlap=False, mask_min_space=1,
            mask_channel_selection="static", mask_channel_other=0.0, mask_channel_length=10,
            no_mask_channel_overlap=False, mask_channel_min_space=1, skip_masked=False, skip_nomask=False,
            final_dim=256, **dropouts,
        )  # fmt: skip
    model.mask_generator = GivenMask(model.mask_generator.mask_embedding, batch.mask)
    return model.to(device).train()


def their_step(model: nn.Module, batch: Batch, head: UnitHead | None, parameters: list[nn.Parameter]):
    """A step of torchaudio's model, with its own logits and loss, or with our head and loss."""
    # the optimiser of our module
    optimizer = torch.optim.AdamW(parameters, lr=5e-4, betas=(0.9, 0.98), eps=1e-6, weight_decay=0.01, fused=True)

    def step() -> float:
        optimizer.zero_grad(set_to_none=True)
        # Both sides normalise each waveform, as HuBERT-Large and our models do.
        wavs = torch.stack([F.layer_norm(wav, wav.shape) for wav in batch.wavs])
        with autocast():
            masked, unmasked, _ = model(wavs, batch.labels, None)
        if head is None:
            loss = sum(F.cross_entropy(x.float(), x.new_zeros(len(x), dtype=torch.long)) for x in (masked, unmasked))
        else:
            with autocast():
                weights = {"masked_weight": 1.0, "unmasked_weight": 1.0}
                loss = unit_loss(head, masked, batch.labels, batch.mask, batch.valid, **weights).loss
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        return float(loss.detach())

    return step


def our_step(module: Pretraining, batch: Batch, forward: Callable[..., object] | None = None):
    """A step of our module, by the function that training calls; `forward` replaces `module.compute`, as DDP does."""
    optimizer = module.configure_optimizers()["optimizer"]
    parameters = list(module.parameters())

    def compute(*args):
        with autocast():
            return (forward or module.compute)(*args)

    def step() -> float:
        result = take_step(
            StepBatches(0, [batch], (0, 0, 0)), optimizer, parameters,
            seed=0, clip=1.0, device=batch.mask.device, compute=compute, backward=lambda loss: loss.backward(),
        )  # fmt: skip
        assert result.bad is None, result.bad
        return float(result.losses[0].loss)

    return step


def autocast() -> contextlib.AbstractContextManager[None]:
    """bf16 on a GPU, 32 bits on a CPU."""
    if torch.cuda.is_available():
        return torch.autocast("cuda", dtype=torch.bfloat16)
    return contextlib.nullcontext()


def operations(step) -> int:
    """Floating-point operations of a step, forward and backward."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        step()
    return counter.get_total_flops()


def peak_operations() -> float | None:
    """Dense bf16 operations per second of this GPU; None for one that is not in the table, and without a GPU."""
    name = torch.cuda.get_device_name() if torch.cuda.is_available() else ""
    return next((value for known, value in PEAK.items() if known in name), None)


def peak_memory(step) -> float:
    """GiB of GPU memory at the peak of a step; 0 without a GPU."""
    if not torch.cuda.is_available():
        return 0.0
    torch.cuda.reset_peak_memory_stats()
    step()
    synchronise()
    return torch.cuda.max_memory_allocated() / 2**30


def main() -> None:
    """Run the benchmark and print its table and ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    gpu = torch.cuda.is_available()
    parser.add_argument("--clips", type=int, default=16 if gpu else 2)
    parser.add_argument("--seconds", type=float, default=15.6 if gpu else 10.0)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--norm", choices=("layer", "group"), default="layer")
    parser.add_argument("--layers", type=int, default=12, help="Transformer layers; fewer for a dry run")
    parser.add_argument("--no-compile", action="store_true")
    args = parser.parse_args()
    device = torch.device("cuda" if gpu else "cpu")
    batch = make_batch(args.clips, args.seconds, device)

    ours, theirs = our_module(args.norm, device, args.layers), their_module(args.norm, batch, device, args.layers)
    mixed = their_module(args.norm, batch, device, args.layers)
    mixed.logit_generator = Logits()
    torch.manual_seed(0)
    head = UnitHead(768, K, logits="cosine", projection=256, temperature=0.1).to(device)
    steps = {
        "ours": our_step(ours, batch),
        "torchaudio": their_step(theirs, batch, None, list(theirs.parameters())),
        "torchaudio, our loss": their_step(mixed, batch, head, [*mixed.parameters(), *head.parameters()]),
    }
    flops = operations(steps["ours"])
    if not args.no_compile:
        compiled = our_module(args.norm, device, args.layers)
        theirs_compiled = their_module(args.norm, batch, device, args.layers)
        for layer in (*compiled.encoder.encoder.layers, *theirs_compiled.wav2vec2.encoder.transformer.layers):
            layer.compile(dynamic=True)
        steps["ours, compiled"] = our_step(compiled, batch)
        steps["torchaudio, compiled"] = their_step(theirs_compiled, batch, None, list(theirs_compiled.parameters()))
        for name in ("ours, compiled", "torchaudio, compiled"):
            try:
                steps[name]()
            except Exception as error:  # noqa: BLE001  compilers raise many types; the row is left out
                print(f"{name}: does not compile here ({type(error).__name__}: {str(error).splitlines()[0]})")
                del steps[name]
    time = medians(alternate(steps, args.runs))
    best = {side: min(t for name, t in time.items() if name in (side, f"{side}, compiled")) for side in (
        "ours", "torchaudio")}  # fmt: skip

    audio = args.clips * args.seconds
    peak = peak_operations()
    rows = []
    for name, seconds in sorted(time.items(), key=lambda item: item[1]):
        mfu = f"{100 * flops / seconds / peak:.1f} %" if peak else "-"
        memory = f"{peak_memory(steps[name]):.1f}" if gpu else "-"
        speeds = f"{audio / seconds:.1f}", f"{seconds / best['ours']:.2f}", f"{flops / seconds / 1e9:.0f}"
        rows.append([name, f"{seconds:.3f}", *speeds, mfu, memory])
    print(f"{hardware()}; {args.clips} x {args.seconds} s, {args.norm} norm, {'bf16' if gpu else 'fp32'}, median of "
          f"{args.runs} alternating runs")  # fmt: skip
    print_table(["step", "seconds", "s audio / s", "x ours", "GFLOP/s", "MFU", "GiB"], rows)
    print(f"ratio pretrain {best['torchaudio'] / best['ours']:.3f}")


if __name__ == "__main__":
    main()

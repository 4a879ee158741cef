"""Time the convolutions of a waveform front end, forward and backward, against Transformers' feature encoder.

    python -m bench.convolution [--channels 512 256] [--seconds 20] [--runs 3]

Both have the same parameters and run in one process, in fp32 and under bf16 autocast. On a GPU both are the same code.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Callable

import torch
from torch import nn

from bench.common import alternate, hardware, medians, print_table
from upstream.model.encoder import build_encoder
from upstream.model.family import geometry
from upstream.model.fast import convolve_frames


def step(extractor: nn.Module, wavs: torch.Tensor, bf16: bool) -> Callable[[], None]:
    """A forward and backward pass."""

    def work() -> None:
        with torch.autocast(wavs.device.type, dtype=torch.bfloat16, enabled=bf16):
            features = extractor(wavs)
        features.float().square().mean().backward()

    return work


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--channels", type=int, nargs="+", default=[512, 256], help="default: 512 256")
    parser.add_argument("--seconds", type=int, default=20, help="of audio, in clips of 2 (default: 20)")
    parser.add_argument("--runs", type=int, default=3, help="alternating runs (default: 3)")
    args = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(0)
    wavs = torch.randn(max(1, args.seconds // 2), 32000, device=device)
    candidates: dict[tuple[int, str, str], Callable[[], None]] = {}
    for channels in args.channels:
        model = build_encoder(geometry("open_hst_waveform", conv_channels=channels)).to(device)
        model.feature_extractor._requires_grad = False
        ours = copy.deepcopy(model)
        convolve_frames(ours)
        for precision in ("fp32", "bf16"):
            candidates[channels, precision, "Transformers"] = step(model.feature_extractor, wavs, precision == "bf16")
            candidates[channels, precision, "ours"] = step(ours.feature_extractor, wavs, precision == "bf16")
    seconds = medians(alternate({repr(key): work for key, work in candidates.items()}, args.runs))
    print(hardware())
    rows, ratio = [], 0.0
    for channels, precision, name in candidates:
        own = seconds[repr((channels, precision, name))]
        ratio = seconds[repr((channels, precision, "Transformers"))] / own
        rows.append([f"{channels}, {precision}, {name}", f"{own:.2f}", f"{ratio:.2f}"])
    print_table(["channels", "seconds", "x Transformers"], rows)
    first = args.channels[0]
    ratio = seconds[repr((first, "bf16", "Transformers"))] / seconds[repr((first, "bf16", "ours"))]
    print(f"ratio convolution {ratio:.3f}")


if __name__ == "__main__":
    main()

"""Count the bytes that autograd keeps per second of audio for the backward pass, in bf16 on the CPU.

    python -m bench.activations [--models hl hs hst]

The difference between two clip lengths removes the weights, which are kept once. GPU kernels keep less: their dropout
keeps one byte per value, the CPU's dropout a number.
"""

from __future__ import annotations

import argparse

import torch
from transformers import HubertModel

from bench.common import hardware, print_table
from corpora.audio import SAMPLE_RATE
from egs.pipeline.estimate import kept_bytes
from upstream.model.encoder import build_encoder, frame_count
from upstream.model.family import FAMILY

SECONDS = (2.0, 6.0)


def kept(model: HubertModel, seconds: float) -> int:
    """Bytes of all tensors that autograd holds after a forward pass, parameters left out."""
    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    sizes: dict[int, int] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            sizes[storage.data_ptr()] = storage.nbytes()
        return tensor

    samples = int(SAMPLE_RATE * seconds)
    mask = torch.zeros(1, frame_count(samples), dtype=torch.bool)
    hooks = torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor)
    with torch.autocast("cpu", torch.bfloat16), hooks:
        # Keep the graph until the sizes are summed: a freed address may be used again.
        graph = model(torch.randn(1, samples), mask_time_indices=mask).last_hidden_state
    total = sum(sizes.values())
    del graph
    return total


def main() -> None:
    """Print the table; the last line is the largest ratio of counted to estimated."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=list(FAMILY), default=["hl", "hs", "hst"])
    rows, ratios = [], []
    for name in parser.parse_args().models:
        model = build_encoder(FAMILY[name]).train()
        short, long = (kept(model, seconds) for seconds in SECONDS)
        counted = (long - short) / (SECONDS[1] - SECONDS[0])
        ratios.append(counted / kept_bytes(FAMILY[name]))
        rows.append([name, f"{counted / 1e6:.1f}", f"{kept_bytes(FAMILY[name]) / 1e6:.1f}"])
    print(hardware())
    print_table(["model", "MB a second, counted", "estimate of egs.pipeline.estimate"], rows)
    print(f"largest ratio of counted to estimated: {max(ratios):.2f}")


if __name__ == "__main__":
    main()

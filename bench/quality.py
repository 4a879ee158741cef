"""Measure the CER of one trained ASR head with each inference engine, and on long audio with windows.

    python -m bench.quality HEAD_DIR --data data/open_arabic/asr [--upstream MODEL_DIR] [--join 60]

HEAD_DIR is a finished cell of the benchmark (`exp/<recipe>/probes/asr_light/<upstream>/seed0/head`). The
engines compute the states of its upstream: Transformers' module in PyTorch, the same after `accelerate` and in bf16,
and the exported ONNX graphs in 32 bits and in int8. With `--join S` the test utterances of a speaker are joined to
recordings of at least S seconds, and decoded in windows (as `transcribe` does) and in one pass. Differences have 95 %
intervals by paired bootstrap over speakers (over utterances if there is one speaker). The last line is the relative
change of CER by int8.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from bench.common import hardware, print_table
from corpora.audio import SAMPLE_RATE, write_audio
from corpora.datadir import read_utterance
from downstream import DownstreamError
from downstream.predict import Predictor, find_upstream, read_head
from downstream.probe.data import LabelledUtterance, load_task
from downstream.protocols import load
from downstream.score import metrics, stats
from upstream.model.chunked import Windowing
from upstream.model.encoder import encode
from upstream.model.modeldir import load_model
from upstream.model.onnx import OnnxEncoder, export_onnx

Extract = Callable[[Sequence[np.ndarray]], list[np.ndarray]]
PLAIN, INT8, WHOLE = "torch fp32, plain", "onnx int8", "one pass"
_NO_WINDOWS_S = 24 * 3600.0


@dataclass(frozen=True)
class ScoredAudio:
    """Audio and its text in the form in which it is scored; `split` names its test set."""

    path: Path
    split: str
    speaker: str
    text: str
    seconds: float


def main() -> None:
    """Run the benchmark and print its tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("head", type=Path, help="head directory of an ASR cell")
    parser.add_argument("--data", type=Path, required=True, help="the task's data directory (holds the test sets)")
    parser.add_argument("--upstream", type=Path, help="model directory (default: a folder `models` above the head)")
    parser.add_argument("--protocol", default="light")
    parser.add_argument("--join", type=float, help="also join utterances to recordings of this many seconds")
    args = parser.parse_args()
    try:
        head = read_head(args.head, "asr")
        model_dir = find_upstream(head, args.head, args.upstream).path
        predictor = Predictor(args.head, "asr", args.upstream, device="cpu")
    except DownstreamError as error:
        sys.exit(f"bench.quality: {error}")
    if head.get("finetune", "probe") != "probe" or model_dir is None:
        sys.exit(f"bench.quality: {args.head}: the head of a frozen model directory is needed")
    # The text profile with which the head was trained.
    data = load_task(args.data, load("asr", args.protocol, {"text_profile": head["text_profile"]}))
    tests = {name: data.splits[name] for name in data.tests}
    print(hardware())
    with tempfile.TemporaryDirectory() as folder:
        joined = list(_join(tests, args.join, Path(folder))) if args.join else []
        if args.join and not joined:
            sys.exit(f"bench.quality: no speaker of a test set has {args.join:g} s of speech")
        recordings = [_recording(item, name, Path(folder)) for name, items in tests.items() for item in items]
        texts = {name: _texts(predictor, recordings, name) for name in _engines(predictor, model_dir, Path(folder))}
        change = _print(texts, recordings, PLAIN)
        if args.join:
            windows = _texts(predictor, joined, "windows")
            predictor.windowing = Windowing(window=_NO_WINDOWS_S, frames=predictor.windowing.frames)
            whole = _texts(predictor, joined, WHOLE)
            print(f"\n{len(joined)} recordings of {args.join:g} s and more, {sum(r.seconds for r in joined):.0f} s")
            _print({WHOLE: whole, "windows": windows}, joined, WHOLE)
    print(f"ratio int8_cer {1 + change[INT8]:.4f}")


def _engines(predictor: Predictor, model_dir: Path, folder: Path) -> Iterator[str]:
    """Let the predictor use one engine after the other; yields the name of each."""
    fast = predictor.extract
    plain, info = load_model(model_dir), fast.info

    def torch_states(half: bool) -> Extract:
        def extract(waves: Sequence[np.ndarray]) -> list[np.ndarray]:
            with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=half):
                encoded = encode(plain, [torch.from_numpy(wave) for wave in waves])
            states = [state.float().numpy() for state in encoded.hidden_states]
            return _split(states, encoded.frames.tolist(), [info.frames(len(wave)) for wave in waves])

        return extract

    def onnx_states(int8: bool) -> Extract:
        path = folder / ("int8.onnx" if int8 else "fp32.onnx")
        export_onnx(model_dir, path, precision="int8" if int8 else "fp32", all_states=True)
        graph = OnnxEncoder(path)

        def extract(waves: Sequence[np.ndarray]) -> list[np.ndarray]:
            encoded = graph(waves)
            assert encoded.hidden_states is not None
            wanted = [info.frames(len(wave)) for wave in waves]
            return _split(list(encoded.hidden_states), encoded.frames.tolist(), wanted)

        return extract

    for name, make in (
        (PLAIN, lambda: torch_states(False)),
        ("torch fp32, upstream.model.fast", lambda: fast),
        ("torch bf16", lambda: torch_states(True)),
        ("onnx fp32", lambda: onnx_states(False)),
        (INT8, lambda: onnx_states(True)),
    ):
        predictor.extract = make()
        yield name
    predictor.extract = fast


def _split(states: Sequence[np.ndarray], frames: Sequence[int], wanted: Sequence[int]) -> list[np.ndarray]:
    """(L+1, T, D) of each item; S3PRL, whose counts are `wanted`, repeats the last frame where one is missing."""
    stacked = np.stack(states)
    rows = [stacked[:, row, :count] for row, count in enumerate(frames)]
    return [np.pad(x, ((0, 0), (0, n - x.shape[1]), (0, 0)), mode="edge") for x, n in zip(rows, wanted, strict=True)]


def _wave(item: LabelledUtterance) -> np.ndarray:
    return read_utterance(item)


def _recording(item: LabelledUtterance, split: str, folder: Path) -> ScoredAudio:
    path = folder / f"{split}-{item.utt_id}.wav"
    write_audio(path, _wave(item))
    return ScoredAudio(path, split, item.speaker, item.label, item.samples / SAMPLE_RATE)


def _join(tests: dict[str, list[LabelledUtterance]], seconds: float, folder: Path) -> Iterator[ScoredAudio]:
    """Join consecutive utterances of a speaker with half a second of silence; a shorter rest is dropped."""
    silence = np.zeros(SAMPLE_RATE // 2, np.float32)
    for split, items in tests.items():
        of_speaker: dict[str, list[LabelledUtterance]] = defaultdict(list)
        for item in items:
            of_speaker[item.speaker].append(item)
        for speaker, own in of_speaker.items():
            waves: list[np.ndarray] = []
            words: list[str] = []
            for item in own:
                waves += [_wave(item), silence]
                words.append(item.label)
                if (total := sum(map(len, waves))) >= seconds * SAMPLE_RATE:
                    path = folder / f"{split}-{speaker}-{item.utt_id}.wav"
                    write_audio(path, np.concatenate(waves))
                    yield ScoredAudio(path, split, speaker, " ".join(words), total / SAMPLE_RATE)
                    waves, words = [], []


def _texts(predictor: Predictor, recordings: Sequence[ScoredAudio], name: str) -> list[str]:
    found = []
    for recording in tqdm(recordings, desc=name, mininterval=5):
        answer = predictor(recording.path)
        if answer.result is None:
            raise SystemExit(f"bench.quality: {answer.error}")
        found.append(answer.result)
    return found


def _print(texts: dict[str, list[str]], recordings: Sequence[ScoredAudio], base: str) -> dict[str, float]:
    """A table of CER (%) by test set; the relative change of CER over all of them against `base`, by name."""
    speakers = [r.speaker for r in recordings]
    references = [r.text for r in recordings]
    hypotheses = {name: [metrics.tidy(t, "none") for t in row] for name, row in texts.items()}
    scored = {n: stats.score("cer", speakers, references, row) for n, row in hypotheses.items()}
    rows, change = [], {}
    for name, row in hypotheses.items():
        cells = []
        for split in dict.fromkeys(r.split for r in recordings):
            chosen = [i for i, r in enumerate(recordings) if r.split == split]
            value = metrics.value("cer", [references[i] for i in chosen], [row[i] for i in chosen])
            cells.append(f"{100 * value:.2f}")
        whole = metrics.value("cer", references, row)
        reference = metrics.value("cer", references, hypotheses[base])
        change[name] = whole / reference - 1 if reference else float("nan")
        low, high = _interval(scored[base], scored[name])
        other = sum(a != b for a, b in zip(row, hypotheses[base], strict=True))
        shown = f"{100 * (whole - reference):+.2f} [{100 * low:+.2f}, {100 * high:+.2f}]"
        rows.append([name, *cells, f"{100 * whole:.2f}", shown, f"{100 * change[name]:+.2f} %", f"{other}/{len(row)}"])
    splits = [f"CER {s}" for s in dict.fromkeys(r.split for r in recordings)]
    print_table(["states from", *splits, "CER all", "difference", "relative", "texts that differ"], rows)
    return change


def _interval(base: stats.Scored, other: stats.Scored) -> tuple[float, float]:
    """95 % interval of the difference in CER, both sides in the same draws."""
    (_, one), (_, two) = stats.by_unit(base), stats.by_unit(other)
    weights = stats.resample(len(one))
    return stats.central(metrics.from_counts("cer", weights @ two) - metrics.from_counts("cer", weights @ one))


if __name__ == "__main__":
    main()

"""Find the verse: a CTC recogniser on recorded clips, with a search in all verses of a list.

    python -m bench.find [--model HEAD_DIR] --clips DIR --texts verses.text [--spans 5] [--whisper DIR]

`--clips` holds the audio and manifest.json (`samples`: file, expected_verses, source). It prints recall, precision, the
share of exact sets, seconds per clip (with decoding and search) and the size of the weights, next to published values.
"""

from __future__ import annotations

import argparse
import statistics
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from corpora.audio import SAMPLE_RATE, stream_any
from corpora.files import read_json
from corpora.text import normalise
from downstream.asr.reading import Reader, Reading, named_head
from downstream.find import Finder, limits_of, read_texts

WINDOW = 30 * SAMPLE_RATE
# Source: the benchmark table of yazinsai/offline-tarteel (now tilawa), second set, full file, CPU of a laptop.
PUBLISHED = (
    ("FastConformer, CTC", 0.93, 115, 0.9),
    ("wav2vec2-large, phonemes", 0.95, 970, 30.0),
    ("Whisper small, fine-tuned", 0.87, 461, 1.4),
    ("XLS-R, pruned, CTC", 0.77, 145, 3.9),
    ("Whisper small", 0.50, 461, None),
    ("wav2vec2-base, distilled, CTC", 0.26, 360, None),
)


def scores(expected: list[set[str]], found: list[set[str]]) -> dict[str, float]:
    """Mean recall and precision of a clip, and the share of clips whose set is exact; nothing found has precision 0."""
    recall = [len(e & f) / len(e) for e, f in zip(expected, found, strict=True)]
    precision = [len(e & f) / len(f) if f else 0.0 for e, f in zip(expected, found, strict=True)]
    exact = [e == f for e, f in zip(expected, found, strict=True)]
    return {name: statistics.fmean(v) for name, v in (("recall", recall), ("precision", precision), ("exact", exact))}


class WhisperReader:
    """Whisper in Transformers form, greedy, in windows of 30 s: the text of a file, without probabilities."""

    def __init__(self, folder: Path) -> None:
        from transformers import WhisperFeatureExtractor, WhisperForConditionalGeneration, WhisperTokenizerFast

        self.file = folder / "model.safetensors"
        self.extractor = WhisperFeatureExtractor.from_pretrained(folder)
        self.tokenizer = WhisperTokenizerFast.from_pretrained(folder)
        self.model = WhisperForConditionalGeneration.from_pretrained(folder).float().eval()

    def read(self, path: Path) -> Reading:
        samples = np.concatenate(list(stream_any(path)))
        texts = []
        for start in range(0, len(samples), WINDOW):
            window = samples[start : start + WINDOW]
            features = self.extractor(window, sampling_rate=SAMPLE_RATE, return_tensors="pt")["input_features"]
            with torch.inference_mode():
                tokens = self.model.generate(features, language="ar", task="transcribe", max_new_tokens=224)
            texts.append(self.tokenizer.decode(tokens[0], skip_special_tokens=True))
        text = normalise(" ".join(texts), "modern")
        return Reading(None, len(samples) / SAMPLE_RATE, text)


@dataclass
class Row:
    """The answers of one system: for each clip the set that was found, and the seconds for decoding and search."""

    name: str
    file: Path
    found: list[set[str]] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    seconds: float = 0.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="head directory, or a model that ships (default: harness_open)")
    parser.add_argument("--upstream", type=Path, help="model directory (default: near the head)")
    parser.add_argument("--clips", type=Path, required=True, help="folder of manifest.json")
    parser.add_argument("--texts", type=Path, required=True, help="Kaldi text with ids chapter:verse")
    parser.add_argument("--spans", type=int, default=5, help="most consecutive verses (default: 5)")
    parser.add_argument("--whisper", type=Path, help="also Whisper in this folder, searched by edit distance alone")
    parsed = parser.parse_args()
    reader = Reader(named_head(parsed.model), parsed.upstream)
    texts, limits = read_texts(parsed.texts, reader.characters), limits_of(reader.description)
    finder = Finder(texts, reader.characters, spans=parsed.spans, limits=limits)
    samples = read_json(parsed.clips / "manifest.json")["samples"]
    expected = [{f"{verse['surah']}:{verse['ayah']}" for verse in sample["expected_verses"]} for sample in samples]
    sources = [sample["source"] for sample in samples]
    systems = [(Row(f"{reader.model_dir.name}, {reader.engine}", reader.file), reader)]
    if parsed.whisper:
        whisper = WhisperReader(parsed.whisper)
        systems.append((Row(f"{parsed.whisper.name}, torch fp32", whisper.file), whisper))
    for row, system in systems:
        system.read(parsed.clips / samples[0]["file"])  # the first pass warms up
        for sample, wanted in zip(samples, expected, strict=True):
            begin = time.perf_counter()
            reading = system.read(parsed.clips / sample["file"])
            answer = finder.find(reading.log_probs, reading.text)
            row.times.append(time.perf_counter() - begin)
            row.seconds += reading.seconds
            row.found.append(set(answer.ids))
            ids = (" ".join(sorted(wanted)), " ".join(answer.ids))
            print(row.name, sample["file"], *ids, answer.margin, reading.text, sep="\t", flush=True)
    print("\n| system | clips | recall | precision | exact | MB | s a clip |\n|---|---:|---:|---:|---:|---:|---:|")
    for row, _ in systems:
        for group in ("all", *sorted(set(sources))):
            print(table_row(row, group, expected, sources))
    for name, recall, megabytes, spent in PUBLISHED:
        print(f"| {name} (published) | 43 | {100 * recall:.0f} | | | {megabytes} | {spent or ''} |")
    print()
    for row, _ in systems:
        print(f"ratio find_{row.name.split(',')[0]} {sum(row.times) / row.seconds:.4f} (s a second of audio)")


def table_row(row: Row, group: str, expected: list[set[str]], sources: list[str]) -> str:
    """A line of the table: one system on the clips of one source, or on all."""
    chosen = [i for i, source in enumerate(sources) if group in ("all", source)]
    values = scores([expected[i] for i in chosen], [row.found[i] for i in chosen])
    took = [row.times[i] for i in chosen]
    shares = " | ".join(f"{100 * values[key]:.1f}" for key in ("recall", "precision", "exact"))
    size = row.file.stat().st_size / 1e6
    spent = f"{statistics.fmean(took):.2f} (median {statistics.median(took):.2f})"
    return f"| {row.name}, {group} | {len(chosen)} | {shares} | {size:.0f} | {spent} |"


if __name__ == "__main__":
    main()

"""Find the verse: a CTC recogniser on recorded clips, with a search in all verses of a list.

    python -m bench.find --model HEAD_DIR --clips DIR --texts verses.text [--spans 5]

`--clips` holds the audio and manifest.json (`samples`: file, expected_verses, source). It prints recall, precision, the
share of exact sets, seconds per clip (with decoding and search) and the size of the weights, next to published values.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path

from corpora.files import read_json
from downstream.asr.reading import Reader
from downstream.find import Finder, limits_of, read_texts

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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="head directory")
    parser.add_argument("--upstream", type=Path, help="model directory (default: near the head)")
    parser.add_argument("--clips", type=Path, required=True, help="folder of manifest.json")
    parser.add_argument("--texts", type=Path, required=True, help="Kaldi text with ids chapter:verse")
    parser.add_argument("--spans", type=int, default=5, help="most consecutive verses (default: 5)")
    parsed = parser.parse_args()
    reader = Reader(parsed.model, parsed.upstream)
    texts, limits = read_texts(parsed.texts, reader.characters), limits_of(reader.description)
    finder = Finder(texts, reader.characters, spans=parsed.spans, limits=limits)
    expected, found, sources, times, seconds = [], [], [], [], 0.0
    samples = read_json(parsed.clips / "manifest.json")["samples"]
    reader.read(parsed.clips / samples[0]["file"])  # the first pass warms up
    for sample in samples:
        begin = time.perf_counter()
        reading = reader.read(parsed.clips / sample["file"])
        answer = finder.find(reading.log_probs, reading.text)
        times.append(time.perf_counter() - begin)
        seconds += reading.seconds
        expected.append({f"{verse['surah']}:{verse['ayah']}" for verse in sample["expected_verses"]})
        found.append(set(answer.ids))
        sources.append(sample["source"])
        wanted, got = " ".join(sorted(expected[-1])), " ".join(answer.ids)
        print(f"{sample['file']}\t{wanted}\t{got}\t{answer.score}\t{reading.text}")
    size = reader.file.stat().st_size / 1e6
    print("\n| system | clips | recall | precision | exact | MB | s a clip |\n|---|---:|---:|---:|---:|---:|---:|")
    for group in ("all", *sorted(set(sources))):
        chosen = [i for i, source in enumerate(sources) if group in ("all", source)]
        row = scores([expected[i] for i in chosen], [found[i] for i in chosen])
        took = [times[i] for i in chosen]
        spent = f"{statistics.fmean(took):.2f} (median {statistics.median(took):.2f})"
        shares = " | ".join(f"{100 * row[key]:.1f}" for key in ("recall", "precision", "exact"))
        print(
            f"| {reader.model_dir.name}, {reader.engine}, {group} | {len(chosen)} | {shares} | {size:.0f} | {spent} |"
        )
    for name, recall, megabytes, spent in PUBLISHED:
        print(f"| {name} (published) | 43 | {100 * recall:.0f} | | | {megabytes} | {spent or ''} |")
    print(f"\nratio find {sum(times) / seconds:.4f} (s a second of audio)")


if __name__ == "__main__":
    main()

"""Cut long training recordings at pauses between words, so that a recogniser can be trained on all of their text.

    recording + text -> CTC alignment by a recogniser -> pieces of at most `longest` seconds, each with its words

The cost of attention grows with the square of the length, and most verses are longer than what two cores can train on:
of three reciters (62 h) only 12 h are in recordings of up to 12 s. A recogniser that is trained on these aligns the
others. The pieces are a Kaldi `segments` file (id, recording, start, end) beside a `text`.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from corpora.audio import SAMPLE_RATE
from corpora.files import write_text
from corpora.prepare.packed import PackedAudio
from downstream.asr.evaluate import read_text
from downstream.asr.reading import Reader, align
from upstream.model.family import FRAME_RATE

log = logging.getLogger(__name__)

SHORTEST = 1.5  # seconds
WORST = 1.5  # nats a character; a piece that the recogniser finds less likely is left out


@dataclass(frozen=True)
class Piece:
    """A part of a recording in seconds, its text, and the mean negative log-likelihood of its characters' frames,
    relative to the best path (nats a character)."""

    start: float
    end: float
    text: str
    loss: float


def cut(
    log_probs: np.ndarray,
    words: Sequence[str],
    index: Mapping[str, int],
    seconds: float,
    longest: float,
    frame: float = 1 / FRAME_RATE,
) -> list[Piece]:
    """The pieces of one recording, in order; together they have all of its words.

    `log_probs` (T, C), natural logarithm, one row every `frame` seconds. Each piece ends at the longest pause among
    those that keep it between half of `longest` and `longest` (a single longer word stays whole). Raises ValueError for
    a text with more characters than the frames can hold.
    """
    classes = [index[character] for character in " ".join(words)]
    path = align(log_probs, classes)
    cost = log_probs.max(1) - log_probs[np.arange(len(log_probs)), _labels(path, classes, len(log_probs))]
    first, at = [], 0  # of each word: its first character
    for word in words:
        first.append(at)
        at += len(word) + 1
    starts = [path[i][0] for i in first]
    ends = [path[i + len(word) - 1][1] + 1 for i, word in zip(first, words, strict=True)]
    limit = round(longest / frame)
    total = len(log_probs)
    pieces: list[Piece] = []
    word, begin = 0, 0
    while word < len(words):
        last = len(words)
        if total - begin > limit:
            # Cut behind word k - 1: in the middle of its pause.
            fits = [k for k in range(word + 1, len(words)) if (ends[k - 1] + starts[k]) // 2 - begin <= limit]
            long = [k for k in fits if (ends[k - 1] + starts[k]) // 2 - begin >= limit // 2]
            if fits or word + 1 < len(words):
                last = max(long or fits[-1:] or [word + 1], key=lambda k: starts[k] - ends[k - 1])
        end = total if last == len(words) else (ends[last - 1] + starts[last]) // 2
        text = " ".join(words[word:last])
        stop = seconds if last == len(words) else end * frame
        pieces.append(Piece(begin * frame, stop, text, float(cost[begin:end].sum() / len(text))))
        word, begin = last, end
    return pieces


def _labels(path: Sequence[tuple[int, int]], classes: Sequence[int], frames: int) -> np.ndarray:
    labels = np.zeros(frames, int)
    for (start, end), value in zip(path, classes, strict=True):
        labels[start : end + 1] = value
    return labels


def cut_store(
    head: Path, model: Path, audio: Path, text: Path, out: Path, *, longest: float = 10.0, jobs: int = 1
) -> dict[str, float]:
    """Write `<out>.segments` and `<out>.text` for the recordings of a store that have a text; what was done, in hours.

    Recordings of up to `longest` seconds are one piece. Pieces shorter than 1.5 s and pieces that do not fit their
    audio are left out. `<out>.jsonl` holds finished recordings, so that a killed run resumes.
    """
    store, texts = PackedAudio(audio), read_text(text)
    done_path = out.with_name(f"{out.name}.jsonl")
    done = _read_done(done_path)
    todo = [name for name in sorted(texts) if name in store and name not in done]
    long = [name for name in todo if store.samples(name) > longest * SAMPLE_RATE]
    for name in set(todo) - set(long):
        done[name] = [asdict(Piece(0.0, store.samples(name) / SAMPLE_RATE, texts[name], 0.0))]
    started, finished = time.time(), 0
    # Similar lengths in each share; small shares, so that little is lost when the run is killed.
    shares = [long[i::256] for i in range(256) if long[i::256]]
    with ProcessPoolExecutor(jobs) as pool, open(done_path, "a", encoding="utf-8") as file:
        waiting = [pool.submit(_cut_share, head, model, audio, {n: texts[n] for n in s}, longest) for s in shares]
        try:
            for future in as_completed(waiting):
                for name, pieces in future.result().items():
                    done[name] = pieces
                    file.write(json.dumps({"id": name, "pieces": pieces}, ensure_ascii=False) + "\n")
                file.flush()
                finished += 1
                left = (time.time() - started) / finished * (len(shares) - finished)
                log.info("%d of %d shares; %.0f s left", finished, len(shares), left)
        finally:
            pool.shutdown(cancel_futures=True)
    segments, lines = [], []
    hours = {"kept": 0.0, "short": 0.0, "unlikely": 0.0}
    for name in sorted(done):
        for number, piece in enumerate(done[name]):
            length = piece["end"] - piece["start"]
            whole = len(done[name]) == 1
            kind = "short" if not whole and length < SHORTEST else "unlikely" if piece["loss"] > WORST else "kept"
            hours[kind] += length / 3600
            if kind == "kept":
                piece_id = f"{name}-{number:03d}"
                segments.append(f"{piece_id} {name} {piece['start']:.3f} {piece['end']:.3f}\n")
                lines.append(f"{piece_id} {piece['text']}\n")
    write_text(out.with_name(f"{out.name}.text"), "".join(lines))
    write_text(out.with_name(f"{out.name}.segments"), "".join(segments))
    return hours


def _cut_share(head: Path, model: Path, audio: Path, texts: dict[str, str], longest: float) -> dict[str, list[dict]]:
    torch.set_num_threads(1)  # a process of its own
    reader, store = Reader(head, model, engine="torch"), PackedAudio(audio)
    index = {character: i for i, character in enumerate(reader.characters)}
    found: dict[str, list[dict]] = {}
    for name, text in texts.items():
        wav = torch.from_numpy(store[name].astype(np.float32) / 32768)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            reading = reader.read_blocks(wav.split(SAMPLE_RATE * 10))
        try:
            pieces = cut(
                reading.log_probs, text.split(), index, len(wav) / SAMPLE_RATE, longest, reader.seconds_per_frame
            )
        except ValueError as error:
            log.warning("%s: left out: %s", name, error)
            pieces = []
        found[name] = [asdict(piece) for piece in pieces]
    return found


def _read_done(path: Path) -> dict[str, list[dict]]:
    if not path.exists():
        return {}
    content = path.read_text(encoding="utf-8")
    whole = content[: content.rfind("\n") + 1]
    if whole != content:  # the last line of a killed run
        write_text(path, whole)
    rows = (json.loads(line) for line in whole.splitlines())
    return {row["id"]: row["pieces"] for row in rows}

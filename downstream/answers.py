"""The commands `transcribe`, `emotion` and `dialect`: their options, the files they are given, and what they write.

python -m downstream transcribe talk.mp3 calls/ --model exp/mini/probes/asr_light/harness_st/seed0/head
"""

from __future__ import annotations

import argparse
import io
import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO

from corpora.files import atomic_file

TASKS = {"transcribe": "asr", "emotion": "ser", "dialect": "did"}
RESULTS = {"asr": "text", "ser": "emotion", "did": "dialect"}
AUDIO_SUFFIXES = (".wav", ".flac", ".mp3", ".opus", ".ogg", ".oga", ".aiff", ".aif", ".au", ".sph", ".w64", ".caf")
_HELP = {
    "transcribe": "text of audio files, by a trained ASR head",
    "emotion": "emotion of audio files, by a trained SER head",
    "dialect": "dialect of audio files, by a trained DID head",
}


class PredictError(ValueError):
    """A head, a model or an option that cannot be used; the message says which and what to do."""


@dataclass(frozen=True)
class Answer:
    """What a head says of one file: a text or a label, the share of each label, or why there is nothing."""

    audio: str
    result: str | None
    seconds: float | None
    scores: dict[str, float] = field(default_factory=dict)
    error: str | None = None


def add_commands(commands: argparse._SubParsersAction) -> list[argparse.ArgumentParser]:
    """Add the three commands to a command line; returns their parsers."""
    parsers = []
    for name, text in _HELP.items():
        parser = commands.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}. {_EPILOGUE}")
        parser.add_argument("audio", type=Path, nargs="+", metavar="AUDIO", help="files, or folders that are searched")
        parser.add_argument("--model", type=Path, required=True, metavar="HEAD_DIR", help="folder with head.json")
        parser.add_argument(
            "--upstream",
            type=Path,
            metavar="DIR",
            help="model directory that the head was trained on (default: the one of its name in $HARNESS_MODELS, or in "
            "a folder `models` beside the head's)",
        )
        parser.add_argument("--format", choices=("json", "tsv"), default="json", help="default: json, an object a line")
        parser.add_argument("--out", type=Path, help="file to write, whole or not at all (default: standard output)")
        parser.add_argument("--device", default="auto", help="auto, cpu or cuda (default: auto)")
        parsers.append(parser)
    return parsers


_EPILOGUE = (
    "WAV, FLAC, MP3, Opus and whatever else soundfile reads, of any rate and length, in UTF-8 out. Exit status: 0 all "
    "files have an answer, 1 some have an error instead, 2 nothing was done."
)


def run(args: argparse.Namespace) -> int:
    """Answer for every file, each as soon as it is there; 0, or 1 when some could not be read."""
    files = audio_files(args.audio)
    from downstream.predict import Predictor, predict

    task = TASKS[args.command]
    predictor = Predictor(args.model, task, args.upstream, args.device)
    failed = 0
    with _output(args.out) as stream:
        if args.format == "tsv":
            stream.write(f"audio\t{RESULTS[task]}\tscore\tseconds\terror\n")
        for answer in predict(predictor, files):
            failed += answer.error is not None
            stream.write(as_line(answer, task, args.format))
            stream.flush()
    if failed:
        print(f"downstream: {failed} of {len(files)} files have no answer; their lines say why", file=sys.stderr)
    return 1 if failed else 0


def as_line(answer: Answer, task: str, form: str) -> str:
    """One line of JSON or TSV; in TSV the score is that of the answer, and what would break a line becomes a space."""
    if form == "json":
        row: dict[str, object] = {"audio": answer.audio, RESULTS[task]: answer.result, "seconds": answer.seconds}
        row |= {"scores": answer.scores} if answer.scores else {}
        row |= {"error": answer.error} if answer.error else {}
        return json.dumps(row, ensure_ascii=False) + "\n"
    score = answer.scores.get(answer.result or "")
    cells = ("" if c is None else str(c) for c in (answer.audio, answer.result, score, answer.seconds, answer.error))
    return "\t".join(" ".join(cell.splitlines()).replace("\t", " ") for cell in cells) + "\n"


@contextmanager
def _output(path: Path | None) -> Iterator[TextIO]:
    if path is not None:
        with atomic_file(path) as temporary:
            with open(temporary, "w", encoding="utf-8", errors="backslashreplace", newline="\n") as stream:
                yield stream
        return
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A console of another encoding must not stop at the first Arabic letter, nor a name that is not UTF-8.
        sys.stdout.reconfigure(encoding="utf-8", errors="backslashreplace", newline="\n")
    yield sys.stdout


def audio_files(paths: Sequence[Path]) -> list[Path]:
    """The files that were named, and every audio file below the folders that were; raises PredictError for none."""
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            below = sorted(file for file in path.rglob("*") if file.suffix.lower() in AUDIO_SUFFIXES)
            if not below:
                raise PredictError(f"{path}: no audio file in this folder ({', '.join(AUDIO_SUFFIXES)})")
            found += below
        else:
            found.append(path)
    return found

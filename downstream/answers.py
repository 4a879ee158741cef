"""The commands `transcribe`, `find`, `emotion` and `dialect`: their options, the files they are given, and what they
write.

python -m downstream transcribe talk.mp3 calls/ --model exp/mini/probes/asr_light/harness_st/seed0/head
python -m downstream find recitation.mp3 --texts verses.txt --spans 5 --model models/harness_open/letters
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
    transcribe = parsers[0]
    transcribe.add_argument("--words", action="store_true", help="start and end of every word (CTC recognisers)")
    search = commands.add_parser(
        "find",
        help="which of many known texts audio files say, by a CTC recogniser",
        description=f"Which of many known texts audio files say. {_EPILOGUE}",
    )
    for action in transcribe._actions[1:]:
        if action.dest not in ("words", "device"):
            search._add_action(action)
    search.add_argument(
        "--texts", type=Path, required=True, metavar="FILE", help="Kaldi text, `id text` a line, in order"
    )
    search.add_argument("--spans", type=int, default=1, metavar="N", help="up to N consecutive lines (default: 1)")
    return [*parsers, search]


_EPILOGUE = (
    "WAV, FLAC, MP3, Opus and whatever else soundfile reads, of any rate and length, in UTF-8 out. Exit status: 0 all "
    "files have an answer, 1 some have an error instead, 2 nothing was done."
)


def run(args: argparse.Namespace) -> int:
    """Answer for every file, each as soon as it is there; 0, or 1 when some could not be read."""
    files = audio_files(args.audio)
    if args.command == "find":
        return _find(args, files)
    from downstream.asr.reading import is_recogniser
    from downstream.predict import Predictor, predict

    task = TASKS[args.command]
    if task == "asr" and is_recogniser(args.model):
        return _transcribe(args, files)
    if getattr(args, "words", False):
        raise PredictError(f"{args.model}: --words needs a CTC recogniser; this head is a probe of the benchmark")
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


def _transcribe(args: argparse.Namespace, files: Sequence[Path]) -> int:
    """The text of every file by a CTC recogniser, with word times on demand."""
    from corpora.audio import AudioError
    from downstream.asr.reading import Reader, word_times

    reader = Reader(args.model, args.upstream)
    failed = 0
    with _output(args.out) as stream:
        if args.format == "tsv":
            stream.write("audio\ttext\tscore\tseconds\terror\n")
        for file in files:
            row: dict[str, object] = {}
            try:
                reading = reader.read(file)
                answer = Answer(str(file), reading.text, reading.seconds)
                if args.words:
                    classes = [reader.characters.index(c) for c in reading.text]
                    words = word_times(reading.log_probs, classes, reader.characters, 0.02 * reader.squeeze)
                    row["words"] = [{"word": word, "start": start, "end": end} for word, start, end in words]
            except (AudioError, ValueError) as error:
                failed += 1
                answer = Answer(str(file), None, None, error=" ".join(str(error).split()))
            line = as_line(answer, "asr", args.format)
            if row and args.format == "json":
                line = json.dumps({**json.loads(line), **row}, ensure_ascii=False) + "\n"
            stream.write(line)
            stream.flush()
    return _status(failed, len(files))


def _find(args: argparse.Namespace, files: Sequence[Path]) -> int:
    """Which lines of a list every file says."""
    from corpora.audio import AudioError
    from downstream.asr.reading import Reader, is_recogniser
    from downstream.find import FLOOR, Finder, read_texts

    if not is_recogniser(args.model):
        raise PredictError(
            f"{args.model}: `find` needs the head directory of a CTC recogniser (head.json, protocol ctc)"
        )
    reader = Reader(args.model, args.upstream)
    floor = float(reader.description.get("find_floor", FLOOR))
    finder = Finder(read_texts(args.texts, reader.characters), reader.characters, spans=args.spans, floor=floor)
    failed = 0
    with _output(args.out) as stream:
        if args.format == "tsv":
            stream.write("audio\tfound\tscore\tmargin\tseconds\ttext\terror\n")
        for file in files:
            row: dict[str, object] = {"audio": str(file), "seconds": None, "text": None, "found": [], "score": None}
            row["margin"] = None
            try:
                reading = reader.read(file)
                found = finder.find(reading.log_probs, reading.text)
                row |= {"seconds": reading.seconds, "text": reading.text, "found": found.ids, "score": found.score}
                row["margin"] = found.margin
            except (AudioError, ValueError) as error:
                failed += 1
                row["error"] = " ".join(str(error).split())
            if args.format == "json":
                stream.write(json.dumps(row, ensure_ascii=False) + "\n")
            else:
                cells = [row["audio"], " ".join(row["found"]), row["score"], row["margin"], row["seconds"], row["text"]]
                cells.append(row.get("error"))
                stream.write("\t".join("" if c is None else " ".join(str(c).split()) for c in cells) + "\n")
            stream.flush()
    return _status(failed, len(files))


def _status(failed: int, files: int) -> int:
    if failed:
        print(f"downstream: {failed} of {files} files have no answer; their lines say why", file=sys.stderr)
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

"""Apply trained heads to audio files: every common format, any sample rate, any length.

It reads a head directory (`head.json`, `head.safetensors`, and `delta.*` where part of the upstream was fine-tuned) and
the model directory that the head was trained on. A file that fits one window passes in one piece, as in the benchmark,
and gets the benchmark's answer. A longer file passes in windows (`upstream.model.chunked`): characters are decoded over
the joined frames, classes from the mean over all frames.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import torch
from torch import Tensor, nn

from corpora.audio import FORMATS, SAMPLE_RATE, AudioError, find_audio, header_info, stream_any
from corpora.files import atomic_file, check_output, for_spreadsheet, read_json
from corpora.names import check_name
from downstream import DownstreamError
from downstream.asr.hotwords import Hotwords, decode, read_hotwords
from downstream.asr.live import LiveReader, pcm_blocks, standard_input
from downstream.asr.reading import Reader, Reading, is_recogniser, named_head, word_times
from downstream.find import Finder, limits_of, read_texts
from downstream.grid.plan import devices_of
from downstream.probe import finetune, quiet_import
from downstream.protocols import TASKS
from downstream.subtitles import FORMATS as SUBTITLES
from downstream.subtitles import subtitles
from downstream.upstreams import Upstream, resolve
from upstream.model.chunked import Windowing, windows
from upstream.model.family import HOP
from upstream.names import SHIPPED

_FILES = ("head.json", "head.safetensors")
_NAMED = 10  # files that are left out, in one message
_KEYS = ("task", "protocol", "upstream", "upstream_key", "build")


@dataclass(frozen=True)
class Answer:
    """The prediction for one file: a text or a label with the posterior of each label, or the error; and a remark."""

    audio: str
    result: str | None
    seconds: float | None
    scores: dict[str, float] = field(default_factory=dict)
    error: str | None = None
    note: str | None = None


def run(args: argparse.Namespace) -> int:
    """The commands `transcribe`, `emotion` and `dialect`: write a line for each file as soon as it is predicted.

    Returns 0, or 1 when some files could not be read.
    """
    args.model = named_head(args.model)
    if getattr(args, "stream", False):
        return _stream(args)
    if Path("-") in args.audio:
        raise DownstreamError("-: standard input is read by `transcribe --stream -` only; name audio files here")
    if getattr(args, "chunk", None) is not None:
        raise DownstreamError("--chunk: only with --stream")
    files = audio_files(args.audio)
    check_output(args.out, files)
    task = next(name for name, task in TASKS.items() if task.command == args.command)
    if task == "asr" and is_recogniser(args.model):
        return _transcribe(args, files)
    for option, given in (
        ("--words", getattr(args, "words", False)),
        ("--hotwords", getattr(args, "hotwords", None)),
        (f"--format {args.format}", args.format in SUBTITLES),
    ):
        if given:
            raise DownstreamError(
                f"{args.model}: {option} needs a CTC recogniser; this head is a probe of the benchmark"
            )
    predictor = Predictor(args.model, task, args.upstream, args.device, args.channel)
    failed = 0
    with _output(args.out) as stream:
        if args.format == "tsv":
            stream.write(f"audio\t{TASKS[task].label}\tscore\tseconds\terror\tnote\n")
        for answer in predict(predictor, files):
            failed += answer.error is not None
            stream.write(as_line(answer, task, args.format))
            stream.flush()
    return _status(failed, len(files))


def _transcribe(args: argparse.Namespace, files: Sequence[Path]) -> int:
    """The text of each file by a CTC recogniser; with --words also the times of its words (JSON only)."""
    if args.words and args.format != "json":
        raise DownstreamError("--words: only with --format json")
    reader = Reader(args.model, args.upstream, channel=args.channel)
    hotwords = None if args.hotwords is None else Hotwords(read_hotwords(args.hotwords, reader.characters))
    if args.format in SUBTITLES:
        return _write_subtitles(args, files, reader, hotwords)
    failed = 0
    with _output(args.out) as stream:
        if args.format == "tsv":
            stream.write(f"audio\t{TASKS['asr'].label}\tscore\tseconds\terror\tnote\n")
        for file in files:
            words: dict[str, object] = {}
            try:
                reading = reader.read(file)
                text, classes = _decoded(reading, reader, hotwords)
                answer = Answer(str(file), text, reading.seconds, note=reading.note)
                if args.words:
                    times = word_times(reading.log_probs, classes, reader.characters, reader.seconds_per_frame)
                    words["words"] = [{"word": word, "start": start, "end": end} for word, start, end in times]
            except (AudioError, ValueError, OSError) as error:
                failed += 1
                answer = Answer(str(file), None, None, error=" ".join(str(error).split()))
            line = as_line(answer, "asr", args.format)
            stream.write(json.dumps(json.loads(line) | words, ensure_ascii=False) + "\n" if words else line)
            stream.flush()
    return _status(failed, len(files))


def _stream(args: argparse.Namespace) -> int:
    """The text of 16-bit PCM from standard input while it arrives, as JSON lines: partial and final ones."""
    if args.audio != [Path("-")]:
        raise DownstreamError("--stream reads standard input: write `--stream -`, and no audio files")
    for option, given in (
        ("--words", args.words),
        ("--hotwords", args.hotwords),
        ("--out", args.out),
        ("--channel", args.channel is not None),
        (f"--format {args.format}", args.format != "json"),
    ):
        if given:
            raise DownstreamError(f"{option}: not with --stream, which writes JSON lines to standard output")
    if not is_recogniser(args.model):
        raise DownstreamError(f"{args.model}: --stream needs the head directory of a CTC recogniser (protocol ctc)")
    reader = LiveReader(args.model, args.upstream, chunk_ms=args.chunk)
    with _output(None) as stream:
        for line in reader.read(pcm_blocks(standard_input())):
            stream.write(json.dumps(asdict(line), ensure_ascii=False) + "\n")
            stream.flush()
    return 0


def _decoded(reading: Reading, reader: Reader, hotwords: Hotwords | None) -> tuple[str, list[int]]:
    """The text of a recording and its classes, spaces included."""
    if hotwords is None or not reading.text:
        return reading.text, [reader.characters.index(c) for c in reading.text]
    text = "".join(reader.characters[label] for label in decode(reading.log_probs, reader.characters, hotwords))
    text = " ".join(text.split())
    return text, [reader.characters.index(c) for c in text]


def _write_subtitles(args: argparse.Namespace, files: Sequence[Path], reader: Reader, hotwords: Hotwords | None) -> int:
    """Subtitles of one file to --out or standard output, of several to one file each in the folder --out."""
    targets: list[Path | None] = [args.out]
    if len(files) > 1 or (args.out is not None and args.out.is_dir()):
        if args.out is None or args.out.is_file():
            raise DownstreamError(f"--format {args.format} of {len(files)} files: name a folder for them with --out")
        targets = [args.out / f"{file.stem}.{args.format}" for file in files]
        if again := [target for target in targets if targets.count(target) > 1]:
            same = [str(file) for file, target in zip(files, targets, strict=True) if target == again[0]]
            raise DownstreamError(f"{' and '.join(same)} would both become {again[0]}; give them in separate calls")
        for target in targets:
            check_output(target, files)
    failed = 0
    for file, target in zip(files, targets, strict=True):
        try:
            reading = reader.read(file)
            classes = _decoded(reading, reader, hotwords)[1]
            words = word_times(reading.log_probs, classes, reader.characters, reader.seconds_per_frame)
        except (AudioError, ValueError, OSError) as error:
            failed += 1
            print(f"downstream: {file}: {' '.join(str(error).split())}", file=sys.stderr)
            continue
        if reading.note:
            print(f"downstream: {file}: {reading.note}", file=sys.stderr)
        with _output(target) as stream:
            stream.write(subtitles(words, args.format))
    if failed:
        print(f"downstream: {failed} of {len(files)} files have no subtitles", file=sys.stderr)
    return 1 if failed else 0


def find(args: argparse.Namespace) -> int:
    """The command `find`: for each file, the lines of a list of texts that it contains; 0, or 1 like `run`."""
    args.model = named_head(args.model)
    if not is_recogniser(args.model):
        raise DownstreamError(
            f"{args.model}: `find` needs the head directory of a CTC recogniser (protocol ctc); `python -m "
            f"downstream.asr train` writes one, and these ship: {', '.join(SHIPPED)}"
        )
    files = audio_files(args.audio)
    check_output(args.out, [*files, args.texts])
    reader = Reader(args.model, args.upstream, channel=args.channel)
    texts, limits = read_texts(args.texts, reader.characters), limits_of(reader.description)
    finder = Finder(texts, reader.characters, spans=args.spans, limits=limits)
    failed = 0
    with _output(args.out) as stream:
        if args.format == "tsv":
            stream.write("audio\tfound\tscore\tmargin\tseconds\ttext\terror\tnote\n")
        for file in files:
            row: dict[str, Any] = {"audio": str(file), "seconds": None, "text": None, "found": [], "score": None}
            row["margin"] = None
            try:
                reading = reader.read(file)
                found = finder.find(reading.log_probs, reading.text)
                row |= {"seconds": reading.seconds, "text": reading.text, "found": found.ids, "score": found.score}
                row["margin"] = found.margin
                if reading.note:
                    row["note"] = reading.note
            except (AudioError, ValueError, OSError) as error:
                failed += 1
                row["error"] = " ".join(str(error).split())
            if args.format == "json":
                stream.write(json.dumps(row, ensure_ascii=False) + "\n")
            else:
                cells = [row["audio"], " ".join(row["found"]), row["score"], row["margin"], row["seconds"], row["text"]]
                cells += [row.get("error"), row.get("note")]
                shown = ("" if cell is None else " ".join(str(for_spreadsheet(cell)).split()) for cell in cells)
                stream.write("\t".join(shown) + "\n")
            stream.flush()
    return _status(failed, len(files))


def _status(failed: int, files: int) -> int:
    if failed:
        print(f"downstream: {failed} of {files} files have no answer; see their lines", file=sys.stderr)
    return 1 if failed else 0


def audio_files(paths: Sequence[Path]) -> list[Path]:
    """The given files, and all audio files below the given folders; what else is there is named on standard error.

    Raises DownstreamError for a folder without any audio.
    """
    found: list[Path] = []
    for path in paths:
        if not path.is_dir():
            found.append(path)
            continue
        below, others = find_audio(path)
        if others:
            names = ", ".join(others[:_NAMED]) + (f" and {len(others) - _NAMED} more" if len(others) > _NAMED else "")
            print(f"downstream: left out {len(others)} files that are no audio: {names}", file=sys.stderr)
        if not below:
            raise DownstreamError(f"{path}: no audio file in this folder ({FORMATS})")
        found += below
    return found


def predict(predictor: Predictor, files: Sequence[Path], *, bar: bool | None = None) -> Iterator[Answer]:
    """Answers in the order of the files, with a progress bar in seconds of audio (`bar` None: on a terminal only)."""
    from tqdm import tqdm

    total = sum(map(seconds_of, files))
    disable = None if bar is None else not bar
    with tqdm(total=round(total, 1), unit="s", desc=f"0 of {len(files)} files", disable=disable) as shown:
        for number, path in enumerate(files, 1):
            yield predictor(path, shown.update)
            shown.set_description(f"{number} of {len(files)} files")


def seconds_of(path: Path) -> float:
    """Length of a file by its header (s), 0 where the header cannot be read; for the progress bar."""
    try:
        info = header_info(path)
    except (AudioError, ValueError, OSError):  # ValueError: a name that is not UTF-8
        return 0.0
    return 0.0 if info is None else info.samples / info.sample_rate


def as_line(answer: Answer, task: str, form: str) -> str:
    """One line of JSON or TSV. In TSV the score is that of the answer, tabs and line breaks become spaces, and text
    passes `for_spreadsheet`."""
    label = TASKS[task].label
    if form == "json":
        row: dict[str, object] = {"audio": answer.audio, label: answer.result, "seconds": answer.seconds}
        row |= {"scores": answer.scores} if answer.scores else {}
        row |= {"error": answer.error} if answer.error else {}
        row |= {"note": answer.note} if answer.note else {}
        return json.dumps(row, ensure_ascii=False) + "\n"
    score = answer.scores.get(answer.result or "")
    given = (answer.audio, answer.result, score, answer.seconds, answer.error, answer.note)
    cells = ("" if cell is None else str(for_spreadsheet(cell)) for cell in given)
    return "\t".join(" ".join(cell.splitlines()).replace("\t", " ") for cell in cells) + "\n"


@contextmanager
def _output(path: Path | None) -> Iterator[TextIO]:
    if path is not None:
        with atomic_file(path) as temporary:
            with open(temporary, "w", encoding="utf-8", errors="backslashreplace", newline="\n") as stream:
                yield stream
        return
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A console with another encoding would fail at Arabic letters and at file names that are not UTF-8.
        sys.stdout.reconfigure(encoding="utf-8", errors="backslashreplace", newline="\n")
    yield sys.stdout


def read_head(folder: Path, task: str) -> dict[str, Any]:
    """Read head.json of a head directory. Raises DownstreamError for missing files or keys, or another task."""
    for name in _FILES:
        if not (folder / name).is_file():
            ships = f", and these ship: {', '.join(SHIPPED)}" if task == "asr" else ""
            raise DownstreamError(
                f"{folder}: {name} is missing, so this is not a head directory; the benchmark writes one to "
                f"exp/<recipe>/probes/<task>_<protocol>/<upstream>/seed<n>/head{ships}"
            )
    head = read_json(folder / "head.json")
    missing = [key for key in _KEYS if not isinstance(head, dict) or key not in head]
    if missing:
        raise DownstreamError(f"{folder / 'head.json'}: the key `{missing[0]}` is missing")
    if head["task"] != task:
        hint = f"; use `{TASKS[head['task']].command}`" if head["task"] in TASKS else ""
        raise DownstreamError(f"{folder}: a head for {head['task']}, not for {task}{hint}")
    if head.get("finetune", "probe") != "probe":
        _check_delta(head, folder)
    return head


def _check_delta(head: dict[str, Any], folder: Path) -> None:
    """Raise DownstreamError where the fine-tuned parameters of the upstream are missing or belong to another head."""
    for name in (finetune.DELTA, finetune.DELTA_INFO):
        if not (folder / name).is_file():
            raise DownstreamError(
                f"{folder}: {name} is missing; this head needs its fine-tuned upstream ({head['finetune']}); copy the "
                "whole head directory, or train the head again"
            )
    info = read_json(folder / finetune.DELTA_INFO)
    for key in ("finetune", "upstream_key"):
        if not isinstance(info, dict) or info.get(key) != head[key]:
            raise DownstreamError(
                f"{folder / finetune.DELTA_INFO}: `{key}` differs from head.json; the delta belongs to another head"
            )


def find_upstream(head: dict[str, Any], folder: Path, given: Path | None) -> Upstream:
    """The upstream of a head: the model directory `given`, else one of its name.

    Without `given`, it searches $HARNESS_MODELS, then a folder `models` in every parent folder of the head. Raises
    DownstreamError where it finds none, or where the weights are not those that the head was trained on.
    """
    name = check_name(head["upstream"], f"{folder / 'head.json'}: upstream")
    places = [given] if given is not None else []
    if given is None:
        if root := os.environ.get("HARNESS_MODELS"):
            places.append(Path(root) / name)
        places += [parent / "models" / name for parent in folder.resolve().parents]
    place = next((path for path in places if (path / "config.json").is_file()), None)
    if place is None and given is not None:
        raise DownstreamError(f"--upstream {given}: no such model directory")
    try:
        found = resolve(name if place is None else f"{name}={place}", folder / "models")
    except FileNotFoundError:
        raise DownstreamError(
            f"{folder}: its upstream {name} was not found; name the model directory with --upstream DIR, or its parent "
            "folder in HARNESS_MODELS"
        ) from None
    if found.key != head["upstream_key"]:
        raise DownstreamError(
            f"{folder}: trained on other weights of {name} than those of {place or 'S3PRL'}; name the right model "
            "directory with --upstream DIR, or train the head again"
        )
    return found


class _FixedOutput(nn.Module):
    """A model that returns its input, so that S3PRL's task only decodes."""

    def __init__(self, output_size: int) -> None:
        super().__init__()
        self.output_size = output_size

    def forward(self, logits: Tensor, lengths: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        return (logits, lengths) if logits.dim() == 3 else logits


class Predictor:
    """A head with its upstream, ready for files; `windowing` sets the windows for long files.

    channel: of files with several, from 0; None: the average.

    Raises DownstreamError for a folder that is not a head directory, for an upstream that does not belong to the head,
    and for weights that do not fit their description.
    """

    def __init__(
        self, folder: Path, task: str, upstream: Path | None = None, device: str = "auto", channel: int | None = None
    ) -> None:
        folder = Path(folder)
        device = devices_of(device)[0]
        head = read_head(folder, task)
        found = find_upstream(head, folder, upstream)
        self.task_name, self.device, self.channel = task, device, channel
        with quiet_import():
            from downstream.probe.probe import UpstreamExtractor
            from downstream.probe.train import problem_of

            problem = problem_of(task)
            self.extract = UpstreamExtractor(found, device)
        if head.get("finetune", "probe") != "probe":
            _load_delta(self.extract.model, folder, head["finetune"])
        _accelerate(self.extract.model)
        info = self.extract.info
        cached = {"layers": info.layers, "width": info.width, "stride": info.stride}
        self.per_hop = HOP // info.stride
        try:
            build = {**head["build"], "build_upstream": {"name": found.entry, "cached": cached}}
            self.model = problem.build_model(**build)
            _load(self.model, folder)
            described = {key: head[key] for key in ("characters", "labels") if key in head}
            arguments = problem.task_arguments(described)
            fixed = _FixedOutput(problem.output_size(arguments))
            if fixed.output_size != head["build"]["model_output_size"]:
                raise ValueError(
                    f"head.json lists {fixed.output_size} outputs, the head has {head['build']['model_output_size']}"
                )
            self.task = problem.build_task(model=fixed, **arguments).to(device).eval()
        except (KeyError, TypeError, AttributeError, RuntimeError, ValueError) as error:
            line = " ".join(str(error).split())[:300]
            raise DownstreamError(f"{folder}: head.json and head.safetensors do not fit each other ({line})") from error
        self.model = self.model.to(device).eval()
        # A head with one frame in `total_rate` samples concatenates several frames of the upstream.
        rate = head["build"]["build_downstream"].get("total_rate") or info.stride
        self.stack = max(1, round(rate / info.stride))
        self.windowing = Windowing(frames=max(1, round(rate / HOP)))

    @torch.inference_mode()
    def __call__(self, path: Path, progress: Callable[[float], None] = lambda seconds: None) -> Answer:
        """The answer for one file; `progress` receives the seconds of audio of each window."""
        notes: list[str] = []
        try:
            logits, samples = self._logits(path, progress, notes)
        except (AudioError, ValueError, OSError) as error:
            return Answer(str(path), None, None, error=" ".join(str(error).split()))
        seconds, note = round(samples / SAMPLE_RATE, 3), "; ".join(notes) or None
        if not torch.isfinite(logits).all():
            return Answer(str(path), None, seconds, error=f"{path}: the outputs are not finite; the model is broken")
        if self.task_name == "asr":
            _, (text,), _ = self.task.predict(logits, torch.tensor([logits.shape[1]]))
            return Answer(str(path), " ".join(text.split()), seconds, note=note)
        _, (label,) = self.task.predict(logits, torch.tensor([1]))
        shares = logits[0].softmax(-1).tolist()
        scores = {self.task.category.decode(i): round(share, 6) for i, share in enumerate(shares)}
        return Answer(str(path), label, seconds, scores, note=note)

    def _logits(self, path: Path, progress: Callable[[float], None], notes: list[str]) -> tuple[Tensor, int]:
        """Logits of a whole file, (1, T, characters) or (1, classes), and its number of samples; adds to `notes`."""
        pieces: list[Tensor] = []
        total = torch.zeros(())
        frames = samples = 0
        blocks = stream_any(path, channel=self.channel, notes=notes)
        for window in windows(map(torch.from_numpy, blocks), self.windowing):
            x, length = self._features(window.samples.numpy())
            skip = window.skip * self.per_hop
            keep = None if window.keep is None else window.keep * self.per_hop
            if self.task_name == "asr":
                y, _ = self.model.downstream(x, length)
                begin = skip // self.stack
                pieces.append(y[:, begin : None if keep is None else begin + keep // self.stack])
            else:
                kept = x[0, skip : None if keep is None else skip + keep]
                total = total + kept.double().sum(0)
                frames += len(kept)
            own = len(window.samples) if keep is None else (window.skip + window.keep) * HOP
            own -= window.skip * HOP
            samples += own
            progress(own / SAMPLE_RATE)
        if self.task_name == "asr":
            return torch.cat(pieces, dim=1), samples
        mean = (total / frames).float()[None, None]
        return self.model.downstream(mean, torch.tensor([1], device=self.device)), samples

    def _features(self, wave: np.ndarray) -> tuple[Tensor, Tensor]:
        """The head's input for one window: the weighted sum of the layers (1, T, D), and its length (1,)."""
        (hidden,) = self.extract([wave])
        states = torch.from_numpy(hidden).to(self.device)[:, None]
        length = torch.tensor([states.shape[2]], device=self.device)
        x, lengths = self.model.featurizer(states, [length] * len(states))
        return x, lengths


def _load_delta(upstream: nn.Module, folder: Path, tag: str) -> None:
    """Load the fine-tuned parameters of an upstream, and merge LoRA adapters, since `_accelerate` reads the weights."""
    from safetensors import SafetensorError

    try:
        encoder = finetune.encoder_of(upstream)
        finetune.load_delta(encoder, folder)
        if finetune.parse(tag).kind == "lora":
            finetune.merge_adapters(encoder)
    except (ValueError, SafetensorError, OSError) as error:
        raise DownstreamError(f"{folder}: {finetune.DELTA} cannot be used ({' '.join(str(error).split())})") from error
    encoder.requires_grad_(False).eval()


def _accelerate(model: nn.Module) -> None:
    """Replace the encoder of our own expert by its faster form for inference."""
    from upstream.harness.expert import UpstreamExpert
    from upstream.model.fast import accelerate

    if type(model.upstream) is UpstreamExpert:
        model.upstream.model = accelerate(model.upstream.model)


def _load(model: nn.Module, folder: Path) -> None:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        state = load_file(folder / "head.safetensors")
    except (SafetensorError, OSError) as error:
        raise ValueError(f"head.safetensors cannot be read: {error}") from error
    missing, unexpected = model.load_state_dict(state, strict=False)
    wrong = [name for name in missing if not name.startswith("upstream.")] + list(unexpected)
    if wrong:
        raise ValueError(f"{len(wrong)} tensors missing or unknown, first `{wrong[0]}`")

"""Trained heads on new audio: any format that soundfile reads, any rate, any length.

A head directory (`head.json`, `head.safetensors`, and `delta.*` where a part of the upstream was fine-tuned) and the
model directory that its head was trained on are all that is opened. A file that fits one window passes in one piece, as
in the benchmark, and gives the benchmark's answer; a longer one passes in windows (`upstream.model.chunked`):
characters are decoded over the joined frames, classes from the mean over all of them.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from corpora.audio import SAMPLE_RATE, AudioError, audio_info, stream_any
from corpora.files import read_json
from downstream.answers import TASKS, Answer, PredictError
from downstream.probe import finetune
from downstream.quiet import quiet
from downstream.upstreams import Upstream, resolve
from upstream.model.chunked import Windowing, windows
from upstream.model.family import HOP

_FILES = ("head.json", "head.safetensors")
_KEYS = ("task", "protocol", "upstream", "upstream_key", "build")


def read_head(folder: Path, task: str) -> dict[str, Any]:
    """The description in a head directory. Raises PredictError where it is none, or of another task."""
    for name in _FILES:
        if not (folder / name).is_file():
            raise PredictError(
                f"{folder}: {name} is missing, so this is not a head directory; the benchmark leaves one in "
                "exp/<recipe>/probes/<task>_<protocol>/<upstream>/seed<n>/head"
            )
    head = read_json(folder / "head.json")
    missing = [key for key in _KEYS if not isinstance(head, dict) or key not in head]
    if missing:
        raise PredictError(f"{folder / 'head.json'}: the key `{missing[0]}` is missing")
    if head["task"] != task:
        command = next((name for name, known in TASKS.items() if known == head["task"]), None)
        hint = f"; use `{command}`" if command else ""
        raise PredictError(f"{folder}: a head for {head['task']}, not for {task}{hint}")
    if head.get("finetune", "probe") != "probe":
        _check_delta(head, folder)
    return head


def _check_delta(head: dict[str, Any], folder: Path) -> None:
    """Raises PredictError where what was learned of a fine-tuned upstream is missing, or belongs to another head."""
    for name in (finetune.DELTA, finetune.DELTA_INFO):
        if not (folder / name).is_file():
            raise PredictError(
                f"{folder}: {name} is missing, and without it this head reads another upstream than it was trained on "
                f"(fine-tuned, {head['finetune']}); copy the whole head directory, or train the head again"
            )
    info = read_json(folder / finetune.DELTA_INFO)
    for key in ("finetune", "upstream_key"):
        if not isinstance(info, dict) or info.get(key) != head[key]:
            raise PredictError(
                f"{folder / finetune.DELTA_INFO}: `{key}` is another one than in head.json; the delta belongs to "
                "another head"
            )


def find_upstream(head: dict[str, Any], folder: Path, given: Path | None) -> Upstream:
    """The upstream of a head: the model directory that was given, else one of its name near at hand.

    Searched are $HARNESS_MODELS and the folders `models` beside those that hold the head. Raises PredictError where
    there is none, or where its weights are not those that the head was trained on.
    """
    name = str(head["upstream"])
    places = [given] if given is not None else []
    if given is None:
        if root := os.environ.get("HARNESS_MODELS"):
            places.append(Path(root) / name)
        places += [parent / "models" / name for parent in folder.resolve().parents]
    place = next((path for path in places if (path / "config.json").is_file()), None)
    if place is None and given is not None:
        raise PredictError(f"--upstream {given}: no such model directory")
    try:
        found = resolve(name if place is None else f"{name}={place}", folder / "models")
    except FileNotFoundError:
        raise PredictError(
            f"{folder}: its upstream {name} is not at hand; name the model directory with --upstream DIR, or its "
            "parent in HARNESS_MODELS"
        ) from None
    if found.key != head["upstream_key"]:
        raise PredictError(
            f"{folder}: trained on other weights of {name} than {place or 'those that S3PRL has here'} holds; name the "
            "right model directory with --upstream DIR, or train the head again"
        )
    return found


class _Given(nn.Module):
    """Stands for a model whose output is there already, so that S3PRL's task only has to read it."""

    def __init__(self, output_size: int) -> None:
        super().__init__()
        self.output_size = output_size

    def forward(self, logits: Tensor, lengths: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        return (logits, lengths) if logits.dim() == 3 else logits


class Predictor:
    """A head and its upstream, ready for files.

    Raises PredictError for what is not a head, for an upstream that does not belong to it, and for weights that do not
    fit their description.
    """

    def __init__(self, folder: Path, task: str, upstream: Path | None = None, device: str = "auto") -> None:
        folder = Path(folder)
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        head = read_head(folder, task)
        found = find_upstream(head, folder, upstream)
        self.task_name, self.device = task, device
        with quiet():
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
            given = _Given(problem.output_size(arguments))
            if given.output_size != head["build"]["model_output_size"]:
                raise ValueError(f"{given.output_size} outputs described, {head['build']['model_output_size']} built")
            self.task = problem.build_task(model=given, **arguments).to(device).eval()
        except (KeyError, TypeError, AttributeError, RuntimeError, ValueError) as error:
            line = " ".join(str(error).split())[:300]
            raise PredictError(f"{folder}: head.json and head.safetensors do not fit each other ({line})") from error
        self.model = self.model.to(device).eval()
        # A head at one frame in `total_rate` samples reads several frames of the upstream together.
        rate = head["build"]["build_downstream"].get("total_rate") or info.stride
        self.stack = max(1, round(rate / info.stride))
        self.windowing = Windowing(frames=max(1, round(rate / HOP)))

    @torch.inference_mode()
    def __call__(self, path: Path, progress: Callable[[float], None] = lambda seconds: None) -> Answer:
        """The answer for one file; `progress` is told the seconds of audio that each window adds."""
        try:
            logits, samples = self._logits(path, progress)
        except (AudioError, ValueError) as error:
            return Answer(str(path), None, None, error=" ".join(str(error).split()))
        seconds = round(samples / SAMPLE_RATE, 3)
        if not torch.isfinite(logits).all():
            return Answer(str(path), None, seconds, error=f"{path}: the outputs are not finite; the model is broken")
        if self.task_name == "asr":
            _, (text,), _ = self.task.predict(logits, torch.tensor([logits.shape[1]]))
            return Answer(str(path), " ".join(text.split()), seconds)
        _, (label,) = self.task.predict(logits, torch.tensor([1]))
        shares = logits[0].softmax(-1).tolist()
        scores = {self.task.category.decode(i): round(share, 6) for i, share in enumerate(shares)}
        return Answer(str(path), label, seconds, scores)

    def _logits(self, path: Path, progress: Callable[[float], None]) -> tuple[Tensor, int]:
        """Of a whole file: (1, T, characters) or (1, classes); and its samples."""
        pieces: list[Tensor] = []
        total = torch.zeros(())
        frames = samples = 0
        for window in windows(map(torch.from_numpy, stream_any(path)), self.windowing):
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
        """What the head reads of one window: the weighted sum of the layers (1, T, D), and its length (1,)."""
        (hidden,) = self.extract([wave])
        states = torch.from_numpy(hidden).to(self.device)[:, None]
        length = torch.tensor([states.shape[2]], device=self.device)
        x, lengths = self.model.featurizer(states, [length] * len(states))
        return x, lengths


def _load_delta(upstream: nn.Module, folder: Path, tag: str) -> None:
    """Put what was fine-tuned of an upstream on it, LoRA's adapters into its weights: `_accelerate` reads those."""
    from safetensors import SafetensorError

    try:
        encoder = finetune.encoder_of(upstream)
        finetune.load_delta(encoder, folder)
        if finetune.parse(tag).kind == "lora":
            finetune.merge_adapters(encoder)
    except (ValueError, SafetensorError, OSError) as error:
        raise PredictError(f"{folder}: {finetune.DELTA} cannot be used ({' '.join(str(error).split())})") from error
    encoder.requires_grad_(False).eval()


def _accelerate(model: nn.Module) -> None:
    """Our own expert computes the same states with fewer products where nothing is trained."""
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


def seconds_of(path: Path) -> float:
    """Length of a file by its header (s), 0 where it has none that can be read; for the progress bar."""
    try:
        info = audio_info(path)
    except AudioError:
        return 0.0
    return info.samples / info.sample_rate


def predict(predictor: Predictor, files: Sequence[Path], *, bar: bool | None = None) -> Iterator[Answer]:
    """Answers in the order of the files, with a bar in seconds of audio on the terminal (`bar` None: if it is one)."""
    from tqdm import tqdm

    total = sum(map(seconds_of, files))
    disable = None if bar is None else not bar
    with tqdm(total=round(total, 1), unit="s", desc=f"0 of {len(files)} files", disable=disable) as shown:
        for number, path in enumerate(files, 1):
            yield predictor(path, shown.update)
            shown.set_description(f"{number} of {len(files)} files")

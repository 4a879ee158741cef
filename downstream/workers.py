"""Running the cells of a grid: one process an upstream at a time, S3PRL imported once in each."""

from __future__ import annotations

import logging
import math
import multiprocessing
import os
import queue
import shutil
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from corpora.files import TooManyBadFiles, write_json, write_text
from downstream import cache, metrics, results
from downstream.plan import POOLED, UNCACHED, Cell, groups
from downstream.revision import commit
from downstream.scoring import score_split
from downstream.upstreams import Upstream

if TYPE_CHECKING:
    from downstream.benchmark import Settings
    from downstream.cell import Outcome

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Event:
    """What a worker tells: `note` what it does, `say` a line to keep, `rows` of a cell that is done, `failed` cells."""

    kind: str
    text: str = ""
    cells: int = 0
    rows: list[dict[str, Any]] = field(default_factory=list)


def run_jobs(
    work: Sequence[tuple[Upstream, tuple[Cell, ...]]], settings: Settings, jobs: int | None
) -> Iterator[Event]:
    """Run all cells and yield events; with one job in this process, else in spawned ones that end with it."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    on_gpu = _device(settings.device) != "cpu"
    wanted = jobs if jobs is not None else 1 if on_gpu else cores
    processes = min(len(work), wanted)
    asked = os.environ.get("OMP_NUM_THREADS", "")
    # Not from `processes`: a run that is killed and has one upstream left must compute with as many threads as before.
    threads = int(asked) if asked.isdecimal() else max(1, cores // wanted)
    if processes <= 1:
        for upstream, cells in work:
            yield from _in_this_process(upstream, cells, settings, threads)
        return
    context = multiprocessing.get_context("spawn")
    tasks, events = context.Queue(), context.Queue()
    # The longest first, so that none is left over at the end.
    for upstream, cells in sorted(work, key=lambda entry: -_weight(entry[0])):
        tasks.put((upstream, cells))
    for _ in range(processes):
        tasks.put(None)
    workers = [
        context.Process(target=_serve, args=(tasks, events, settings, threads, os.getpid()), daemon=True)
        for _ in range(processes)
    ]
    for worker in workers:
        worker.start()
    try:
        yield from _collect(workers, events, sum(len(cells) for _, cells in work))
    finally:
        for worker in workers:
            worker.terminate()
            worker.join()


def _collect(workers: list[Any], events: Any, pending: int) -> Iterator[Event]:
    while pending:
        try:
            event = events.get(timeout=1.0)
        except queue.Empty:
            if any(worker.is_alive() for worker in workers):
                continue
            codes = ", ".join(str(worker.exitcode) for worker in workers)
            yield Event(
                "failed", f"worker processes ended early (exit codes {codes}); -9 means too little memory", pending
            )
            return
        pending -= event.cells
        yield event


def _serve(tasks: Any, events: Any, settings: Settings, threads: int, parent: int) -> None:
    """The loop of a spawned process; it ends itself when its parent is gone, however that was killed."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1.0)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
    while (task := tasks.get()) is not None:
        _run_upstream(*task, settings, threads, events.put)


def _in_this_process(
    upstream: Upstream, cells: tuple[Cell, ...], settings: Settings, threads: int
) -> Iterator[Event]:
    events: queue.Queue[Event | None] = queue.Queue()
    # A thread, so that the bar moves while cells run.
    problem: list[BaseException] = []

    def work() -> None:
        try:
            _run_upstream(upstream, cells, settings, threads, events.put)
        except BaseException as error:
            problem.append(error)
        finally:
            events.put(None)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    while (event := events.get()) is not None:
        yield event
    thread.join()
    if problem:
        raise problem[0]


def _run_upstream(
    upstream: Upstream,
    cells: tuple[Cell, ...],
    settings: Settings,
    threads: int,
    tell: Callable[[Event], None],
) -> None:
    tell(Event("note", f"{upstream.name}: starting"))
    import torch

    # Baselines are many tiny operations, in which threads wait for each other.
    torch.set_num_threads(1 if upstream.path is None else threads)
    # Gates that saturate make gradients too small for normal numbers, with which a CPU is ten times slower.
    torch.set_flush_denormal(True)
    device = _device(settings.device)
    with _quiet():
        from downstream.cell import problem_of
        from downstream.probe import UpstreamExtractor

        for task in {cell.task for cell in cells}:
            problem_of(task)

    extractor: list[UpstreamExtractor] = []

    def build() -> UpstreamExtractor:
        if not extractor:
            extractor.append(UpstreamExtractor(upstream, device))
        return extractor[0]

    features: dict[tuple[str, bool], cache.Features] = {}
    broken: dict[tuple[str, bool], str] = {}
    for kind, normalised in sorted({cell.kind for cell in cells if cell.kind[0] != UNCACHED}):
        items = [item for cell in cells if cell.kind == (kind, normalised) for item in cell.data.items]

        def progress(share: float, kind: str = kind) -> None:
            tell(Event("note", f"{upstream.name}: {kind} features {share:.0%}"))

        try:
            progress(0.0)
            with _logging_to(_Teller(tell), "downstream.cache", "corpora.files"):
                features[kind, normalised] = cache.prepare(
                    settings.exp_dir / "cache",
                    upstream,
                    kind,
                    items,
                    build,
                    normalised=normalised,
                    progress=progress,
                )
        except Exception as error:
            broken[kind, normalised] = _line(error)
            if not isinstance(error, (cache.CacheError, TooManyBadFiles)):
                tell(Event("say", traceback.format_exc()))
    extractor.clear()
    for group in groups(cells):
        kind = group[0].kind
        if kind in broken:
            for cell in group:
                tell(Event("failed", f"{upstream.name} {cell.place}: {broken[kind]}", 1))
            continue
        # Steps on pooled features take microseconds: a second thread would only wait for the first.
        torch.set_num_threads(1 if kind[0] == POOLED else threads)
        _run_group(upstream, group, settings, features.get(kind), device, tell)


@contextmanager
def _quiet() -> Iterator[None]:
    """S3PRL's import prints deprecations of others and failed downloads that nothing here needs."""
    with open(os.devnull, "w") as sink, redirect_stdout(sink), redirect_stderr(sink):
        yield


def _run_group(
    upstream: Upstream,
    group: list[Cell],
    settings: Settings,
    features: cache.Features | None,
    device: str,
    tell: Callable[[Event], None],
) -> None:
    from downstream.cell import run_cell, run_pooled

    first = group[0]
    place = f"{upstream.name} {first.place}" + (f" and {len(group) - 1} more seeds" if len(group) > 1 else "")
    tell(Event("note", place))
    data, protocol = first.data, first.protocol
    with ExitStack() as stack:
        done: list[Cell] = []
        try:
            folders = [stack.enter_context(_run_dir(cell, settings)) for cell in group]
            if features is not None and features.kind == POOLED:
                seeds = [cell.seed for cell in group]
                outcomes = run_pooled(data, upstream, features, protocol, seeds, folders, device)
            else:
                search_dir = first.run_dir.parent / ("search" if first.fold is None else f"search_fold{first.fold}")
                outcomes = [
                    run_cell(
                        data,
                        upstream,
                        features,
                        protocol,
                        first.seed,
                        folders[0],
                        device,
                        tuning=first.tuning,
                        search_dir=search_dir,
                    )
                ]
            for cell, folder, outcome in zip(group, folders, outcomes, strict=True):
                rows = _keep(upstream, cell, settings, folder, outcome)
                done.append(cell)
                tell(Event("rows", f"{upstream.name} {cell.place}", 1, rows))
        except Exception as error:
            logger.error("%s", traceback.format_exc())
            for cell in group:
                if cell not in done:
                    where = f"{upstream.name} {cell.place}"
                    tell(Event("failed", f"{where}: {_line(error)} (log: {cell.run_dir / 'log'})", 1))


def _keep(
    upstream: Upstream, cell: Cell, settings: Settings, folder: Path, outcome: Outcome
) -> list[dict[str, Any]]:
    """Write what a cell found; its rows."""
    results.write_predictions(folder / "predictions.csv", outcome.predictions)
    results.write_curve(folder / "curve.csv", outcome.curve)
    normalised = bool(cell.protocol.config["problem"]["build_featurizer"]["normalize"])
    results.write_layer_weights(folder / "layer_weights.json", outcome.layer_weights, normalised=normalised)
    if outcome.labels:
        results.write_scores(folder / "scores.csv", outcome.labels, outcome.scores)
        for split in cell.data.tests:
            own = [p for p in outcome.predictions if p.split == split]
            table = metrics.confusion([p.reference for p in own], [p.hypothesis for p in own], outcome.labels)
            results.write_confusion(folder / f"confusion_{split}.csv", outcome.labels, table)
    rows = _rows(upstream, cell, settings, outcome)
    # Last: a run directory with this file is complete.
    write_json(
        folder / "cell.json",
        {"key": cell.key, "upstream_key": upstream.key, "dev": outcome.dev, "rows": rows},
    )
    return rows


def _rows(upstream: Upstream, cell: Cell, settings: Settings, outcome: Outcome) -> list[dict[str, Any]]:
    config = cell.protocol.config
    # Posteriors over the shares of the classes in training are likelihoods, up to a constant.
    shares = Counter(item.label for item in cell.data.splits["train"])
    priors = [math.log(shares[label] / shares.total()) for label in outcome.labels]
    rows = []
    for split in cell.data.tests:
        likelihoods = {
            utt_id: [score - prior for score, prior in zip(scores, priors, strict=True)]
            for utt_id, scores in outcome.scores[split].items()
        }
        found = score_split(
            config["metrics"],
            [p for p in outcome.predictions if p.split == split],
            {item.utt_id: item for item in cell.data.splits[split]},
            likelihoods,
            outcome.labels,
            config["duration_bins_s"],
        )
        for score in found:
            row = {
                "recipe": settings.recipe,
                "upstream": upstream.name,
                "task": cell.task,
                "corpus": cell.data.corpus or settings.recipe,
                "split": split,
                "protocol": cell.protocol.tag,
                "head": config["head"],
                "metric": score.metric,
                "value": score.value,
                "ci_low": score.low,
                "ci_high": score.high,
                "n": score.n,
                "seed": cell.seed,
                "fold": cell.fold,
                "finetune": cell.tuning.tag,
                "budget": cell.budget,
                "lr": outcome.lr,
                "text_profile": config["text_profile"],
                "wall_s": round(outcome.wall_s, 2),
                "commit": commit(),
                "run_dir": _shown(cell.run_dir),
            }
            rows.append(results.as_text(row))
            logger.info("%s %s %.4f [%.4f, %.4f]", split, score.metric, score.value, score.low, score.high)
    return rows


@contextmanager
def _run_dir(cell: Cell, settings: Settings) -> Iterator[Path]:
    """An empty run directory with command and config, and a log that holds what is logged meanwhile."""
    from omegaconf import OmegaConf

    folder = cell.run_dir
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    write_text(folder / "command", settings.command + "\n")
    OmegaConf.save(
        OmegaConf.create(
            {
                "protocol": cell.protocol.tag,
                "seed": cell.seed,
                "fold": cell.fold,
                "finetune": cell.tuning.tag,
                "budget": cell.budget or None,
                **cell.protocol.config,
            }
        ),
        folder / "config.yaml",
    )
    handler = logging.FileHandler(folder / "log", encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    with _logging_to(handler, "downstream", "s3prl", "corpora"):
        for split, names in cell.data.left_out.items():
            for name in names:
                logger.info("left out of %s: %s", split, name)
        yield folder


@contextmanager
def _logging_to(handler: logging.Handler, *names: str) -> Iterator[None]:
    """Send what these loggers say from INFO on to one handler and nowhere else."""
    loggers = [logging.getLogger(name) for name in names]
    before = [(each.level, each.propagate) for each in loggers]
    for each in loggers:
        each.addHandler(handler)
        each.setLevel(logging.INFO)
        each.propagate = False
    try:
        yield
    finally:
        for each, (level, propagate) in zip(loggers, before, strict=True):
            each.removeHandler(handler)
            each.setLevel(level)
            each.propagate = propagate
        handler.close()


class _Teller(logging.Handler):
    """Passes log lines on as events, so that one process writes to the terminal."""

    def __init__(self, tell: Callable[[Event], None]):
        super().__init__()
        self.tell = tell

    def emit(self, record: logging.LogRecord) -> None:
        self.tell(Event("say", record.getMessage()))


def _device(asked: str) -> str:
    if asked != "auto":
        return asked
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def _shown(path: Path) -> str:
    """A path as it is written into results: relative where it lies under the current folder."""
    path = Path(path)
    here = Path.cwd()
    return str(path.resolve().relative_to(here)) if path.resolve().is_relative_to(here) else str(path)


def _weight(upstream: Upstream) -> int:
    weights = None if upstream.path is None else upstream.path / "model.safetensors"
    return weights.stat().st_size if weights is not None and weights.is_file() else 0


def _line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__

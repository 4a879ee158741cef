"""Run the cells of one upstream in one process: store its features, train the heads, write the run directories."""

from __future__ import annotations

import functools
import logging
import math
import shutil
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from corpora.audio import SAMPLE_RATE
from corpora.command import one_line
from corpora.files import CorpusError, TooManyBadFiles, only_writer, write_json, write_text
from downstream import DownstreamError
from downstream.grid.plan import POOLED, UNCACHED, Cell, Event, Settings, groups, read_cell
from downstream.probe import cache, quiet_import
from downstream.probe.data import readable
from downstream.score import metrics, results
from downstream.upstreams import Upstream

if TYPE_CHECKING:
    from downstream.probe.train import Outcome

logger = logging.getLogger(__name__)
Send = Callable[[Event], None]


def run_upstream(
    upstream: Upstream, cells: Sequence[Cell], settings: Settings, threads: int, device: str, send: Send
) -> None:
    """Run all these cells of one upstream: first the features, which they share, then the heads."""
    send(Event("note", f"{upstream.name}: starting"))
    import torch

    # Baselines are many tiny operations; with several threads they would mostly wait.
    torch.set_num_threads(1 if upstream.path is None else threads)
    # Saturated gates have denormal gradients, which a CPU multiplies ten times slower.
    torch.set_flush_denormal(True)
    with quiet_import():
        from downstream.probe.train import problem_of

        for task in {cell.task for cell in cells}:
            problem_of(task)

    stored = _store_features(upstream, cells, settings, device, send)
    for group in groups(cells):
        store = stored[group[0].kind]
        if store.error:
            for cell in group:
                send(Event("failed", f"{upstream.name} {cell.title}: {store.error}", 1))
            continue
        pooled = store.features is not None and store.features.kind == POOLED
        # A step on pooled features takes microseconds; a second thread only adds waiting.
        torch.set_num_threads(1 if pooled else threads)
        # Only stored features let the seeds of a fold train together.
        for cells_together in [group] if store.features is not None else [[cell] for cell in group]:
            _run_group(upstream, cells_together, settings, store, device, send)


@dataclass(frozen=True)
class _Store:
    """Stored features for one kind of cells; None without stored features: the upstream then runs at every step.

    `error` is set if the features could not be computed. `seconds` is the time of extraction, divided by the number of
    cells that use the features.
    """

    features: cache.Features | None
    error: str
    seconds: float


def _store_features(
    upstream: Upstream, cells: Sequence[Cell], settings: Settings, device: str, send: Send
) -> dict[tuple[str, bool], _Store]:
    @functools.cache
    def build() -> Any:
        from downstream.probe.probe import UpstreamExtractor

        return UpstreamExtractor(upstream, device)

    stored = {}
    for kind, normalised in sorted({cell.kind for cell in cells}):
        users = [cell for cell in cells if cell.kind == (kind, normalised)]
        features, error = None, ""

        def progress(share: float, kind: str = kind) -> None:
            send(Event("note", f"{upstream.name}: {kind} features {share:.0%}"))

        begin = time.monotonic()
        try:
            with _logging_to(_Sender(send), "downstream.probe.cache", "corpora.files"):
                if kind != UNCACHED:
                    progress(0.0)
                    features = cache.prepare(
                        settings.exp_dir / "cache",
                        upstream,
                        kind,
                        [item for cell in users for item in cell.data.items],
                        build,
                        normalised=normalised,
                        limit_bytes=settings.cache_bytes,
                        progress=progress,
                    )
        except cache.CacheFull as problem:
            send(Event("say", f"{one_line(problem)}. Until then the upstream runs at every step"))
        except Exception as problem:
            error = one_line(problem)
            if not isinstance(problem, (DownstreamError, TooManyBadFiles)):
                send(Event("say", traceback.format_exc()))
        stored[kind, normalised] = _Store(features, error, (time.monotonic() - begin) / len(users))
    return stored


def _run_group(
    upstream: Upstream, group: Sequence[Cell], settings: Settings, store: _Store, device: str, send: Send
) -> None:
    from downstream.probe.train import run_cell, run_pooled

    with ExitStack() as stack:
        group = take_cells(upstream, group, stack, send)
        if not group:
            return
        first, features = group[0], store.features
        more = f" and {len(group) - 1} more seeds" if len(group) > 1 else ""
        send(Event("note", f"{upstream.name} {first.title}{more}"))
        data, protocol = first.data, first.protocol
        done: list[Cell] = []
        try:
            folders = [stack.enter_context(_run_dir(cell, settings)) for cell in group]
            if features is None:
                data = readable(data, settings.exp_dir / "cache")
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
                outcome = replace(outcome, wall_s=outcome.wall_s + store.seconds)
                rows = _write_outcome(upstream, cell, settings, folder, outcome, store.seconds)
                done.append(cell)
                send(Event("rows", f"{upstream.name} {cell.title}", 1, rows))
        except Exception as error:
            logger.error("%s", traceback.format_exc())
            for cell in group:
                if cell not in done:
                    where = f"{upstream.name} {cell.title}"
                    send(Event("failed", f"{where}: {one_line(error)} (log: {cell.run_dir / 'log'})", 1))


def take_cells(upstream: Upstream, group: Sequence[Cell], stack: ExitStack, send: Send) -> list[Cell]:
    """The cells that this process trains: it holds the locks of their run directories until `stack` is closed.

    A cell that another command trains now counts as failed; one that has become complete gives its rows.
    """
    own = []
    for cell in group:
        title = f"{upstream.name} {cell.title}"
        try:
            stack.enter_context(only_writer(cell.run_dir))
        except CorpusError as error:
            send(Event("failed", f"{title}: {one_line(error)}", 1))
            continue
        if cell.is_complete:
            send(Event("rows", title, 1, read_cell(cell.run_dir)["rows"]))
        else:
            own.append(cell)
    return own


def _write_outcome(
    upstream: Upstream, cell: Cell, settings: Settings, folder: Path, outcome: Outcome, extraction_s: float
) -> list[dict[str, Any]]:
    """Write the results of a cell to its run directory, and return its rows."""
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
    # The last file: a run directory that holds it is complete.
    write_json(
        folder / "cell.json",
        {
            "key": cell.key,
            "upstream_key": upstream.key,
            "dev": outcome.dev,
            "extraction_s": round(extraction_s, 3),
            "grid": {
                "started": settings.started,
                "wall_s": round(time.time() - settings.started, 3),
                "processes": settings.processes,
            },
            "rows": rows,
        },
    )
    return rows


def _rows(upstream: Upstream, cell: Cell, settings: Settings, outcome: Outcome) -> list[dict[str, Any]]:
    config = cell.protocol.config
    # Posteriors divided by the class shares of training are likelihoods, up to a constant.
    shares = Counter(item.label for item in cell.data.splits["train"])
    priors = [math.log(shares[label] / shares.total()) for label in outcome.labels]
    rows = []
    for split in cell.data.tests:
        items = cell.data.splits[split]
        found = results.score_split(
            config["metrics"],
            [p for p in outcome.predictions if p.split == split],
            log_likelihoods={
                utt_id: [score - prior for score, prior in zip(scores, priors, strict=True)]
                for utt_id, scores in outcome.scores[split].items()
            },
            labels=outcome.labels,
            others={item.utt_id: item.others for item in items},
            seconds={item.utt_id: item.samples / SAMPLE_RATE for item in items},
            bins_s=config["duration_bins_s"],
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
                "commit": results.commit(),
                "run_dir": _shown(cell.run_dir),
            }
            rows.append(results.as_text(row))
            logger.info("%s %s %.4f [%.4f, %.4f]", split, score.metric, score.value, score.low, score.high)
    return rows


@contextmanager
def _run_dir(cell: Cell, settings: Settings) -> Iterator[Path]:
    """An empty run directory with command and config; its file `log` receives all log lines within the context."""
    from omegaconf import OmegaConf

    folder = cell.run_dir
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    write_text(folder / "command", settings.command + "\n")
    config = {
        "protocol": cell.protocol.tag,
        "seed": cell.seed,
        "fold": cell.fold,
        "finetune": cell.tuning.tag,
        "budget": cell.budget or None,
        **cell.protocol.config,
    }
    OmegaConf.save(OmegaConf.create(config), folder / "config.yaml")
    handler = logging.FileHandler(folder / "log", encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    with _logging_to(handler, "downstream", "s3prl", "corpora"):
        for split, names in cell.data.left_out.items():
            for name in names:
                logger.info("left out of %s: %s", split, name)
        yield folder


@contextmanager
def _logging_to(handler: logging.Handler, *names: str) -> Iterator[None]:
    """Send the lines of these loggers, from INFO on, to one handler and nowhere else."""
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


class _Sender(logging.Handler):
    """Sends log lines as events, so that only one process writes to the terminal."""

    def __init__(self, send: Send):
        super().__init__()
        self.send = send

    def emit(self, record: logging.LogRecord) -> None:
        self.send(Event("say", record.getMessage()))


def _shown(path: Path) -> str:
    """A path for results.csv: relative if it lies under the current folder."""
    path = Path(path)
    here = Path.cwd()
    return str(path.resolve().relative_to(here)) if path.resolve().is_relative_to(here) else str(path)

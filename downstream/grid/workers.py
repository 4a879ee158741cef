"""What one process does: the features of an upstream, then its cells and what they leave in their folders."""

from __future__ import annotations

import logging
import math
import shutil
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from corpora.files import TooManyBadFiles, write_json, write_text
from downstream.grid.plan import POOLED, UNCACHED, Cell, groups
from downstream.grid.pool import Event
from downstream.probe import cache
from downstream.probe.data import Item, readable
from downstream.quiet import quiet
from downstream.revision import commit
from downstream.score import metrics, results
from downstream.score.scoring import score_split
from downstream.upstreams import Upstream

if TYPE_CHECKING:
    from downstream.grid.run import Settings
    from downstream.probe.train import Outcome

logger = logging.getLogger(__name__)


def run_upstream(
    upstream: Upstream,
    cells: tuple[Cell, ...],
    settings: Settings,
    threads: int,
    device: str,
    tell: Callable[[Event], None],
) -> None:
    """Run all these cells of one upstream: features first, which they share, then the heads."""
    tell(Event("note", f"{upstream.name}: starting"))
    import torch

    # Baselines are many tiny operations, in which threads wait for each other.
    torch.set_num_threads(1 if upstream.path is None else threads)
    # Gates that saturate make gradients too small for normal numbers, with which a CPU is ten times slower.
    torch.set_flush_denormal(True)
    with quiet():
        from downstream.probe.train import problem_of

        for task in {cell.task for cell in cells}:
            problem_of(task)

    stores = _Stores(upstream, cells, settings, device, tell)
    for group in groups(cells):
        kind = group[0].kind
        if kind in stores.broken:
            for cell in group:
                tell(Event("failed", f"{upstream.name} {cell.place}: {stores.broken[kind]}", 1))
            continue
        features = stores.features.get(kind)
        # Steps on pooled features take microseconds: a second thread would only wait for the first.
        torch.set_num_threads(1 if features is not None and features.kind == POOLED else threads)
        # Without stored features the seeds of a fold have nothing to share.
        for part in [group] if features is not None else [[cell] for cell in group]:
            _run_group(upstream, part, settings, features, stores.seconds_a_cell.get(kind, 0.0), device, tell)


class _Stores:
    """The features that the cells of one upstream are trained on, and what it took to have them.

    `features` by kind; a kind that is missing is one that does not fit on the disk, and streams. `broken` kinds have no
    features at all. `seconds_a_cell` is the time of extraction, shared out among the cells that use it.
    """

    def __init__(
        self,
        upstream: Upstream,
        cells: tuple[Cell, ...],
        settings: Settings,
        device: str,
        tell: Callable[[Event], None],
    ):
        self.upstream, self.settings, self.device, self.tell = upstream, settings, device, tell
        self.features: dict[tuple[str, bool], cache.Features] = {}
        self.broken: dict[tuple[str, bool], str] = {}
        self.seconds_a_cell: dict[tuple[str, bool], float] = {}
        self._extractor: Any = None
        for kind in sorted({cell.kind for cell in cells}):
            users = [cell for cell in cells if cell.kind == kind]
            begin = time.monotonic()
            try:
                with _logging_to(_Teller(tell), "downstream.probe.cache", "corpora.files"):
                    self._prepare(kind, [item for cell in users for item in cell.data.items])
            except cache.CacheFull as error:
                tell(Event("say", f"{_line(error)}. Until then it streams: the upstream runs at every step"))
            except Exception as error:
                self.broken[kind] = _line(error)
                if not isinstance(error, (cache.CacheError, TooManyBadFiles)):
                    tell(Event("say", traceback.format_exc()))
            self.seconds_a_cell[kind] = (time.monotonic() - begin) / len(users)
        self._extractor = None

    def _prepare(self, kind: tuple[str, bool], items: list[Item]) -> None:
        stored, normalised = kind
        if stored == UNCACHED:
            return

        def progress(share: float) -> None:
            self.tell(Event("note", f"{self.upstream.name}: {stored} features {share:.0%}"))

        progress(0.0)
        self.features[kind] = cache.prepare(
            self.settings.exp_dir / "cache",
            self.upstream,
            stored,
            items,
            self._build,
            normalised=normalised,
            limit_bytes=self.settings.cache_bytes,
            progress=progress,
        )

    def _build(self) -> Any:
        from downstream.probe.probe import UpstreamExtractor

        if self._extractor is None:
            self._extractor = UpstreamExtractor(self.upstream, self.device)
        return self._extractor


def _run_group(
    upstream: Upstream,
    group: list[Cell],
    settings: Settings,
    features: cache.Features | None,
    extraction_s: float,
    device: str,
    tell: Callable[[Event], None],
) -> None:
    from downstream.probe.train import run_cell, run_pooled

    first = group[0]
    place = f"{upstream.name} {first.place}" + (f" and {len(group) - 1} more seeds" if len(group) > 1 else "")
    tell(Event("note", place))
    data, protocol = first.data, first.protocol
    with ExitStack() as stack:
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
                outcome = replace(outcome, wall_s=outcome.wall_s + extraction_s)
                rows = _keep(upstream, cell, settings, folder, outcome, extraction_s)
                done.append(cell)
                tell(Event("rows", f"{upstream.name} {cell.place}", 1, rows))
        except Exception as error:
            logger.error("%s", traceback.format_exc())
            for cell in group:
                if cell not in done:
                    where = f"{upstream.name} {cell.place}"
                    tell(Event("failed", f"{where}: {_line(error)} (log: {cell.run_dir / 'log'})", 1))


def _keep(
    upstream: Upstream, cell: Cell, settings: Settings, folder: Path, outcome: Outcome, extraction_s: float
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


def _shown(path: Path) -> str:
    """A path as it is written into results: relative where it lies under the current folder."""
    path = Path(path)
    here = Path.cwd()
    return str(path.resolve().relative_to(here)) if path.resolve().is_relative_to(here) else str(path)


def _line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__

"""Score the predictions of a run, and keep all scores in `results.csv` and in the files of the run directory.

Values are shares (0.25 is 25 %). Reports read their values from `results.csv`. New rows replace all rows of the same
run directory, and the file is always whole.
"""

from __future__ import annotations

import csv
import functools
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from corpora.files import from_spreadsheet, locked, write_csv, write_json
from downstream import DownstreamError
from downstream.score import metrics, stats

COLUMNS = tuple(
    "recipe,upstream,front_end,iteration,task,corpus,split,protocol,head,metric,value,ci_low,ci_high,n,seed,fold,"
    "finetune,budget,lr,params_m,macs_g_per_s,rtf_cpu,text_profile,wall_s,commit,run_dir".split(",")
)
MODEL_COLUMNS = ("front_end", "iteration", "params_m", "macs_g_per_s", "rtf_cpu")
CURVE_COLUMNS = ("lr", "step", "train_loss", "dev_loss", "metric", "dev")
PREDICTION_COLUMNS = ("utt_id", "speaker", "split", "reference", "hypothesis")
MODIFIED = "+changes"


@dataclass(frozen=True)
class Prediction:
    """Reference and hypothesis of one utterance of a test set."""

    utt_id: str
    speaker: str
    split: str
    reference: str
    hypothesis: str


@dataclass(frozen=True)
class CurvePoint:
    """One value of a learning curve: `split` is train or dev, `metric` is loss or the metric of dev."""

    lr: float
    step: int
    split: str
    metric: str
    value: float


@dataclass(frozen=True)
class Score:
    """A metric on one test set: a share, its 95 % interval by speaker, and the number of utterances."""

    metric: str
    value: float
    low: float
    high: float
    n: int


def score_split(
    names: Sequence[str],
    predictions: Sequence[Prediction],
    *,
    log_likelihoods: Mapping[str, Sequence[float]] | None = None,
    labels: Sequence[str] = (),
    others: Mapping[str, Sequence[str]] | None = None,
    seconds: Mapping[str, float] | None = None,
    bins_s: Sequence[float] = (),
) -> list[Score]:
    """Scores of one test set with the metrics `names`; all mappings are by utterance id.

    The metric `cavg` needs `log_likelihoods`, one for each of `labels`. `others`, further transcriptions of the same
    speech, add `mr_wer`. `bins_s`, the ends of duration bins (s), add the accuracy in each bin and need `seconds`.
    """
    speakers, references, hypotheses = zip(*((p.speaker, p.reference, p.hypothesis) for p in predictions), strict=True)
    found = []
    for name in names:
        if name == metrics.CAVG:
            table = np.array([log_likelihoods[p.utt_id] for p in predictions])
            decisions = metrics.accepted(table)
            found.append(_score(name, speakers, metrics.cavg_counts(references, decisions, labels)))
            continue
        scored = stats.score(name, speakers, references, hypotheses)
        interval = stats.bootstrap_ci(scored, name)
        value = metrics.value(name, references, hypotheses)
        found.append(Score(name, value, interval.low, interval.high, len(predictions)))
    others = others or {}
    if any(others.get(p.utt_id) for p in predictions):
        texts = [[p.reference, *others.get(p.utt_id, ())] for p in predictions]
        found.append(_score(metrics.MULTI_REFERENCE, speakers, metrics.multi_reference_counts(texts, hypotheses)))
    for name, low, high in _bins(bins_s):
        inside = [p for p in predictions if low <= seconds[p.utt_id] < high]
        if inside:
            rows = np.array([(p.reference == p.hypothesis, 1) for p in inside], dtype=np.float64)
            found.append(_score(name, [p.speaker for p in inside], rows))
    return found


def _score(name: str, speakers: Sequence[str], counts: np.ndarray) -> Score:
    interval = stats.bootstrap_ci(stats.Scored(tuple(speakers), counts), name)
    return Score(name, float(metrics.from_counts(name, counts.sum(0))), interval.low, interval.high, len(counts))


def _bins(ends: Sequence[float]) -> list[tuple[str, float, float]]:
    edges = [0.0, *ends, float("inf")]
    found = []
    for low, high in zip(edges, edges[1:], strict=False) if ends else ():
        if not low:
            name = f"under_{high:g}s"
        else:
            name = f"over_{low:g}s" if high == float("inf") else f"{low:g}s_to_{high:g}s"
        found.append((f"accuracy_{name}", low, high))
    return found


@functools.cache
def commit() -> str:
    """The commit of this code, with `+changes` where files differ from it; `unknown` outside git."""
    root = Path(__file__).resolve().parents[2]

    def git(*arguments: str) -> str:
        done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, timeout=30)
        return done.stdout.strip() if done.returncode == 0 else ""

    try:
        head = git("rev-parse", "--short", "HEAD")
        return f"{head}{MODIFIED if git('status', '--porcelain') else ''}" if head else "unknown"
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"


def read_csv(path: Path, columns: Iterable[str] = ()) -> list[dict[str, str]]:
    """Rows of a CSV file (UTF-8) as text, empty cells as "". Raises DownstreamError for a missing one of `columns`."""
    with open(path, encoding="utf-8", newline="") as stream:
        reader = csv.DictReader(stream)
        for name in columns:
            if name not in (reader.fieldnames or []):
                raise DownstreamError(f"{path}: column `{name}` is missing; move the file away and run again")
        return [
            {name: from_spreadsheet(value or "") for name, value in row.items() if name is not None} for row in reader
        ]


def read_rows(path: Path) -> list[dict[str, str]]:
    """All rows of a results file as text; none if there is no file."""
    path = Path(path)
    rows = read_csv(path, COLUMNS) if path.is_file() else []
    return [{name: row[name] for name in COLUMNS} for row in rows]


def upsert(path: Path, rows: Iterable[Mapping[str, object]]) -> None:
    """Replace all rows of the run directories in `rows` by `rows`; safe with several writers."""
    fresh = [as_text(row) for row in rows]
    replaced = {row["run_dir"] for row in fresh}
    with locked(Path(path)):
        kept = [row for row in read_rows(path) if row["run_dir"] not in replaced]
        ordered = sorted([*kept, *fresh], key=_order)
        write_csv(path, COLUMNS, ordered)


def drop(path: Path, run_dirs: Iterable[str]) -> None:
    """Remove the rows of these run directories; safe with several writers."""
    gone = set(run_dirs)
    with locked(Path(path)):
        rows = read_rows(path)
        kept = [row for row in rows if row["run_dir"] not in gone]
        if len(kept) < len(rows):
            write_csv(path, COLUMNS, kept)


def write_predictions(path: Path, predictions: Iterable[Prediction]) -> None:
    """Write predictions.csv (UTF-8): utt_id, speaker, split, reference, hypothesis."""
    rows = [{name: getattr(p, name) for name in PREDICTION_COLUMNS} for p in predictions]
    write_csv(path, PREDICTION_COLUMNS, rows)


def read_predictions(path: Path) -> list[Prediction]:
    """Read predictions.csv."""
    return [Prediction(*(row[name] for name in PREDICTION_COLUMNS)) for row in read_csv(path, PREDICTION_COLUMNS)]


def write_curve(path: Path, points: Iterable[CurvePoint]) -> None:
    """Write curve.csv, a row for each rate and step: lr, step, train_loss, dev_loss, metric (that of dev), dev."""
    table: dict[tuple[float, int], dict[str, str]] = {}
    for point in points:
        row = table.setdefault((point.lr, point.step), dict.fromkeys(CURVE_COLUMNS, ""))
        row |= {"lr": f"{point.lr:g}", "step": str(point.step)}
        if point.metric == "loss":
            row[f"{point.split}_loss"] = f"{point.value:.6g}"
        else:
            row |= {"metric": point.metric, "dev": f"{point.value:.6g}"}
    write_csv(path, CURVE_COLUMNS, [table[key] for key in sorted(table)])


def write_scores(path: Path, labels: Sequence[str], scores: Mapping[str, Mapping[str, Sequence[float]]]) -> None:
    """Write scores.csv: split and utt_id, then the log posterior of each class."""
    rows = [
        {"split": split, "utt_id": utt_id, **{x: f"{v:.5g}" for x, v in zip(labels, values, strict=True)}}
        for split, own in scores.items()
        for utt_id, values in own.items()
    ]
    write_csv(path, ["split", "utt_id", *labels], rows)


def write_confusion(path: Path, labels: Sequence[str], table: Sequence[Sequence[int]]) -> None:
    """Write confusion_<split>.csv; rows: reference class (column `said`), columns: predicted class."""
    rows = [
        {"said": label, **dict(zip(labels, map(str, counts), strict=True))}
        for label, counts in zip(labels, table, strict=True)
    ]
    write_csv(path, ["said", *labels], rows)


def write_layer_weights(path: Path, weights: Sequence[float], *, normalised: bool) -> None:
    """Write layer_weights.json: the weight of each hidden state in the sum; the weights add up to 1.

    `normalised`: whether the states were normalised before the sum. If not, weights also depend on the states' scale.
    """
    rounded = [round(float(weight), 6) for weight in weights]
    write_json(path, {"layers": list(range(len(rounded))), "weights": rounded, "normalised": normalised})


def model_columns(exp_dir: Path) -> dict[str, dict[str, str]]:
    """Size and speed of each upstream from compression.csv; empty without that file."""
    path = Path(exp_dir) / "compression.csv"
    rows = read_csv(path) if path.is_file() else []
    return {row["upstream"]: {name: row.get(name, "") for name in MODEL_COLUMNS} for row in rows}


def _order(row: Mapping[str, str]) -> tuple:
    def number(text: str) -> int:
        return int(text) if text.lstrip("-").isdigit() else -1

    return (
        row["recipe"],
        row["task"],
        row["protocol"],
        row["upstream"],
        number(row["seed"]),
        number(row["fold"]),
        row["split"],
        row["metric"],
    )


def as_text(row: Mapping[str, object]) -> dict[str, str]:
    """A row as text: every column, numbers with six digits, missing values empty."""
    unknown = sorted(set(row) - set(COLUMNS))
    if unknown:
        raise DownstreamError(f"a result has no column `{unknown[0]}`")
    filled = {name: row.get(name) for name in COLUMNS}
    return {name: "" if v is None else f"{v:.6g}" if isinstance(v, float) else str(v) for name, v in filled.items()}

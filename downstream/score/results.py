"""`results.csv`: its columns, and rows that replace those of the same run without ever leaving half a file.

Values are shares (0.25 is 25 %). Everything shown to people is drawn from this file.
"""

from __future__ import annotations

import csv
import fcntl
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from corpora.files import write_json, write_text

COLUMNS = tuple(
    "recipe,upstream,front_end,iteration,task,corpus,split,protocol,head,metric,value,ci_low,ci_high,n,seed,fold,"
    "finetune,budget,lr,params_m,macs_g_per_s,rtf_cpu,text_profile,wall_s,commit,run_dir".split(",")
)
MODEL_COLUMNS = ("front_end", "iteration", "params_m", "macs_g_per_s", "rtf_cpu")
CURVE_COLUMNS = ("lr", "step", "train_loss", "dev_loss", "metric", "dev")
PREDICTION_COLUMNS = ("utt_id", "speaker", "split", "reference", "hypothesis")


class ResultsError(ValueError):
    """A results file of another form; the message names file and column."""


@dataclass(frozen=True)
class Prediction:
    """What a trained head said about one utterance of a test set."""

    utt_id: str
    speaker: str
    split: str
    reference: str
    hypothesis: str


@dataclass(frozen=True)
class CurvePoint:
    """One value of a learning curve: `split` train or dev, `metric` loss or what dev is chosen by."""

    lr: float
    step: int
    split: str
    metric: str
    value: float


def read_rows(path: Path) -> list[dict[str, str]]:
    """All rows of a results file as text; none if there is no file."""
    path = Path(path)
    if not path.is_file():
        return []
    with open(path, encoding="utf-8", newline="") as stream:
        reader = csv.DictReader(stream)
        missing = [name for name in COLUMNS if name not in (reader.fieldnames or [])]
        if missing:
            raise ResultsError(f"{path}: column `{missing[0]}` is missing; move the file away and run again")
        return [{name: record[name] or "" for name in COLUMNS} for record in reader]


def upsert(path: Path, rows: Iterable[Mapping[str, object]]) -> None:
    """Put `rows` in the file, in place of every row of the same run directories; safe with two writers."""
    fresh = [as_text(row) for row in rows]
    replaced = {row["run_dir"] for row in fresh}
    with _locked(Path(path)):
        kept = [row for row in read_rows(path) if row["run_dir"] not in replaced]
        ordered = sorted([*kept, *fresh], key=_order)
        write_text(Path(path), _csv(COLUMNS, ordered))


def drop(path: Path, run_dirs: Iterable[str]) -> None:
    """Remove the rows of these run directories; safe with two writers."""
    gone = set(run_dirs)
    with _locked(Path(path)):
        rows = read_rows(path)
        kept = [row for row in rows if row["run_dir"] not in gone]
        if len(kept) < len(rows):
            write_text(Path(path), _csv(COLUMNS, kept))


def write_predictions(path: Path, predictions: Iterable[Prediction]) -> None:
    """Write predictions.csv (UTF-8): utt_id, speaker, split, reference, hypothesis."""
    rows = [{name: getattr(p, name) for name in PREDICTION_COLUMNS} for p in predictions]
    write_text(Path(path), _csv(PREDICTION_COLUMNS, rows))


def read_predictions(path: Path) -> list[Prediction]:
    """Read what `write_predictions` wrote."""
    with open(path, encoding="utf-8", newline="") as stream:
        return [Prediction(*(row[name] or "" for name in PREDICTION_COLUMNS)) for row in csv.DictReader(stream)]


def write_curve(path: Path, points: Iterable[CurvePoint]) -> None:
    """Write curve.csv: lr, step, train_loss, dev_loss, metric (what dev is chosen by), dev; a row a rate and step."""
    table: dict[tuple[float, int], dict[str, str]] = {}
    for point in points:
        row = table.setdefault((point.lr, point.step), dict.fromkeys(CURVE_COLUMNS, ""))
        row |= {"lr": f"{point.lr:g}", "step": str(point.step)}
        if point.metric == "loss":
            row[f"{point.split}_loss"] = f"{point.value:.6g}"
        else:
            row |= {"metric": point.metric, "dev": f"{point.value:.6g}"}
    write_text(path, _csv(CURVE_COLUMNS, [table[key] for key in sorted(table)]))


def write_scores(path: Path, labels: Sequence[str], scores: Mapping[str, Mapping[str, Sequence[float]]]) -> None:
    """Write scores.csv: split and utt_id, then the log posterior of each class."""
    rows = [
        {"split": split, "utt_id": utt_id, **{x: f"{v:.5g}" for x, v in zip(labels, values, strict=True)}}
        for split, own in scores.items()
        for utt_id, values in own.items()
    ]
    write_text(path, _csv(["split", "utt_id", *labels], rows))


def write_confusion(path: Path, labels: Sequence[str], table: Sequence[Sequence[int]]) -> None:
    """Write confusion_<split>.csv: a row for each class that was said, a column for each that was heard."""
    rows = [
        {"said": label, **dict(zip(labels, map(str, counts), strict=True))}
        for label, counts in zip(labels, table, strict=True)
    ]
    write_text(path, _csv(["said", *labels], rows))


def write_layer_weights(path: Path, weights: Sequence[float], *, normalised: bool) -> None:
    """Write layer_weights.json: the weight of each hidden state in the sum, adding up to 1.

    `normalised`: whether the states were normalised before the sum; else a weight also makes up for their size.
    """
    rounded = [round(float(weight), 6) for weight in weights]
    write_json(path, {"layers": list(range(len(rounded))), "weights": rounded, "normalised": normalised})


def model_columns(exp_dir: Path) -> dict[str, dict[str, str]]:
    """Size and speed of each upstream from compression.csv; empty while that file is not made."""
    path = Path(exp_dir) / "compression.csv"
    if not path.is_file():
        return {}
    with open(path, encoding="utf-8", newline="") as stream:
        return {
            record["upstream"]: {name: record.get(name) or "" for name in MODEL_COLUMNS}
            for record in csv.DictReader(stream)
        }


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
    """A row as it stands in the file: every column, six digits, empty where there is nothing."""
    unknown = sorted(set(row) - set(COLUMNS))
    if unknown:
        raise ResultsError(f"a result has no column `{unknown[0]}`")
    filled = {name: row.get(name) for name in COLUMNS}
    return {name: "" if v is None else f"{v:.6g}" if isinstance(v, float) else str(v) for name, v in filled.items()}


def _csv(columns: Iterable[str], rows: Iterable[Mapping[str, str]]) -> str:
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, list(columns), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue()


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path.with_name(f".{path.name}.lock"), "w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield

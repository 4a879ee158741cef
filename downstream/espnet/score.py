"""Scores of decoded test sets, and the RESULTS.md that stands beside them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

from corpora.datadir import read_datadir
from corpora.files import atomic_file, write_text
from downstream import DownstreamError
from downstream.score.metrics import tidy, value
from downstream.score.stats import bootstrap_ci, score

METRICS = ("wer", "cer")
EXAMPLES = 5
COLUMNS = ("system", "set", "text_profile", "metric", "value", "ci_low", "ci_high", "unit", "n", "speakers")


@dataclass(frozen=True)
class Decoded:
    """One test set decoded by one system: ids, speakers, references and hypotheses, in the order of the ids."""

    system: str
    name: str
    utt_ids: list[str]
    speakers: list[str]
    references: list[str]
    hypotheses: list[str]


def read_decoded(system: str, data_dir: Path, hypotheses: Path) -> Decoded:
    """References of a data directory beside ESPnet's `text` of hypotheses. Raises DownstreamError for missing ones.

    An utterance that was decoded to nothing has an empty line in `text`; one that has no line was not decoded.
    """
    found: dict[str, str] = {}
    for line in hypotheses.read_text(encoding="utf-8").split("\n"):
        key, _, text = line.partition(" ")
        if key:
            found[key] = text
    utterances = read_datadir(data_dir)
    missing = [u.utt_id for u in utterances if u.utt_id not in found]
    if missing:
        raise DownstreamError(
            f"{hypotheses}: {len(missing)} of {len(utterances)} utterances of {data_dir} were not decoded, the first: "
            f"{missing[0]}; decode again"
        )
    return Decoded(
        system,
        data_dir.name,
        [u.utt_id for u in utterances],
        [u.speaker for u in utterances],
        [u.text or "" for u in utterances],
        [found[u.utt_id] for u in utterances],
    )


def score_set(decoded: Decoded, profile: str) -> list[dict[str, str]]:
    """Rows of COLUMNS: micro WER and CER with 95 % intervals by speaker; utterances with an empty reference aside."""
    pairs = [
        (speaker, tidy(reference, profile), tidy(hypothesis, profile))
        for speaker, reference, hypothesis in zip(decoded.speakers, decoded.references, decoded.hypotheses, strict=True)
    ]
    pairs = [pair for pair in pairs if pair[1]]
    if not pairs:
        raise DownstreamError(f"{decoded.name}: no reference holds text under the profile {profile}")
    speakers, references, hypotheses = (list(column) for column in zip(*pairs, strict=True))
    rows = []
    for metric in METRICS:
        interval = bootstrap_ci(score(metric, speakers, references, hypotheses), metric)
        rows.append(
            {
                "system": decoded.system,
                "set": decoded.name,
                "text_profile": profile,
                "metric": metric,
                "value": f"{value(metric, references, hypotheses):.6f}",
                "ci_low": f"{interval.low:.6f}",
                "ci_high": f"{interval.high:.6f}",
                "unit": interval.unit,
                "n": str(len(pairs)),
                "speakers": str(len(set(speakers))),
            }
        )
    return rows


def write_scores(folder: Path, decoded: Decoded, profile: str) -> None:
    """`scores.csv` and `hypotheses.tsv` (utterance, reference, hypothesis, as scored) of one decoded set."""
    import csv

    folder.mkdir(parents=True, exist_ok=True)
    with atomic_file(folder / "scores.csv") as path, open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(score_set(decoded, profile))
    lines = [
        f"{utt_id}\t{tidy(reference, profile)}\t{tidy(hypothesis, profile)}\n"
        for utt_id, reference, hypothesis in zip(decoded.utt_ids, decoded.references, decoded.hypotheses, strict=True)
    ]
    write_text(folder / "hypotheses.tsv", "".join(lines))


def write_results(exp_dir: Path, title: str) -> Path:
    """RESULTS.md of an experiment folder, from every `scores.csv` below it; returns its path.

    The command of each system (its file `command`), tables, and examples: the same utterances of every set for all
    systems, evenly spaced.
    """
    import pandas

    from downstream.report.provenance import hardware, versions

    found = sorted(exp_dir.glob("*/decode_*/*/scores.csv"))
    if not found:
        raise DownstreamError(f"{exp_dir}: nothing was scored there; stages 6 and 7 of run.sh decode and score")
    decoded = {path: path.parents[1].name.removeprefix("decode_") for path in found}
    table = pandas.concat([pandas.read_csv(path, dtype=str).assign(decoding=decoded[path]) for path in found])
    head = {
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "versions": versions(),
        "hardware": hardware(),
    }
    parts = [f"# {title}", "\n".join(["| | |", "|---|---|", *(f"| {k} | {v} |" for k, v in head.items())])]
    parts += _commands(exp_dir, sorted(set(table["system"])))
    for name, rows in table.groupby("set", sort=True):
        parts += [f"## {name}", _markdown(rows)]
        parts += _examples([path.parent for path in found if path.parent.name == name])
    path = exp_dir / "RESULTS.md"
    write_text(path, "\n\n".join(parts) + "\n")
    return path


def _commands(exp_dir: Path, systems: Sequence[str]) -> list[str]:
    """What each system was trained with, as a block of shell."""
    found = [exp_dir / system / "command" for system in systems]
    lines = [path.read_text(encoding="utf-8").strip() for path in found if path.is_file()]
    return ["```bash\n" + "\n".join(lines) + "\n```"] if lines else []


def _markdown(rows) -> str:
    lines = ["| system | decoding | WER | CER | utterances | speakers | text profile |"]
    lines.append("|---|---|---:|---:|---:|---:|---|")
    for (system, decoding), own in rows.groupby(["system", "decoding"], sort=True):
        cells = {row.metric: row for row in own.itertuples()}
        shown = [_percent(cells[metric]) for metric in METRICS]
        first = cells["wer"]
        facts = [system, decoding, *shown, first.n, first.speakers, first.text_profile]
        lines.append("| " + " | ".join(facts) + " |")
    units = sorted(set(rows["unit"]))
    lines += ["", f"Percent [95 % interval, bootstrap by {' / '.join(units)}]."]
    if set(rows["speakers"]) == {"1"}:
        lines[-1] += " All of it is one speaker: the intervals say nothing of other voices."
    return "\n".join(lines)


def _percent(row) -> str:
    value, low, high = (100 * float(number) for number in (row.value, row.ci_low, row.ci_high))
    return f"{value:.1f} [{low:.1f}, {high:.1f}]"


def _examples(folders: Sequence[Path]) -> list[str]:
    """A few decoded utterances of one set, every system's hypothesis below the reference."""
    systems = {f"{folder.parents[1].name}": _read_hypotheses(folder / "hypotheses.tsv") for folder in folders}
    first = next(iter(systems.values()))
    ids = list(first)[:: max(1, len(first) // EXAMPLES)][:EXAMPLES]
    blocks = []
    for utt_id in ids:
        rows = [("reference", first[utt_id][0])]
        rows += [(system, own[utt_id][1]) for system, own in systems.items() if utt_id in own]
        body = "".join(f'<tr><td>{name}</td><td dir="rtl">{text or "&nbsp;"}</td></tr>\n' for name, text in rows)
        blocks.append(f"<table>\n<caption>{utt_id}</caption>\n{body}</table>")
    return ["Examples:", *blocks]


def _read_hypotheses(path: Path) -> dict[str, tuple[str, str]]:
    rows = (line.split("\t") for line in path.read_text(encoding="utf-8").splitlines() if line)
    return {utt_id: (reference, hypothesis) for utt_id, reference, hypothesis in rows}

"""Score decoded test sets, and write the RESULTS.md of an experiment."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

import pandas

from corpora.datadir import read_datadir
from corpora.files import for_spreadsheet, from_spreadsheet, write_csv, write_text
from corpora.names import check_name
from downstream import DownstreamError
from downstream.report.examples import direction
from downstream.report.provenance import environment, facts_table
from downstream.report.tables import Table, percent, plain
from downstream.score.metrics import tidy, value
from downstream.score.stats import bootstrap_ci, score

METRICS = ("wer", "cer")
EXAMPLES = 5
COLUMNS = ("system", "set", "text_profile", "metric", "value", "ci_low", "ci_high", "unit", "n", "speakers")


@dataclass(frozen=True)
class DecodedSet:
    """One test set decoded by one system: ids, speakers, references and hypotheses, in the order of the ids."""

    system: str
    name: str
    utt_ids: list[str]
    speakers: list[str]
    references: list[str]
    hypotheses: list[str]


def read_decoded(system: str, data_dir: Path, hypotheses: Path) -> DecodedSet:
    """Join the references of a data directory with the hypotheses in ESPnet's `text`.

    An utterance with an empty hypothesis has an empty line in `text`. Raises DownstreamError naming the first utterance
    without a line.
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
    return DecodedSet(
        system,
        data_dir.name,
        [u.utt_id for u in utterances],
        [u.speaker for u in utterances],
        [u.text or "" for u in utterances],
        [found[u.utt_id] for u in utterances],
    )


def score_set(decoded: DecodedSet, profile: str) -> list[dict[str, str]]:
    """Rows of COLUMNS: micro WER and CER with 95 % intervals by speaker, over utterances with a non-empty reference."""
    pairs = [
        (speaker, tidy(reference, profile), tidy(hypothesis, profile))
        for speaker, reference, hypothesis in zip(decoded.speakers, decoded.references, decoded.hypotheses, strict=True)
    ]
    pairs = [pair for pair in pairs if pair[1]]
    if not pairs:
        raise DownstreamError(f"{decoded.name}: every reference is empty under the text profile {profile}")
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


def write_scores(folder: Path, decoded: DecodedSet, profile: str) -> None:
    """Write `scores.csv` and `hypotheses.tsv` (utterance, reference, hypothesis, all as scored) of one decoded set."""
    check_name(decoded.system, "--system")
    folder.mkdir(parents=True, exist_ok=True)
    write_csv(folder / "scores.csv", COLUMNS, score_set(decoded, profile))
    rows = zip(decoded.utt_ids, decoded.references, decoded.hypotheses, strict=True)
    lines = [(utt_id, tidy(reference, profile), tidy(hypothesis, profile)) for utt_id, reference, hypothesis in rows]
    write_text(folder / "hypotheses.tsv", "".join("\t".join(map(for_spreadsheet, line)) + "\n" for line in lines))


def write_results(exp_dir: Path, title: str) -> Path:
    """Write RESULTS.md of an experiment from every `scores.csv` below it; return its path.

    It holds the command of each system (its file `command`), a table for each test set, and example utterances: the
    same ones for all systems, evenly spaced.
    """
    found = sorted(exp_dir.glob("*/decode_*/*/scores.csv"))
    if not found:
        raise DownstreamError(f"{exp_dir}: no scores; run stages 6 and 7 of run.sh (decode and score)")
    scores = pandas.concat(
        [
            pandas.read_csv(path, dtype=str).assign(decoding=path.parents[1].name.removeprefix("decode_"))
            for path in found
        ]
    )
    parts = [f"# {plain(title)}", facts_table(environment()), *_commands(exp_dir, sorted(set(scores["system"])))]
    for name, rows in scores.groupby("set", sort=True):
        parts += [f"## {plain(str(name))}", _table(str(name), rows).markdown()]
        parts += _examples([path.parent for path in found if path.parent.name == name])
    path = exp_dir / "RESULTS.md"
    write_text(path, "\n\n".join(parts) + "\n")
    return path


def _commands(exp_dir: Path, systems: Sequence[str]) -> list[str]:
    """Training command of each system, as a block of shell."""
    found = [exp_dir / system / "command" for system in systems]
    lines = [path.read_text(encoding="utf-8").strip() for path in found if path.is_file()]
    return ["```bash\n" + "\n".join(lines) + "\n```"] if lines else []


def _table(name: str, scores: pandas.DataFrame) -> Table:
    """WER and CER of every system and decoding on one test set."""
    rows = []
    for (system, decoding), own in scores.groupby(["system", "decoding"], sort=True):
        numbers = own.set_index("metric")[["value", "ci_low", "ci_high"]].astype(float)
        shown = [percent(*numbers.loc[metric]) for metric in METRICS]
        first = own.iloc[0]
        rows.append([system, decoding, *shown, first["n"], first["speakers"], first["text_profile"]])
    note = f"percent [95 % interval, bootstrap by {' / '.join(sorted(set(scores['unit'])))}]"
    if set(scores["speakers"]) == {"1"}:
        note += "; one speaker: the intervals say nothing about other voices"
    header = ["system", "decoding", "WER", "CER", "utterances", "speakers", "text profile"]
    return Table(name, header, rows, [note])


def _examples(folders: Sequence[Path]) -> list[str]:
    """A few decoded utterances of one test set: the reference, then the hypothesis of every system."""
    systems = {folder.parents[1].name: _read_hypotheses(folder / "hypotheses.tsv") for folder in folders}
    first = next(iter(systems.values()))
    ids = list(first)[:: max(1, len(first) // EXAMPLES)][:EXAMPLES]
    blocks = []
    for utt_id in ids:
        reference = first[utt_id][0]
        rows = [("reference", reference)]
        rows += [(system, own[utt_id][1]) for system, own in systems.items() if utt_id in own]
        line = f'<td dir="{direction(reference)}">'
        body = "".join(
            f"<tr><td>{escape(name)}</td>{line}{escape(text) or '&nbsp;'}</td></tr>\n" for name, text in rows
        )
        blocks.append(f"<table>\n<caption>{escape(utt_id)}</caption>\n{body}</table>")
    return ["Examples:", *blocks]


def _read_hypotheses(path: Path) -> dict[str, tuple[str, str]]:
    lines = path.read_text(encoding="utf-8").split("\n")
    rows = (map(from_spreadsheet, line.split("\t")) for line in lines if line)
    return {utt_id: (reference, hypothesis) for utt_id, reference, hypothesis in rows}

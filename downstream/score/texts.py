"""Score a file of hypotheses against one or several files of references (MGB-3, MGB-5: four annotators).

Every file is Kaldi's `text`: an utterance id, a space, the words. The result has the error rates against each file, and
the multi-reference WER (`downstream.score.metrics.multi_reference_counts`) against all of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from corpora.files import write_csv
from downstream import DownstreamError
from downstream.score import metrics, stats
from downstream.score.metrics import tidy

COLUMNS = ("metric", "references", "text_profile", "value", "ci_low", "ci_high", "unit", "n", "words")


@dataclass(frozen=True)
class Rate:
    """One error rate: the references it counts against, its value and 95 % interval (shares), and its sizes.

    unit: what the interval resamples, `speaker` or `utterance`.  n: utterances.  words: of the references, for CER
    characters.
    """

    metric: str
    references: str
    text_profile: str
    value: float
    ci_low: float
    ci_high: float
    unit: str
    n: int
    words: int

    def row(self) -> dict[str, str]:
        shown = {name: getattr(self, name) for name in COLUMNS}
        return {name: f"{own:.6f}" if isinstance(own, float) else str(own) for name, own in shown.items()}


def reference_files(paths: Sequence[Path]) -> list[Path]:
    """The files of references; a data directory stands for its `text_<annotator>` files, or its `text` without them."""
    files = []
    for path in paths:
        if not path.is_dir():
            files.append(path)
            continue
        others = sorted(own for own in path.glob("text[._]*") if own.is_file())
        files += others or [path / "text"]
    return files


def read_text(path: Path) -> dict[str, str]:
    """Utterance id -> words of Kaldi's `text`; an utterance may have no words.

    Raises DownstreamError, with the line, for a file that is missing, empty or not UTF-8, and for a repeated id.
    """
    try:
        content = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise DownstreamError(f"{path}: no such file; expected lines `<utterance> <words>`") from None
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise DownstreamError(f"{path}:{line}: not UTF-8") from None
    texts: dict[str, str] = {}
    for number, line in enumerate(content.split("\n"), 1):
        utt_id, *words = line.split() or [""]
        if not utt_id:
            continue
        if utt_id in texts:
            raise DownstreamError(f"{path}:{number}: utterance {utt_id} is listed twice")
        texts[utt_id] = " ".join(words)
    if not texts:
        raise DownstreamError(f"{path}: no utterance; expected lines `<utterance> <words>`")
    return texts


def score_files(
    hypotheses: Path, references: Sequence[Path], profile: str, speakers: Mapping[str, str] | None = None
) -> list[Rate]:
    """WER and CER against each file of references, and for several files their multi-reference WER.

    An utterance counts against the references that have words for it under the text profile. speakers: of utterances,
    for intervals over speakers. Raises DownstreamError for a scored utterance without a hypothesis or a speaker, a
    hypothesis that no reference belongs to, and references without words.
    """
    found = read_text(hypotheses)
    tables = [read_text(path) for path in references]
    listed = sorted(set().union(*tables))
    if missing := [utt_id for utt_id in listed if utt_id not in found]:
        raise DownstreamError(
            f"{hypotheses}: {len(missing)} of {len(listed)} utterances of the references have no line, as {missing[0]}"
        )
    if unknown := sorted(found.keys() - set(listed)):
        raise DownstreamError(
            f"{hypotheses}: {len(unknown)} utterances are in no file of references, as {unknown[0]}; give the files of "
            "the same set"
        )
    if speakers is not None and (missing := [utt_id for utt_id in listed if utt_id not in speakers]):
        raise DownstreamError(f"--utt2spk: {len(missing)} of {len(listed)} utterances have no speaker, as {missing[0]}")
    texts = [{utt_id: tidy(text, profile) for utt_id, text in table.items()} for table in tables]
    said = {utt_id: tidy(found[utt_id], profile) for utt_id in listed}
    rates = []
    for path, table in zip(references, texts, strict=True):
        own = [utt_id for utt_id in listed if table.get(utt_id)]
        if not own:
            raise DownstreamError(f"{path}: every reference is empty under the text profile {profile}")
        for metric in ("wer", "cer"):
            counts = metrics.counts(metric, [table[utt_id] for utt_id in own], [said[utt_id] for utt_id in own])
            rates.append(_rate(metric, path.name, profile, own, counts, speakers))
    if len(references) > 1:
        own = [utt_id for utt_id in listed if any(table.get(utt_id) for table in texts)]
        all_texts = [[table[utt_id] for table in texts if table.get(utt_id)] for utt_id in own]
        counts = metrics.multi_reference_counts(all_texts, [said[utt_id] for utt_id in own])
        names = "+".join(path.name for path in references)
        rates.append(_rate(metrics.MULTI_REFERENCE, names, profile, own, counts, speakers))
    return rates


def table(rates: Sequence[Rate]) -> str:
    """The rates in percent, as lines of text; for several references with the mean WER of the single ones."""
    width = max(len(rate.references) for rate in rates)
    lines = [
        f"{rate.metric:6}  {rate.references:{width}}  {100 * rate.value:6.2f} % [{100 * rate.ci_low:.2f}, "
        f"{100 * rate.ci_high:.2f}]  {rate.n} utterances"
        for rate in rates
    ]
    single = [rate.value for rate in rates if rate.metric == "wer"]
    if len(single) > 1:
        lines.append(f"{'wer':6}  {'mean':{width}}  {100 * np.mean(single):6.2f} %")
    first = rates[0]
    lines.append(f"text profile {first.text_profile}; 95 % intervals over {first.unit}s")
    return "\n".join(lines)


def write_rates(path: Path, rates: Sequence[Rate]) -> None:
    """Write the rates as CSV with COLUMNS; shares, not percentages."""
    write_csv(path, COLUMNS, [rate.row() for rate in rates])


def _rate(
    metric: str,
    references: str,
    profile: str,
    utt_ids: Sequence[str],
    counts: np.ndarray,
    speakers: Mapping[str, str] | None,
) -> Rate:
    scored = stats.Scored(tuple((speakers or {}).get(utt_id, utt_id) for utt_id in utt_ids), counts)
    interval = stats.bootstrap_ci(scored, metric)
    errors, words = counts.sum(0)
    unit = interval.unit if speakers else "utterance"
    return Rate(
        metric, references, profile, float(errors / words), interval.low, interval.high, unit, len(utt_ids), int(words)
    )

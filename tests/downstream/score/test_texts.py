"""Files of hypotheses against files of references; the multi-reference WER by hand and against its formula."""

from __future__ import annotations

import csv
import itertools
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from downstream.__main__ import main
from downstream.score.metrics import multi_reference_counts

words = st.lists(st.sampled_from("ابتث"), max_size=3)


def _alignments(reference: list[str], hypothesis: list[str]) -> list[tuple[int, frozenset[int], int]]:
    """(errors, right words of the hypothesis, deletions) of every alignment, by enumeration."""
    if not reference or not hypothesis:
        return [(len(reference) + len(hypothesis), frozenset(), len(reference))]
    found = []
    for errors, right, deleted in _alignments(reference[:-1], hypothesis[:-1]):
        same = reference[-1] == hypothesis[-1]
        found.append((errors + (not same), right | {len(hypothesis) - 1} if same else right, deleted))
    found += [(errors + 1, right, deleted + 1) for errors, right, deleted in _alignments(reference[:-1], hypothesis)]
    found += [(errors + 1, right, deleted) for errors, right, deleted in _alignments(reference, hypothesis[:-1])]
    return found


@settings(deadline=None, max_examples=60)
@given(st.lists(words, min_size=1, max_size=3), words)
def test_the_count_is_that_of_some_best_alignments(references: list[list[str]], hypothesis: list[str]) -> None:
    """(S + I + D) / N: S + I are hypothesis words right in no alignment, D the fewest deletions; enumerated."""
    best = []
    for reference in references:
        every = _alignments(reference, hypothesis)
        best.append({own for own in every if own[0] == min(errors for errors, *_ in every)})
    possible = set()
    for chosen in itertools.product(*best):
        right = frozenset().union(*(own[1] for own in chosen))
        possible.add(len(hypothesis) - len(right) + min(own[2] for own in chosen))
    lowest = min(
        (min(own[0] for own in every) / len(reference) if reference else float(len(hypothesis) > 0), len(reference))
        for every, reference in zip(best, references, strict=True)
    )
    ((errors, length),) = multi_reference_counts([[" ".join(own) for own in references]], [" ".join(hypothesis)])
    assert errors in possible
    if all(references):
        assert length == lowest[1]


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    """Three utterances by four annotators: spellings differ, one annotator lacks an utterance, one has other words."""
    texts = {
        "hyp": ["u1 عاوز اروح البيت", "u2 مش عارف", "u3"],
        "a": ["u1 عايز اروح البيت", "u2 مش عارف حاجة", "u3 طيب"],
        "b": ["u1 عاوز أروح البيت", "u2 موش عارف", "u3 طيب يا"],
        "c": ["u1 عاوز اروح للبيت", "u2 مش عارفه", "u3 #اه"],
        "d": ["u1 عايزه اروح لبيت"],
    }
    for name, lines in texts.items():
        (tmp_path / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return [str(tmp_path / name) for name in texts]


def test_four_references(files: list[str], tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    hypothesis, *references = files
    command = ["score", "--hypotheses", hypothesis, "--references", *references, "--out", str(tmp_path / "s.csv")]
    assert main([*command, "--text_profile", "mgb"]) == 0
    rates = {(row["metric"], row["references"]): row for row in csv.DictReader((tmp_path / "s.csv").open())}
    # By hand. a: u1 one of three, u2 one of three, u3 one of one. b: none (mgb unifies alef), one of two, two of two.
    assert float(rates["wer", "a"]["value"]) == pytest.approx(3 / 7, abs=1e-6)
    assert float(rates["wer", "b"]["value"]) == pytest.approx(3 / 7, abs=1e-6)
    # u1 and u2 are right word by word, and b deletes nothing of u2; u3 lacks at least one word. The transcriptions with
    # the lowest WER have 3 (b or c), 3 (a: one of three) and 1 (a) words.
    assert float(rates["mr_wer", "a+b+c+d"]["value"]) == pytest.approx(1 / 7, abs=1e-6)
    assert {row["text_profile"] for row in rates.values()} == {"mgb"} and rates["mr_wer", "a+b+c+d"]["n"] == "3"
    shown = capsys.readouterr().out
    assert "mr_wer  a+b+c+d   14.29 %" in shown and "text profile mgb" in shown
    assert main(["score", "--hypotheses", hypothesis, "--references", references[0]]) == 0
    assert "mr_wer" not in capsys.readouterr().out


def test_a_data_directory_stands_for_its_references(files: list[str], tmp_path: Path, capsys) -> None:
    hypothesis, *references = files
    folder = tmp_path / "dev"
    folder.mkdir()
    for path in references:
        (folder / f"text_{Path(path).name}").write_bytes(Path(path).read_bytes())
    (folder / "text").write_bytes(Path(references[0]).read_bytes())
    assert main(["score", "--hypotheses", hypothesis, "--references", str(folder)]) == 0
    assert "mr_wer  text_a+text_b+text_c+text_d   14.29 %" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("file", "content", "token"),
    [
        ("hyp", "u1 x\nu2 y\n", "hyp: 1 of 3 utterances of the references have no line, as u3"),
        ("hyp", "u1 x\nu2 y\nu3 z\nu4 z\n", "1 utterances are in no file of references, as u4"),
        ("hyp", "u1 x\nu1 y\n", "hyp:2: utterance u1 is listed twice"),
        ("a", "u1\nu2\nu3\n", "a: every reference is empty under the text profile mgb"),
        ("a", "", "a: no utterance"),
        ("a", None, "a: no such file"),
    ],
)
def test_bad_input_gets_one_line(files, tmp_path: Path, capsys, file: str, content: str | None, token: str) -> None:
    path = tmp_path / file
    path.unlink() if content is None else path.write_text(content)
    hypothesis, *references = files
    out = tmp_path / "s.csv"
    assert main(["score", "--hypotheses", hypothesis, "--references", *references, "--out", str(out)]) == 2
    error = capsys.readouterr().err
    assert token in error and error.count("\n") == 1 and not out.exists()


def test_an_unknown_profile_is_named(files: list[str], capsys: pytest.CaptureFixture) -> None:
    command = ["score", "--hypotheses", files[0], "--references", files[1], "--text_profile", "leaderbord"]
    assert main(command) == 2
    assert "leaderbord" in (error := capsys.readouterr().err) and "`leaderboard`" in error

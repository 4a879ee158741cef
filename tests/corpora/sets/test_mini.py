"""The mini corpus: sizes, classes, separation of splits, and resuming after an interruption."""

from __future__ import annotations

import hashlib
import shutil
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import pytest

from corpora.audio import SAMPLE_RATE, read_audio
from corpora.datadir import Utterance, read_datadir, validate_datadir
from corpora.files import CorpusError
from corpora.sets import mini
from corpora.sets.espeak import Request
from corpora.sets.mini import DIALECTS, WORDS
from corpora.text import bare

SPLITS = {name: tuple(sizes) for name, sizes in mini.SIZES.items()}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The smallest possible corpus."""
    folder = tmp_path_factory.mktemp("mini") / "mini"
    mini.prepare(folder, scale=0.05)
    return folder


@pytest.fixture(scope="module")
def utterances(corpus: Path) -> dict[str, dict[str, list[Utterance]]]:
    return {name: {split: read_datadir(corpus / name / split) for split in splits} for name, splits in SPLITS.items()}


def content(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(
            path.read_bytes().replace(str(folder).encode(), b"")
        ).hexdigest()
        for path in files
    }


def test_every_split_is_a_valid_data_directory_with_readable_audio(corpus: Path, utterances: dict) -> None:
    for name, splits in utterances.items():
        for split, rows in splits.items():
            assert validate_datadir(corpus / name / split) == []
            for row in rows:
                assert len(read_audio(row.audio)) == row.samples
                assert 0.4 * SAMPLE_RATE < row.samples < 20 * SAMPLE_RATE
            fields = {field: {getattr(row, field) is None for row in rows} for field in ("text", "dialect", "emotion")}
            assert fields == {"text": {name == "ssl"}, "dialect": {name != "did"}, "emotion": {name != "ser"}}
    assert not list(corpus.rglob(".*"))


def test_every_split_keeps_every_class_and_two_speakers(utterances: dict) -> None:
    for name, splits in utterances.items():
        for rows in splits.values():
            assert len({row.speaker for row in rows}) >= 2
            classes = {
                "ssl": ({row.language for row in rows}, {"ar", "en"}),
                "asr": ({row.language for row in rows}, {"ar"}),
                "ser": ({row.emotion for row in rows}, set(mini.EMOTIONS)),
                "did": ({row.dialect for row in rows}, set(DIALECTS)),
            }[name]
            assert classes[0] == classes[1]


@pytest.mark.parametrize("scale", [0.02, 0.05, 0.3, 1.0, 2.0])
def test_planned_classes_at_any_scale(scale: float) -> None:
    plan = mini.plan(0, scale)
    for name, splits in plan.items():
        for split, rows in splits.items():
            speakers = defaultdict(set)
            for row in rows:
                label = {"ser": row.emotion, "did": row.dialect}.get(name, row.language)
                speakers[label].add(row.speaker)
            expected = {"ser": len(mini.EMOTIONS), "did": len(DIALECTS), "ssl": 2, "asr": 1}[name]
            assert len(speakers) == expected and len(set.union(*speakers.values())) >= 2, (name, split)


def test_speakers_belong_to_one_split_of_one_set() -> None:
    homes, voices = defaultdict(set), defaultdict(set)
    for name, splits in mini.plan(0, 1.0).items():
        for split, rows in splits.items():
            for row in rows:
                homes[row.speaker].add((name, split))
                voices[row.request.voice].add(row.speaker)
    assert {len(own) for own in homes.values()} == {1}
    assert {len(own) for own in voices.values()} == {1}, "two speakers have the same voice"


def test_unlabelled_speech_and_asr_training_hold_no_text_of_dev_and_test(monkeypatch: pytest.MonkeyPatch) -> None:
    sentences: set[str] = set()
    draw_other = mini.draw_other

    def recorded(*arguments) -> str:
        text = draw_other(*arguments)
        if arguments[0]:
            sentences.add(bare(text))
        return text

    monkeypatch.setattr(mini, "draw_other", recorded)
    for seed in range(3):
        sentences.clear()
        plan = mini.plan(seed, 1.0)
        held_out = {row.text for name in ("asr", "ser", "did") for s in ("dev", "test") for row in plan[name][s]}
        assert not held_out & {row.text for row in plan["asr"]["train"]}
        # Unlabelled utterances consist of two sentences: neither is one that a dev or test split says.
        final = {row.text for split in plan["ssl"].values() for row in split if row.language == "ar"}
        pairs = [(text.split()[:n], text.split()[n:]) for text in final for n in range(2, len(text.split()))]
        assert {" ".join(a + b) for a, b in pairs if {" ".join(a), " ".join(b)} <= sentences - held_out} == final


def test_sizes_at_scale_one() -> None:
    count = {name: {s: len(rows) for s, rows in splits.items()} for name, splits in mini.plan(0, 1.0).items()}
    assert count["asr"]["train"] == 300
    assert all(300 <= sum(count[name].values()) <= 450 for name in ("ser", "did"))
    assert all(count[name]["test"] >= 90 for name in ("asr", "ser", "did"))


def test_transcripts_are_the_spoken_arabic_without_diacritics(utterances: dict) -> None:
    vocabulary = {bare(word) for word in WORDS}
    assert len(vocabulary) == len(WORDS) and 20 <= len(vocabulary) <= 30
    for rows in utterances["asr"].values():
        for row in rows:
            words = row.text.split(" ")
            assert 2 <= len(words) <= 5 and set(words) <= vocabulary
    for planned in mini.plan(0, 0.1)["did"]["train"]:
        assert planned.text == bare(planned.request.text) != planned.request.text
        assert len(planned.text.split()) == len(planned.request.text.split())


def test_emotions_and_dialects_overlap() -> None:
    plan = mini.plan(0, 1.0)
    by_phrase = defaultdict(set)
    for row in plan["ser"]["train"]:
        by_phrase[row.text].add(row.emotion)
    assert all(emotions == set(mini.EMOTIONS) for emotions in by_phrase.values()), "words give the emotion away"
    rates = {e: [r.request.prosody.pitch for r in plan["ser"]["train"] if r.emotion == e] for e in mini.EMOTIONS}
    assert max(rates["neutral"]) > min(rates["happy"]) and max(rates["sad"]) > min(rates["neutral"])
    rows = plan["did"]["train"]
    assert 0.05 < sum(not row.request.sounds for row in rows) / len(rows) < 0.4
    owners = defaultdict(set)
    for row in rows:
        owners[row.text].add(row.dialect)
        for word in row.text.split():
            owners[word].add(row.dialect)
    assert sum(len(dialects) == len(DIALECTS) for dialects in owners.values()) > 20
    assert sum(len(dialects) == 1 for word, dialects in owners.items() if " " not in word) > 10


@pytest.mark.slow
def test_same_bytes_in_another_folder_with_more_processes(corpus: Path, tmp_path: Path) -> None:
    mini.prepare(tmp_path / "again", scale=0.05, jobs=2)
    assert content(tmp_path / "again") == content(corpus)


def test_another_seed_gives_other_voices_and_words() -> None:
    first, second = (mini.plan(seed, 0.05)["asr"]["train"] for seed in (0, 1))
    assert not {row.request.voice for row in first} & {row.request.voice for row in second}
    assert [row.text for row in first] != [row.text for row in second]


def test_a_larger_corpus_holds_the_same_voices() -> None:
    small, large = ({row.request.voice for row in mini.plan(0, scale)["ser"]["train"]} for scale in (0.5, 1.0))
    assert small < large


class Recorder:
    """Replaces `synthesise`: counts the files made, and fails at the set of a given name."""

    def __init__(self, source: Path, fail: str = ""):
        self.source, self.fail, self.made = source, fail, []

    def __call__(self, requests: Sequence[Request], *, jobs: int, title: str) -> None:
        for request in requests:
            split = request.path.parent.name
            shutil.copy(self.source / "audio" / title / split / request.path.name, request.path)
            if title == self.fail:
                raise CorpusError(f"{request.path.name}: broken")
        self.made.append(title)


def test_a_complete_corpus_is_kept_and_an_interrupted_one_completed(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    broken = Recorder(corpus, fail="ser")
    monkeypatch.setattr(mini, "synthesise", broken)
    with pytest.raises(CorpusError, match="broken"):
        mini.prepare(out, scale=0.05)
    assert sorted(path.name for path in (out / "audio").iterdir()) == ["asr", "ssl"] and broken.made == ["ssl", "asr"]

    whole = Recorder(corpus)
    monkeypatch.setattr(mini, "synthesise", whole)
    mini.prepare(out, scale=0.05)
    assert whole.made == ["ser", "did"] and content(out) == content(corpus)

    times = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    mini.prepare(out, scale=0.05)
    assert whole.made == ["ser", "did"] and {path: path.stat().st_mtime_ns for path in out.rglob("*")} == times

    read_datadir(out / "did" / "dev")[0].audio.unlink()
    (out / "asr" / "dev" / "text").write_text("damaged")
    shutil.rmtree(out / "ser" / "test")
    mini.prepare(out, scale=0.05)
    assert whole.made == ["ser", "did", "did"] and content(out) == content(corpus)


def test_relative_folder_gives_relative_paths(corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(mini, "synthesise", Recorder(corpus))
    mini.prepare(Path("data/mini"), scale=0.05)
    rows = read_datadir(Path("data/mini/asr/train"))
    assert {str(row.audio).rsplit("/", 1)[0] for row in rows} == {"data/mini/audio/asr/train"}


@pytest.mark.parametrize("scale", [0.0, -1.0])
def test_scale_must_be_positive(tmp_path: Path, scale: float) -> None:
    with pytest.raises(ValueError, match="scale"):
        mini.prepare(tmp_path, scale=scale)
    assert not list(tmp_path.iterdir())

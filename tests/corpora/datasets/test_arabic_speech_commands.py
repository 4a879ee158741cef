"""Arabic Speech Commands: the official lists, and connected utterances strung from their recordings."""

from __future__ import annotations

import shutil
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest
import soundfile

from corpora.audio import read_audio
from corpora.datadir import read_datadir
from corpora.datasets import arabic_speech_commands
from corpora.files import CorpusError, TooManyBadFiles
from corpora.prepare.sources import Recording, read_sources
from corpora.prepare.word_strings import Word, join_words, plan_strings, render_strings, speech_bounds
from corpora.text import normalise

pytestmark = pytest.mark.usefixtures("no_disk_sync")


@pytest.fixture(scope="module")
def prepared(corpus_trees, tmp_path_factory) -> tuple[Path, Path]:
    root = tmp_path_factory.mktemp("asc")
    corpus = corpus_trees.arabic_speech_commands(root / "corpus")
    arabic_speech_commands.prepare(corpus, root / "out", seed=3)
    return corpus, root / "out"


def _spoken(data_dir: Path) -> dict[str, list[str]]:
    spoken = defaultdict(list)
    for row in read_sources(data_dir):
        spoken[row.utt_id].append(row.source)
    return spoken


def test_strings_hold_one_to_five_words_of_one_speaker_with_their_text(prepared, corpus_trees):
    _, out = prepared
    for split in ("train", "dev", "test"):
        spoken = _spoken(out / split)
        utterances = read_datadir(out / split)
        assert set(spoken) == {utterance.utt_id for utterance in utterances}
        for utterance in utterances:
            sources = spoken[utterance.utt_id]
            assert 1 <= len(sources) <= 5
            assert {f"asc{Path(source).stem[:8]}" for source in sources} == {utterance.speaker}
            words = [corpus_trees.command_words[Path(source).parent.name] for source in sources]
            assert utterance.text == " ".join(normalise(word, "mgb") for word in words)
            assert "أ" not in utterance.text and "ة" not in utterance.text  # the profile's spelling
            assert utterance.language == "ar"
            assert len(read_audio(utterance.audio)) == utterance.samples


def test_recordings_are_used_twice_in_train_and_once_in_dev_and_test(prepared, corpus_trees):
    _, out = prepared
    for split, times in (("train", 2), ("dev", 1), ("test", 1)):
        uses = Counter(source for sources in _spoken(out / split).values() for source in sources)
        assert set(uses.values()) == {times}
        assert len(uses) == 12 * len(corpus_trees.command_speakers[split])  # header-less and CRLF lists whole
    assert (out / "skipped.tsv").read_text() == "path\treason\n"  # a byte order mark hides no header
    assert any("zoom in/" in source for sources in _spoken(out / "dev").values() for source in sources)


def test_speakers_are_disjoint_and_as_published(prepared, corpus_trees):
    _, out = prepared
    for split, speakers in corpus_trees.command_speakers.items():
        found = {utterance.speaker for utterance in read_datadir(out / split)}
        assert found == {f"asc{speaker:08d}" for speaker in speakers}


def test_strings_follow_the_seed_and_survive_interruption(prepared, corpus_trees, tmp_path):
    corpus, out = prepared
    arabic_speech_commands.prepare(corpus, tmp_path / "again", seed=3)
    arabic_speech_commands.prepare(corpus, tmp_path / "other", seed=4)
    text = (out / "train/text").read_bytes()
    assert (tmp_path / "again/train/text").read_bytes() == text
    assert (tmp_path / "other/train/text").read_bytes() != text

    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "again/audio").rglob("*.wav")}
    lost = sorted(before)[5]
    content = lost.read_bytes()
    lost.unlink()
    arabic_speech_commands.prepare(corpus, tmp_path / "again", seed=3)
    assert lost.read_bytes() == content
    assert all(path.stat().st_mtime_ns == time for path, time in before.items() if path != lost)

    arabic_speech_commands.prepare(corpus, tmp_path / "again", seed=4)  # the strings of the old seed go
    assert not lost.exists()
    assert (tmp_path / "again/train/text").read_bytes() == (tmp_path / "other/train/text").read_bytes()


def test_a_few_bad_recordings_are_listed_and_many_stop_the_stage(corpus_trees, tmp_path):
    corpus = corpus_trees.arabic_speech_commands(tmp_path / "corpus", rounds=4)
    truncated = corpus / "dataset/yes/00000001_NO_01.wav"
    truncated.write_bytes(truncated.read_bytes()[:5000])
    (corpus / "dataset/zoom in/00000001_NO_02.wav").unlink()
    with (corpus / "train.csv").open("a") as file:
        file.write("dataset/up/00000001_NO_01.wav,nonsense\r\n../outside/00000001_NO_01.wav,up\r\n")
    arabic_speech_commands.prepare(corpus, tmp_path / "out")
    skipped = (tmp_path / "out/skipped.tsv").read_text()
    assert "00000001_NO_01.wav\t" in skipped and "truncated" in skipped
    assert "no such file" in skipped and "nonsense" in skipped and "leaves the corpus folder" in skipped
    used = {source for sources in _spoken(tmp_path / "out/train").values() for source in sources}
    assert "dataset/yes/00000001_NO_01.wav" not in used and "dataset/yes/00000001_NO_03.wav" in used

    for path in sorted((corpus / "dataset/five").iterdir())[:6]:
        path.write_bytes(b"RIFF")
    with pytest.raises(TooManyBadFiles):
        arabic_speech_commands.prepare(corpus, tmp_path / "out2")


def test_a_training_recording_that_is_also_in_test_is_left_out(corpus_trees, tmp_path):
    corpus = corpus_trees.arabic_speech_commands(tmp_path / "corpus", rounds=1)
    shutil.copy(corpus / "dataset/up/00000003_NO_01.wav", corpus / "dataset/up/00000001_NO_01.wav")
    arabic_speech_commands.prepare(corpus, tmp_path / "out")
    used = {source for sources in _spoken(tmp_path / "out/train").values() for source in sources}
    assert "dataset/up/00000001_NO_01.wav" not in used and "dataset/yes/00000001_NO_01.wav" in used


def test_other_rates_and_channels_are_converted_once(corpus_trees, tmp_path):
    corpus = corpus_trees.arabic_speech_commands(tmp_path / "corpus", rounds=1)
    stereo = corpus_trees.speech(1, 0.6, 44100)
    soundfile.write(corpus / "dataset/up/00000001_NO_01.wav", np.stack([stereo, stereo], 1), 44100)
    words, _ = arabic_speech_commands.read_words(corpus, tmp_path / "audio")
    by_source = {word.recording.source: word.recording for word in words["train"]}
    converted = by_source["dataset/up/00000001_NO_01.wav"]
    assert converted.path.is_relative_to(tmp_path / "audio")
    assert abs(converted.samples - 0.6 * 16000) <= 2
    assert len(read_audio(converted.path)) == converted.samples
    native = by_source["dataset/up/00000005_NO_01.wav"]
    assert native.path == corpus / native.source  # pointed to, not copied
    assert len(list((tmp_path / "audio").rglob("*.wav"))) == 1


def test_without_a_table_the_publishers_words_are_used(corpus_trees, tmp_path):
    corpus = corpus_trees.arabic_speech_commands(tmp_path / "corpus", rounds=1)
    (corpus / "keywords.tsv").unlink()
    words, _ = arabic_speech_commands.read_words(corpus, tmp_path / "audio", text_profile="none")
    assert {word.text for word in words["train"]} == {"نعم", "تكبير", "أعلى", "خمسة"}
    assert len(arabic_speech_commands.KEYWORDS) == 40


def test_speech_is_found_and_pauses_are_short():
    rate = 16000
    draw = np.random.default_rng(0)
    quiet = 1e-3 * draw.standard_normal(rate).astype(np.float32)
    word = quiet.copy()
    word[6000:10000] += 0.2 * np.sin(np.arange(4000) * 0.2).astype(np.float32)
    first, last, background = speech_bounds(word)
    assert 5600 <= first <= 6000 and 10000 <= last <= 10400
    assert 5e-4 < background < 2e-3

    joined = join_words([word, word, word], seed=1)
    loud = np.abs(joined) > 0.02
    edges = np.flatnonzero(np.diff(np.flatnonzero(loud)) > rate // 50)
    assert len(edges) == 2  # three words, two pauses
    pauses = np.diff(np.flatnonzero(loud))[edges] / rate
    assert ((pauses > 0.05) & (pauses < 0.32)).all()
    assert len(joined) < 3 * len(word) * 0.6  # the silence is gone
    # A recording without any background of its own still gets a pause, and no stretch of digital silence
    tight = join_words([word[6000:10000], word[6000:10000]], seed=1)
    assert len(tight) > 2 * 4000 + 0.1 * rate
    assert np.abs(tight[1:-1]).max() > 0.1 and np.count_nonzero(tight == 0) < 10


def test_strings_of_very_short_recordings(tmp_path):
    samples = (0.1 * np.sin(np.arange(2296) * 0.3)).astype(np.float32)
    path = tmp_path / "short.wav"
    soundfile.write(path, samples, 16000)
    words = [Word(Recording(f"{i}.wav", path, 2296, f"{i}"), "s", None) for i in range(7)]
    strings = plan_strings(words, sizes=(3, 8), seed=1)
    utterances = render_strings(strings, tmp_path / "audio")
    assert sum(len(string.words) for string in strings) == 7
    assert all(utterance.samples > 400 and utterance.text is None for utterance in utterances)
    with pytest.raises(ValueError, match="fewest <= most"):
        plan_strings(words, sizes=(4, 3))


def test_a_part_of_the_corpus_with_test_speakers_alone(corpus_trees, tmp_path):
    corpus = corpus_trees.arabic_speech_commands(tmp_path / "corpus", rounds=1)
    for name in ("train.csv", "val.csv"):
        (corpus / name).write_bytes(b"file,class\r\n")
    arabic_speech_commands.prepare(corpus, tmp_path / "out")
    assert len(_spoken(tmp_path / "out/test")) > 0 and not (tmp_path / "out/train").exists()
    (corpus / "test.csv").write_bytes(b"file,class\n")
    with pytest.raises(CorpusError, match="train.csv, val.csv, test.csv"):
        arabic_speech_commands.prepare(corpus, tmp_path / "out2")


@pytest.mark.slow
def test_real_lists_are_whole(real_speech, tmp_path):
    corpus = real_speech / "arabic_speech_commands"
    assert arabic_speech_commands.read_keywords(corpus) == arabic_speech_commands.KEYWORDS
    words, tally = arabic_speech_commands.read_words(corpus, tmp_path)
    assert not tally.skipped
    assert sum(len(own) for own in words.values()) == arabic_speech_commands.check_layout(corpus)
    assert {len(word.text.split()) for own in words.values() for word in own} == {1}

"""Emotion corpora: speakers and labels from names, copies, folds that are seeded, balanced and speaker-disjoint."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path

import pytest

from corpora.datadir import read_datadir
from corpora.datasets import _emotion as emotion
from corpora.datasets import anad, baved, eaed, eyase, ksuemotions, sertus
from corpora.files import CorpusError, TooManyBadFiles, read_json
from corpora.prepare.sources import Recording, read_sources

pytestmark = pytest.mark.usefixtures("no_disk_sync")
SPLITS = ("train", "dev", "test")


def _fold(out: Path, number: int = 1) -> dict[str, list]:
    return {split: read_datadir(out / f"fold{number}" / split) for split in SPLITS}


def _clips(root: Path, write_clip, emotions: dict[str, str], per: int = 3) -> list[emotion.EmotionClip]:
    """`per` clips of each emotion (by first letter) of each speaker."""
    clips = []
    for place, (speaker, letters) in enumerate(emotions.items()):
        for letter in letters:
            for number in range(per):
                utt_id = f"{speaker}-{letter}{number}"
                path = write_clip(root / f"{utt_id}.wav", 1000 * place + 100 * ord(letter) + number, seconds=0.05)
                clips.append(
                    emotion.EmotionClip(utt_id, speaker, letter, Recording(path.name, path, 800, utt_id), "made")
                )
    return clips


def test_folds_are_seeded_and_balanced():
    draw = [300, 290, 100, 60, 40] + [7] * 34
    labels = {
        f"s{index:02d}": Counter(low=n // 3 + 1, neutral=n // 3, high=n - 2 * (n // 3)) for index, n in enumerate(draw)
    }
    chosen = emotion.speaker_folds(labels, 5, seed=0)
    assert sorted(len(fold) for fold in chosen) == [7, 8, 8, 8, 8]
    assert set().union(*chosen) == set(labels)
    assert chosen == emotion.speaker_folds(labels, 5, seed=0) != emotion.speaker_folds(labels, 5, seed=1)
    large = [fold & {"s00", "s01", "s02", "s03", "s04"} for fold in chosen]
    assert all(len(own) == 1 for own in large)  # the five large speakers are in five folds
    rest = {speaker: labels[speaker] for speaker in set(labels) - chosen[0]}
    dev = emotion.dev_speakers(rest, seed=0)
    assert dev == emotion.dev_speakers(dict(sorted(rest.items())), seed=0)  # the order of a dict changes nothing
    size = sum(labels[speaker].total() for speaker in dev) / sum(own.total() for own in rest.values())
    assert 0.08 < size < 0.16 and dev < set(rest)


@pytest.mark.parametrize(
    ("name", "options", "speakers"),
    [
        (anad, {"folds": 3}, {f"V{n}" for n in range(1, 9)}),
        (baved, {}, {f"baved{n:03d}" for n in range(16) if n != 1}),  # 1 is a copy of 0
        (eaed, {"folds": 2}, {"nellykarim", "nelly", "amr_saad", "monazaki", "yousra", "hendsabry"}),
        (eyase, {}, {"Female01", "Female02", "Female03", "Male01", "Male02", "Male03"}),
        (ksuemotions, {"folds": 2}, {f"P1{n:02d}" for n in range(1, 7)}),
        (sertus, {}, {f"from{n:04d}" for n in range(1, 140, 20)}),
    ],
)
def test_every_speaker_is_tested_once_and_the_protocol_says_so(tree, tmp_path, name, options, speakers):
    name.prepare(tree(name.INFO.name), tmp_path / "out", seed=4, **options)
    protocol = read_json(tmp_path / "out/protocol.json")
    tested = Counter(speaker for part in protocol["parts"].values() for speaker in part["test"])
    assert tested == Counter(speakers) and protocol["seed"] == 4
    assert protocol["disjoint_by"] == {anad: "video", sertus: "block"}.get(name, "speaker")
    for number in range(1, protocol["folds"] + 1):
        own = {split: {u.speaker for u in rows} for split, rows in _fold(tmp_path / "out", number).items()}
        assert {split: own[split] for split in ("test", "dev")} == {
            split: set(protocol["parts"][f"fold{number}"][split]) for split in ("test", "dev")
        }
        assert sum(map(len, own.values())) == len(speakers)
    assert {u.emotion for u in _fold(tmp_path / "out")["train"]} == set(name.EMOTIONS)


def test_the_last_speaker_of_a_label_stays_in_training(tmp_path, write_clip):
    # two speakers have c: when one is tested, the other must be trained on, not be dev
    speakers = {"s0": "abc", "s1": "abc", "s2": "ab", "s3": "ab", "s4": "ab", "s5": "ab"}
    clips = _clips(tmp_path / "audio", write_clip, speakers, per=2)
    for seed in range(3):
        emotion.write_folds("made", clips, tmp_path / "out", folds=3, least=2, seed=seed)
        for part in read_json(tmp_path / "out/protocol.json")["parts"].values():
            trained = set(speakers) - {*part["test"], *part["dev"]}
            assert trained & {"s0", "s1"} and not set(part["test"]) & set(part["dev"])


def test_a_label_of_one_speaker_cannot_be_scored(tree, tmp_path, write_clip):
    speakers = {"v0": "abc", "v1": "ab", "v2": "ab", "v3": "ab", "v4": "ab", "v5": "ab"}
    clips = _clips(tmp_path / "audio", write_clip, speakers)
    with pytest.raises(CorpusError, match=r"score c .*\(v0\).*--set emotions"):
        emotion.write_folds("made", clips, tmp_path / "out", folds=3, least=2, speaker_word="video")
    assert not (tmp_path / "out").exists()
    corpus = tree("anad", surprised=(3,))
    with pytest.raises(CorpusError, match=r"surprised .*\(V3\)"):
        anad.prepare(corpus, tmp_path / "out")
    anad.prepare(corpus, tmp_path / "out", emotions=("angry", "happy"), folds=3)
    assert not [u for u in _fold(tmp_path / "out")["train"] if u.speaker == "V3"]


def test_too_few_speakers(tree, tmp_path):
    corpus = tree("baved", speakers=8)
    with pytest.raises(CorpusError, match="7 speakers .* 5 folds"):
        baved.prepare(corpus, tmp_path / "out")
    baved.prepare(corpus, tmp_path / "out", folds=2)
    assert (tmp_path / "out/fold2/test/utt2emotion").exists() and not (tmp_path / "out/fold3").exists()


@pytest.mark.parametrize("name", [eaed, eyase, ksuemotions, anad, sertus])
def test_other_names_and_patterns_are_shown(tree, tmp_path, name):
    corpus, option = tree(name.INFO.name), "speaker" if name is ksuemotions else "file"
    with pytest.raises(CorpusError, match=rf"{option}='x': .*\(\?P<"):
        name.prepare(corpus, tmp_path / "out", **{option: "x"})
    with pytest.raises(CorpusError, match=rf"{option}='\(': "):
        name.prepare(corpus, tmp_path / "out", **{option: "("})
    for number, path in enumerate(sorted(corpus.rglob("*.*"))):
        if path.suffix in (".wav", ".flac"):
            path.rename(path.with_name(f"clip {number}{path.suffix}"))
    with pytest.raises(CorpusError, match=rf"names like .*found .*files.*python -m corpora {name.INFO.name} --help"):
        name.prepare(corpus, tmp_path / "out")


def test_ksuemotions_p_is_the_speaker_and_s_the_sentence(tree, tmp_path, caplog):
    corpus = tree("ksuemotions")
    ksuemotions.prepare(corpus, tmp_path / "out", folds=2)
    rows = [u for own in _fold(tmp_path / "out").values() for u in own]
    names = dict(enumerate(ksuemotions.EMOTIONS))
    assert all(u.emotion == names[int(u.utt_id.split("E0")[1][0])] for u in rows)
    assert all(f"{u.speaker}S" in u.utt_id.split("-")[1] for u in rows)
    assert "6 speakers" in caplog.text and "23 are published" in caplog.text
    with pytest.raises(TooManyBadFiles, match=r"X\\d\+"):
        ksuemotions.prepare(corpus, tmp_path / "out", speaker=r"(?P<speaker>X\d+)")
    ksuemotions.prepare(corpus, tmp_path / "folders", folds=2, speaker=r"Phase_1/(?P<speaker>P\d+)$")
    assert {u.speaker for own in _fold(tmp_path / "folders").values() for u in own} == {u.speaker for u in rows}
    shutil.copy(corpus / "data/SPEECH/Phase_1/P101/D05E00P101S01T01.flac", corpus / "data/SPEECH/D05E09P101S01T01.flac")
    ksuemotions.prepare(corpus, tmp_path / "out", folds=2, emotions=("neutral", "angry"))
    assert {u.emotion for u in _fold(tmp_path / "out")["train"]} == {"neutral", "angry"}
    assert "from 0 to 5, found 9" in (tmp_path / "out/skipped.tsv").read_text()
    with pytest.raises(CorpusError, match="found anger"):
        ksuemotions.prepare(corpus, tmp_path / "out", emotions=("anger",))


def test_eyase_folders_are_speakers(tree, tmp_path):
    corpus = tree("eyase")
    flat = tmp_path / "flat"
    for path in sorted(corpus.glob("*/*.wav")):
        if not path.name.startswith("fm01") or path.parent.name == "Female01":
            (flat / "EYASE").mkdir(parents=True, exist_ok=True)
            shutil.copy(path, flat / "EYASE")
    eyase.prepare(flat, tmp_path / "out")  # without such folders the name counts
    assert {u.speaker for own in _fold(tmp_path / "out").values() for u in own} == {
        f"{sex}m0{n}" for sex in "fm" for n in (1, 2, 3)
    }
    first = corpus / "Male01/mm01_ang (1).wav"
    shutil.copy(first, first.with_name("mm01_xyz (9).wav"))
    eyase.prepare(corpus, tmp_path / "out")
    assert "found 'xyz'" in (tmp_path / "out/skipped.tsv").read_text()
    for take in range(4):
        shutil.copy(first, first.with_name(f"mm01_xyz ({take}).wav"))
    with pytest.raises(TooManyBadFiles):
        eyase.prepare(corpus, tmp_path / "out")


def test_eaed_names_count_and_an_actor_of_two_series_is_one_speaker(tree, tmp_path):
    eaed.prepare(tree("eaed"), tmp_path / "out", folds=2)
    count = Counter(u.speaker for own in _fold(tmp_path / "out", 2).values() for u in own)
    assert count == {"nellykarim": 12, "nelly": 6, "amr_saad": 6, "monazaki": 6, "yousra": 6, "hendsabry": 6}


def test_anad_units_without_file_and_units_twice(tree, tmp_path, caplog):
    corpus = tree("anad")
    with (corpus / "ANAD.csv").open("a") as file:
        file.write("V8_9 (9).wav,0.1,angry\n")
    anad.prepare(corpus, tmp_path / "out", folds=3)
    assert "V8_9 (9).wav" in (tmp_path / "out/skipped.tsv").read_text()
    assert sum(map(len, _fold(tmp_path / "out").values())) == 24 and "recordings: 24, published are 1384" in caplog.text


def test_sertus_blocks_and_copies(tree, tmp_path, caplog):
    """Neighbouring recordings stay together, augmented copies are no recordings, and a part of the corpus is enough."""
    corpus = tree("sertus")
    sertus.prepare(corpus, tmp_path / "out")
    rows = [u for own in _fold(tmp_path / "out").values() for u in own]
    assert {u.utt_id.split("-")[1] for u in rows if u.speaker == "from0021"} == {f"EMO{n}" for n in range(21, 38, 3)}
    assert len(rows) == 42 and not [u for u in rows if "aug" in u.utt_id]
    assert {u.emotion for u in rows if u.utt_id.endswith(("EMO7", "EMO127"))} == {"happy"}  # "joy" in the list
    assert "7 recordings of Categorical annotation.csv are not here" in caplog.text and "EMO20.wav" in caplog.text
    assert "recordings: 42, published are 3793" in caplog.text  # the second copy of EMO1 is no recording
    sertus.prepare(corpus, tmp_path / "small", block=60, folds=3)
    rows = [u for own in _fold(tmp_path / "small").values() for u in own]
    assert {u.speaker for u in rows} == {"from0001", "from0061", "from0121"}
    with pytest.raises(CorpusError, match="7 blocks cannot make 9 folds"):
        sertus.prepare(corpus, tmp_path / "other", folds=9)
    with pytest.raises(CorpusError, match="block=0: expected at least 1"):
        sertus.prepare(corpus, tmp_path / "other", block=0)


def test_baved_labels_come_from_the_file_name(tree, tmp_path):
    corpus = tree("baved")
    baved.prepare(corpus, tmp_path / "out")
    moved = next((corpus / "0").glob("3-*-2-2-*.wav"))  # word 2 in the folder of word 0
    rows = {row.source: row for split in SPLITS for row in read_sources(tmp_path / "out/fold1" / split)}
    assert "-w2-e2-" in rows[f"0/{moved.name}"].utt_id
    assert len({row.sha256 for row in rows.values()}) == len(rows)
    assert not [source for source in rows if source.startswith("0/1-")]  # speaker 1 is a copy of speaker 0
    for utterance in [u for own in _fold(tmp_path / "out").values() for u in own]:
        assert utterance.emotion == ("low", "neutral", "high")[int(utterance.utt_id.split("-e")[1][0])]


def test_speakers_that_share_a_recording_are_one_and_two_labels_are_none(tree, tmp_path):
    corpus = tree("baved")
    source = next((corpus / "0").glob("7-*-0-1-*.wav"))
    shutil.copy(source, corpus / "0/9-m-29-0-1-900.wav")
    third = next((corpus / "0").glob("9-*-0-0-*.wav"))
    shutil.copy(third, corpus / "0/11-f-31-0-0-901.wav")  # 7 and 11 are one through 9
    clips, _ = baved.read_clips(corpus, tmp_path / "audio")
    assert not {"baved009", "baved011"} & {clip.speaker for clip in clips}
    assert len([clip for clip in clips if clip.speaker == "baved007"]) == 9
    shutil.copy(source, corpus / "0/7-m-27-0-2-902.wav")
    clips, tally = baved.read_clips(corpus, tmp_path / "audio")
    assert source.name not in {Path(clip.recording.source).name for clip in clips}
    assert len(tally.skipped) == 3 and "several labels" in tally.skipped[0][1]


def test_odd_names_and_bad_files_are_counted(tree, tmp_path):
    corpus = tree("baved")
    shutil.copy(next((corpus / "0").iterdir()), corpus / "0/notes.wav")
    clips, tally = baved.read_clips(corpus, tmp_path / "audio")
    assert len(clips) == 63 and [path.name for path, _ in tally.skipped] == ["notes.wav"]
    for path in sorted((corpus / "1").iterdir()):
        path.write_bytes(b"")
    with pytest.raises(TooManyBadFiles):
        baved.read_clips(corpus, tmp_path / "audio")


def test_real_folds_of_baved(real_speech, tmp_path):
    clips, tally = baved.read_clips(real_speech / "baved", tmp_path / "audio")
    assert not tally.skipped
    assert len({clip.recording.sha256 for clip in clips}) == len(clips)
    labels: dict[str, Counter] = {}
    for clip in clips:
        labels.setdefault(clip.speaker, Counter())[clip.emotion] += 1
    for tests in (emotion.speaker_folds(labels, 5, seed) for seed in range(3)):
        assert max(map(len, tests)) - min(map(len, tests)) <= 1
        for number, test in enumerate(tests):
            rest = {speaker: own for speaker, own in labels.items() if speaker not in test}
            dev = emotion.dev_speakers(rest, number)
            for chosen in (test, dev, set(rest) - dev):
                assert set(sum((labels[speaker] for speaker in chosen), Counter())) == {"low", "neutral", "high"}


@pytest.mark.slow
def test_real_eyase_is_whole(real_speech, tmp_path):
    if not (real_speech / "eyase").is_dir():
        pytest.skip("the folder of real speech has no eyase")
    eyase.prepare(real_speech / "eyase", tmp_path / "out")
    rows = [u for own in _fold(tmp_path / "out").values() for u in own]
    assert len({u.speaker for u in rows}) == 6 and len(rows) > 570

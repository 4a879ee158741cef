"""The open_arabic_70h data: nothing that is scored is trained on, by chapter, text, reciter, recording or corpus."""

from __future__ import annotations

import json
from hashlib import md5
from pathlib import Path

import pytest

from corpora.datadir import read_datadir, validate_datadir
from corpora.datasets import adi5
from corpora.files import CorpusError
from corpora.prepare.sources import read_sources
from corpora.sets import open_arabic_70h
from corpora.text import text_key

pytestmark = pytest.mark.usefixtures("no_disk_sync")

REFRAIN = "وَلَقَدۡ يَسَّرۡنَا ٱلۡقُرۡءَانَ لِلذِّكۡرِ"
TEXTS = {
    1: ["بِسۡمِ ٱللَّهِ ٱلرَّحۡمَٰنِ ٱلرَّحِيمِ", "ٱلۡحَمۡدُ لِلَّهِ رَبِّ ٱلۡعَٰلَمِينَ", "مَٰلِكِ يَوۡمِ ٱلدِّينِ", "إِيَّاكَ نَعۡبُدُ"],
    55: [REFRAIN, "مُدۡهَآمَّتَانِ", "فِيهِمَا عَيۡنَانِ نَضَّاخَتَانِ"],
    54: [REFRAIN, "فَذُوقُواْ عَذَابِي وَنُذُرِ"],  # dev
    75: ["لَآ أُقۡسِمُ بِيَوۡمِ ٱلۡقِيَٰمَةِ", "وَلَآ أُقۡسِمُ بِٱلنَّفۡسِ ٱللَّوَّامَةِ"],  # test
}
ASR = ["train", "dev", "test_seen", "test_unseen", "test_keywords", "test_digits"]


def _sources(root: Path, trees, clip) -> dict[str, Path]:
    chapters = {
        str(chapter): [{"chapter": chapter, "verse": n, "text": text} for n, text in enumerate(texts, 1)]
        for chapter, texts in TEXTS.items()
    }
    (root / "everyayah").mkdir(parents=True)
    (root / "everyayah/quran.json").write_text(json.dumps(chapters), encoding="utf-8")
    seed = 0
    for folder in ("recitations/one", "recitations/two", "everyayah/other"):
        for chapter, texts in TEXTS.items():
            for verse in range(1, len(texts) + 1):
                seed += 1
                clip(root / folder / f"{chapter:03d}{verse:03d}.mp3", 100 + seed, 0.6)
    for place, dialect in enumerate(adi5.DIALECTS):
        for number in range(2):
            clip(root / f"adi5/train/wav/{dialect}/{dialect}{number:06d}.wav", 300 + 10 * place + number)
        for number in range(6):
            name = f"{md5(f'{place}{number}'.encode()).hexdigest()}__{number}.10_{number}.50.wav"
            clip(root / f"adi5/dev/wav/{dialect}/{name}", 400 + 10 * place + number)
    for number in range(6):
        clip(root / f"english/speaker {number}/clip.wav", 600 + number, 0.8)
        clip(root / f"voices/voice{number}.mp3", 700 + number, 0.8)
    return {
        "RECITATIONS": root / "recitations",
        "EVERYAYAH": root / "everyayah",
        "ARABIC_SPEECH_COMMANDS": trees.arabic_speech_commands(root / "keywords"),
        "FREE_SPOKEN_DIGITS": trees.free_spoken_digits(root / "digits"),
        "BAVED": trees.baved(root / "baved"),
        "ADI5": root / "adi5",
        "SPEECH_TO_INTENT": root / "english",
        "COMMON_VOICE_VOICES": root / "voices",
    }


@pytest.fixture(scope="module")
def prepared(corpus_trees, write_clip, tmp_path_factory) -> tuple[dict[str, Path], Path]:
    root = tmp_path_factory.mktemp("open_arabic_70h")
    sources = _sources(root / "sources", corpus_trees, write_clip)
    open_arabic_70h.prepare(root / "out", sources=sources, max_seconds=1.0, seed=1)
    return sources, root / "out"


def test_every_set_is_valid_and_summarised(prepared):
    _, out = prepared
    summary = json.loads((out / "summary.json").read_text())["sets"]
    assert [name.removeprefix("asr/") for name in summary if name.startswith("asr/")] == ASR
    folds = [f"{task}/fold{fold}/{part}" for task in ("ser", "did") for fold in range(1, 6) for part in ("dev", "test")]
    assert set(folds) < set(summary)
    for name in summary:
        assert validate_datadir(out / name) == [], name
    assert summary["asr/test_unseen"]["utterances"] == 2 and summary["asr/test_seen"]["utterances"] == 4
    assert set(summary["ssl/train"]["hours_by_language"]) == {"ar", "en", "und"}
    assert max(u.samples for u in read_datadir(out / "ssl/train")) <= 16000 < 18000


def test_chapters_texts_and_reciters_are_apart(prepared):
    _, out = prepared
    texts = {
        split: {text_key(u.text) for u in read_datadir(out / "asr" / split) if u.speaker in ("one", "two", "other")}
        for split in ASR[:4]
    }
    assert not texts["train"] & (texts["dev"] | texts["test_seen"] | texts["test_unseen"])
    assert text_key(REFRAIN) in texts["dev"] and texts["test_seen"] == texts["test_unseen"]
    speech = {u.utt_id for u in read_datadir(out / "speech/recitation")}
    assert {name.split("-")[1][:3] for name in speech} == {"001", "055"} and "one-055001" not in speech
    assert {u.speaker for u in read_datadir(out / "asr/test_unseen")} == {"other"}


def test_unlabelled_speech_holds_nothing_that_is_scored(prepared):
    _, out = prepared
    rows = [row for split in ("train", "dev") for row in read_sources(out / "ssl" / split)]
    scored = [out / "asr" / split for split in ASR[1:]]
    scored += [*out.glob("ser/fold*/test"), *out.glob("did/fold*/test")]
    held = {row.sha256 for folder in scored for row in read_sources(folder)}
    assert held and not held & {row.sha256 for row in rows}
    assert {row.corpus for row in rows} == {
        "recitations", "arabic_speech_commands", "free_spoken_digits", "speech_to_intent", "common_voice_voices",
    }  # fmt: skip


def test_a_share_uses_fewer_training_recordings_and_the_same_verses_of_each_reciter(prepared, tmp_path):
    sources, out = prepared
    open_arabic_70h.prepare(tmp_path, sources=sources, share=0.5, scored_share=0.2, asr_hours=0.001, seed=1)
    whole, part = ({u.utt_id for u in read_datadir(folder / "speech/recitation")} for folder in (out, tmp_path))
    assert part < whole
    assert len(read_datadir(tmp_path / "asr/test_unseen")) == 2
    verses = {u.utt_id.split("-")[1] for u in read_datadir(tmp_path / "asr/test_seen")}
    assert len(verses) == 1 and len(read_datadir(tmp_path / "asr/test_seen")) == 2
    labelled = [u for u in read_datadir(tmp_path / "asr/train") if u.speaker in ("one", "two")]
    assert labelled and sum(u.samples for u in labelled) <= 3.6 * 16000


def test_scored_clips_in_a_folder_of_unlabelled_speech_are_left_out(prepared, tmp_path):
    sources, out = prepared
    voices = tmp_path / "voices"
    voices.mkdir()
    clips = [next(sources["BAVED"].rglob("*.wav")), next((sources["ADI5"] / "dev").rglob("*.wav"))]
    for clip in (*clips, *sources["COMMON_VOICE_VOICES"].glob("*.mp3")):
        (voices / clip.name).write_bytes(clip.read_bytes())
    open_arabic_70h.prepare(tmp_path / "out", sources={**sources, "COMMON_VOICE_VOICES": voices}, seed=1)
    excluded = (tmp_path / "out/excluded.tsv").read_text()
    kept = {row.source for split in ("train", "dev") for row in read_sources(tmp_path / "out/ssl" / split)}
    for clip in clips:
        assert clip.name not in kept
    assert excluded.count("common_voice_voices\t") == 2


def test_wrong_folders_and_values_are_named_before_audio_is_read(prepared, tmp_path):
    sources, _ = prepared

    def refused(message: str, **changes: object) -> None:
        options = {name: changes.pop(name) for name in ("share", "asr_hours") if name in changes}
        with pytest.raises(CorpusError, match=message):
            open_arabic_70h.prepare(tmp_path / "out", sources={**sources, **changes}, **options)

    refused("ADI5, SPEECH_TO_INTENT", ADI5=None, SPEECH_TO_INTENT=None)
    refused("share=25", share=25)
    refused("asr_hours=0", asr_hours=0)
    refused("RECITATIONS=.*no such folder", RECITATIONS=tmp_path / "absent")
    refused("RECITATIONS=.*no folder of a reciter", RECITATIONS=sources["RECITATIONS"] / "one")
    other = tmp_path / "other"
    other.mkdir()
    (other / "quran.json").write_bytes((sources["EVERYAYAH"] / "quran.json").read_bytes())
    (other / "one_64kbps").symlink_to(sources["RECITATIONS"] / "one", target_is_directory=True)
    refused("one is a training reciter .* and an unseen one", EVERYAYAH=other)
    (other / "one_128kbps").symlink_to(sources["RECITATIONS"] / "one", target_is_directory=True)
    refused("one_64kbps and .*one_128kbps are of one reciter", EVERYAYAH=other)
    (tmp_path / "empty").mkdir()
    refused("no audio below this folder", SPEECH_TO_INTENT=tmp_path / "empty")

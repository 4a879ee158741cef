"""One self-supervised set of several languages: no held-out data, nothing in both train and dev, no sample lost."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import pytest

from corpora.__main__ import main
from corpora.audio import hash_audio, write_audio
from corpora.datadir import Utterance, read_datadir, validate_datadir, write_datadir
from corpora.files import CorpusError, read_json
from corpora.prepare.sources import Provenance, read_sources, write_sources
from corpora.sets import ssl

pytestmark = pytest.mark.usefixtures("no_disk_sync")
SECOND = 16000


class _Corpus:
    """Writes data directories of a synthetic corpus; equal seeds are equal recordings."""

    def __init__(self, root: Path, name: str, language: str | None, write_clip):
        self.root, self.name, self.language, self._write_clip = root / name, name, language, write_clip
        self.seed = sum(map(ord, name)) * 1000

    def add(self, split: str, count: int, *, speakers: int = 4, seconds: float = 0.6, text: str | None = None) -> Path:
        utterances, rows = [], []
        for number in range(count):
            self.seed += 1
            speaker = f"{split}{number % speakers:02d}"
            utt_id = f"{speaker}-{number:03d}"
            path = self._write_clip(self.root / "audio" / split / f"{utt_id}.wav", self.seed, seconds)
            samples, digest = hash_audio(path)
            own = text if text is not None else f"{self.name} sentence of {split} number {number}"
            utterances.append(Utterance(utt_id, speaker, path, samples, text=own, language=self.language))
            rows.append(Provenance(utt_id, self.name, f"{split}/{path.name}", digest))
        return self.write(split, utterances, rows)

    def read(self, split: str) -> tuple[list[Utterance], list[Provenance]]:
        folder = self.root / split
        return read_datadir(folder), sorted(read_sources(folder), key=lambda row: row.utt_id)

    def write(self, split: str, utterances: list[Utterance], rows: list[Provenance]) -> Path:
        write_datadir(self.root / split, utterances)
        write_sources(self.root / split, rows)
        return self.root / split


def test_three_languages(tmp_path, write_clip):
    arabic = _Corpus(tmp_path, "mgb", "ar", write_clip)
    english = _Corpus(tmp_path, "libri", "en", write_clip)
    swahili = _Corpus(tmp_path, "sauti", None, write_clip)  # no utt2lang of its own
    sets = [str(arabic.add("train", 30)), str(english.add("train", 40)), f"{swahili.add('train', 20)}:sw"]
    held = [str(arabic.add("dev", 4)), str(english.add("dev", 4))]
    ssl.prepare(tmp_path / "out", sets=sets, held_out=held, dev_share=0.1)
    parts = {split: read_datadir(tmp_path / "out/ssl" / split) for split in ("train", "dev")}
    assert all(validate_datadir(tmp_path / "out/ssl" / split) == [] for split in parts)
    count = {split: defaultdict(int) for split in parts}
    for split, own in parts.items():
        for utterance in own:
            count[split][utterance.language] += 1
            assert utterance.text is None
    assert count == {"train": {"ar": 27, "en": 36, "sw": 18}, "dev": {"ar": 3, "en": 4, "sw": 2}}
    summary = read_json(tmp_path / "out/summary.json")
    assert summary["sets"]["train"]["hours_by_corpus"].keys() == {"mgb", "libri", "sauti"}
    assert summary["excluded"] == {}


def test_held_out_data_is_excluded(tmp_path, write_clip):
    corpus = _Corpus(tmp_path, "mgb", "ar", write_clip)
    corpus.add("train", 40)
    test = corpus.add("test", 3, text="قل هو الله أحد")
    utterances, rows = corpus.read("train")
    held = read_sources(test)
    change = {
        0: ("its recording is held out", {}, {"source": held[0].source}),
        1: ("its recording is held out", {}, {"sha256": held[1].sha256, "corpus": "another"}),
        2: ("its text is held out", {"text": "قُلْ هُوَ ٱللَّهُ أَحَدٌ"}, {}),  # another spelling of it
        4: ("its text is held out", {"text": "ﻗﻞ ﻫﻮ ﷲ ﺃﺣـﺪ"}, {}),  # in presentation forms
        3: ("shorter than 0.5 s", {"start": 0, "end": 4000, "samples": 4000}, {}),
    }
    for place, (_, of_utterance, of_row) in change.items():
        utterances[place] = replace(utterances[place], **of_utterance)
        rows[place] = replace(rows[place], **of_row)
    spoken = [replace(utterances[-1], utt_id="test00-900", speaker="test00")]
    spoken_row = [replace(rows[-1], utt_id="test00-900", source="x", sha256="y")]
    corpus.write("train", utterances + spoken, rows + spoken_row)
    ssl.prepare(tmp_path / "out", sets=[str(tmp_path / "mgb/train")], held_out=[str(test)], dev_share=0.1)
    reasons = dict(line.split("\t")[1:] for line in (tmp_path / "out/excluded.tsv").read_text().splitlines()[1:])
    expected = {utterances[place].utt_id: reason for place, (reason, *_) in change.items()}
    assert reasons == expected | {"test00-900": "its speaker is held out"}
    sizes = [len(read_datadir(tmp_path / "out/ssl" / split)) for split in ("train", "dev")]
    assert sum(sizes) == 35
    sets, held_out = [str(tmp_path / "mgb/train")], [str(test)]
    ssl.prepare(tmp_path / "out", sets=sets, held_out=held_out, dev_share=0.1, held_out_speakers=False)
    assert "its speaker is held out" not in (tmp_path / "out/excluded.tsv").read_text()


def test_copies_of_held_out_samples_are_excluded(tmp_path, write_clip, sound):
    """Copies of other gain and begin have another hash, source, speaker and text."""
    corpus = _Corpus(tmp_path, "mgb", "ar", write_clip)
    corpus.add("train", 30)
    test = corpus.add("test", 1)
    (held,), _ = corpus.read("test")
    write_audio(held.audio, sound(1))
    corpus.write("test", [replace(held, samples=len(sound(1)))], read_sources(test))
    utterances, rows = corpus.read("train")
    write_audio(utterances[4].audio, 0.5 * sound(1)[48:])
    write_audio(utterances[5].audio, sound(2))
    utterances[4] = replace(utterances[4], samples=len(sound(1)) - 48)
    utterances[5] = replace(utterances[5], samples=len(sound(2)))
    corpus.write("train", utterances, rows)
    ssl.prepare(tmp_path / "out", sets=[str(tmp_path / "mgb/train")], held_out=[str(test)], dev_share=0.1)
    (line,) = (tmp_path / "out/excluded.tsv").read_text().splitlines()[1:]
    assert line.split("\t")[1:] == [utterances[4].utt_id, "its samples are held out"]


def test_short_texts_are_vocabulary(tmp_path, write_clip):
    corpus = _Corpus(tmp_path, "commands", "ar", write_clip)
    train, test = corpus.add("train", 20, text="نعم"), corpus.add("test", 2, text="نعم")
    ssl.prepare(tmp_path / "out", sets=[str(train)], held_out=[str(test)], dev_share=0.1)
    assert read_json(tmp_path / "out/summary.json")["excluded"] == {}
    with pytest.raises(CorpusError, match="its text is held out: 20"):
        ssl.prepare(tmp_path / "out", sets=[str(train)], held_out=[str(test)], dev_share=0.1, min_text_words=1)


def test_long_utterances_are_cut_without_losing_a_sample(tmp_path, write_clip):
    corpus = _Corpus(tmp_path, "long", "en", write_clip)
    corpus.add("train", 3, seconds=2.50005)
    utterances, rows = corpus.read("train")
    part = replace(utterances[0], utt_id="train09-1", speaker="train09", start=4001, end=37002, samples=33001, text="x")
    utterances.append(part)
    rows.append(Provenance("train09-1", "long", rows[0].source, rows[0].sha256))
    corpus.write("train", utterances, rows)
    ssl.prepare(tmp_path / "out", sets=[str(tmp_path / "long/train")], dev_share=0.3, max_seconds=1.0)
    own = [u for split in ("train", "dev") for u in read_datadir(tmp_path / "out/ssl" / split)]
    assert max(u.samples for u in own) <= SECOND
    pieces = sorted((u.start, u.end) for u in own if u.utt_id.startswith("long_train09-1-"))
    assert (pieces[0][0], pieces[-1][1]) == (4001, 37002)
    assert all(end == start for (_, end), (start, _) in zip(pieces, pieces[1:], strict=False))
    assert sum(u.samples for u in own) == sum(u.samples for u in utterances)


def test_recordings_and_texts_are_on_one_side(tmp_path, write_clip):
    corpus = _Corpus(tmp_path, "mixed", "ar", write_clip)
    corpus.add("train", 60)
    utterances, rows = corpus.read("train")
    for place in range(0, 60, 3):  # pairs that share a text, and pairs of segments of one recording
        utterances[place + 1] = replace(utterances[place + 1], text=utterances[place].text)
        utterances[place + 2] = replace(utterances[place], utt_id=utterances[place + 2].utt_id, speaker=utterances[
            place + 2].speaker, start=800, end=9600, samples=8800, text=f"other words {place}")  # fmt: skip
        rows[place + 2] = replace(rows[place], utt_id=rows[place + 2].utt_id)
    corpus.write("train", utterances, rows)
    for seed in range(3):
        ssl.prepare(tmp_path / "out", sets=[str(tmp_path / "mixed/train")], dev_share=0.1, seed=seed)
        dev = {u.utt_id.removeprefix("mixed_") for u in read_datadir(tmp_path / "out/ssl/dev")}
        assert len(dev) == 6  # a tenth of sixty, in whole groups of three
        for place in range(0, 60, 3):
            assert len({utterances[place + n].utt_id in dev for n in range(3)}) == 1


def test_impossible_sets_are_refused(tmp_path, write_clip):
    corpus = _Corpus(tmp_path, "one", "ar", write_clip)
    corpus.add("train", 6, text="the same words always")
    with pytest.raises(CorpusError, match="all 6 utterances of ar"):
        ssl.prepare(tmp_path / "out", sets=[str(tmp_path / "one/train")])
    plain = _Corpus(tmp_path, "plain", None, write_clip)
    plain.add("train", 6)
    with pytest.raises(CorpusError, match="plain/train: no utt2lang"):
        ssl.prepare(tmp_path / "out", sets=[str(tmp_path / "plain/train")])
    (tmp_path / "plain/train/sources.tsv").write_text("utt_id\tcorpus\tsource\tsha256\nx\ty\n")
    with pytest.raises(CorpusError, match="sources.tsv:2"):
        ssl.prepare(tmp_path / "out", sets=[f"{tmp_path / 'plain/train'}:ar"])
    with pytest.raises(CorpusError, match="max_seconds=0.5"):
        ssl.prepare(tmp_path / "out", sets=[str(tmp_path / "one/train")], max_seconds=0.5)


def test_command_line(tmp_path, write_clip, capsys):
    corpus = _Corpus(tmp_path, "mgb", "ar", write_clip)
    train, test = corpus.add("train", 20), corpus.add("test", 2)
    arguments = ["ssl", "--out", str(tmp_path / "out"), "--from", str(train), "--held-out", str(test)]
    assert main([*arguments, "--dev-share", "0.1", "--max-seconds", "1"]) == 0
    assert main(["validate", str(tmp_path / "out")]) == 0
    assert main(["ssl", "--out", str(tmp_path / "out")]) == 2
    assert "(--from)" in capsys.readouterr().err

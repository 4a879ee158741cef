"""Trees as people have them: files of the system in every folder, decomposed names, names in upper case, a BOM."""

from __future__ import annotations

import codecs
import os
import unicodedata
from collections.abc import Callable
from pathlib import Path

import pytest

from corpora import registry
from corpora.datadir import read_datadir
from corpora.files import CorpusError
from corpora.prepare.readers import read_lines, read_rows
from corpora.prepare.tree import find_path, is_visible, visible_files

pytestmark = pytest.mark.usefixtures("no_disk_sync")

# Lhotse reads these trees.
OTHERS = {"gigaspeech", "librispeech", "tedlium3", "voxpopuli"}
OWN = sorted(set(registry.MODULES) - OTHERS)
# Their names are ids that depend on the case (YouTube), or the lists of recordings are part of names.
CASE_MATTERS = {"adi17", "adi20", "masc"}


def _prepare(name: str, corpus: Path, out: Path) -> dict[str, int]:
    options = {"folds": 2} if name in ("eaed", "ksuemotions") else {"folds": 3} if name == "anad" else {}
    options |= {"countries": ("Egypt", "Yemen")} if name == "casablanca" else {}
    registry.load(name).prepare(corpus, out, **options)
    return {
        path.parent.relative_to(out).as_posix(): len(read_datadir(path.parent)) for path in sorted(out.rglob("utt2spk"))
    }


def _rename(folder: Path, new: Callable[[str], str]) -> None:
    for path in sorted(folder.rglob("*"), key=lambda own: -len(own.parts)):
        if new(path.name) != path.name:
            path.rename(path.with_name(new(path.name)))


@pytest.mark.parametrize("name", OWN)
def test_files_of_the_system_are_no_part_of_a_corpus(name: str, tree, tmp_path: Path) -> None:
    corpus = tree(name)
    plain = _prepare(name, corpus, tmp_path / "plain")
    for folder, _, files in list(os.walk(corpus)):
        for junk in ("Thumbs.db", "desktop.ini", ".DS_Store", *(f"._{file}" for file in files)):
            Path(folder, junk).write_bytes(b"\x00\x05\x16\x07" + bytes(82))
        (Path(folder) / "__MACOSX").mkdir()
        (Path(folder) / "__MACOSX" / "._x.wav").write_bytes(bytes(82))
    assert _prepare(name, corpus, tmp_path / "out") == plain
    skipped = tmp_path / "out/skipped.tsv"
    assert not skipped.exists() or "._" not in skipped.read_text()


@pytest.mark.parametrize("name", sorted(set(OWN) - CASE_MATTERS))
@pytest.mark.slow
def test_a_tree_in_upper_case_is_the_same_corpus(name: str, tree, tmp_path: Path) -> None:
    corpus = tree(name)
    plain = _prepare(name, corpus, tmp_path / "plain")
    _rename(corpus, str.upper)
    found = _prepare(name, corpus, tmp_path / "out")
    assert sorted(found.values()) == sorted(plain.values())


def test_listed_names_are_found_decomposed(tree, tmp_path: Path, noise, made) -> None:
    corpus = tree("sada")
    (corpus / "batch_1/train show.wav").rename(corpus / "batch_1" / unicodedata.normalize("NFD", "آخر لقاء.wav"))
    listed = corpus / "train.csv"
    listed.write_bytes(
        listed.read_bytes().replace(b"train show.wav", unicodedata.normalize("NFC", "آخر لقاء.wav").encode())
    )
    assert _prepare("sada", corpus, tmp_path / "out") == {"train": 3, "dev": 3, "test": 3}


def test_an_exact_name_goes_before_one_of_other_case(tmp_path: Path) -> None:
    for name in ("a.wav", "A.WAV", "B.wav", "b.WAV"):
        (tmp_path / name).touch()
    assert find_path(tmp_path, "a.wav").name == "a.wav" and find_path(tmp_path, "A.WAV").name == "A.WAV"
    with pytest.raises(CorpusError, match="B.wav and b.WAV both stand for b.wav"):
        find_path(tmp_path, "b.wav")
    assert find_path(tmp_path, "no/such.wav") == tmp_path / "no/such.wav"
    for folder in ("wav", "WAV"):
        (tmp_path / folder).mkdir()
    (tmp_path / "wav/C.wav").touch()
    assert find_path(tmp_path, "wav/c.wav") == tmp_path / "wav/C.wav"  # an exact folder, a file in other case
    assert [path.name for path in visible_files(tmp_path, "*.wav")] == ["A.WAV", "B.wav", "a.wav", "b.WAV"]
    assert not is_visible("._a.wav") and not is_visible("Thumbs.db") and is_visible("a.wav")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_lists_of_spreadsheets(encoding: str, tmp_path: Path) -> None:
    path = tmp_path / "list.tsv"
    path.write_bytes("file\ttext\r\na.wav\tنعم\r\n".encode(encoding))
    assert encoding != "utf-16" or path.read_bytes()[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
    (row,) = read_rows(path, ("file", "text"), delimiter="\t")
    assert (row["file"], row["text"], row.where) == ("a.wav", "نعم", f"{path}:2")
    assert [line for _, line in read_lines(path)] == ["file\ttext", "a.wav\tنعم"]


@pytest.mark.parametrize(
    ("links", "found"),
    [
        ({"a/self": "a"}, ["a/x.wav", "b/x.wav"]),
        ({"a/up": "."}, ["a/x.wav", "b/x.wav"]),
        ({"a/other": "b", "b/other": "a"}, ["a/other/x.wav", "a/x.wav", "b/other/x.wav", "b/x.wav"]),
        ({"a/data": "../elsewhere"}, ["a/data/y.wav", "a/x.wav", "b/x.wav"]),
    ],
)
def test_links_that_lead_back_are_not_followed(links: dict[str, str], found: list[str], tmp_path: Path) -> None:
    """Linux follows forty links, so every file would be found forty times."""
    for name in ("corpus/a/x.wav", "corpus/b/x.wav", "elsewhere/y.wav"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).touch()
    corpus = tmp_path / "corpus"
    for link, target in links.items():
        (corpus / link).symlink_to(corpus / target, target_is_directory=True)
    assert [path.relative_to(corpus).as_posix() for path in visible_files(corpus, "**/*.wav")] == found

"""Corpora that can be fetched: `download` gives the layout that `prepare` expects. Against a server on this machine."""

from __future__ import annotations

import hashlib
import io
import tarfile
from pathlib import Path

import pytest

from corpora import registry
from corpora.datasets import arabic_speech_commands, baved, everyayah, free_spoken_digits
from corpora.files import CorpusError

MODULES = {name: registry.load(name) for name in registry.MODULES if registry.can_be_fetched(name)}


def _repository(folder: Path) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        tar.add(folder, arcname="repository-0123456")
    return buffer.getvalue()


@pytest.mark.slow
def test_every_download_has_the_layout_that_prepare_expects(server, corpus_trees, tmp_path):
    made = {name: getattr(corpus_trees, name)(tmp_path / "made" / name) for name in MODULES}
    (made["arabic_speech_commands"] / "keywords.tsv").unlink()  # the publisher's repository has none
    recitation = tmp_path / "made/recitation"
    recitation.mkdir()
    (made["everyayah"] / "a_reciter").rename(recitation / "audio")
    served = {name: _repository(folder) for name, folder in made.items()} | {"everyayah": _repository(recitation)}
    for name, address in (
        ("arabic_speech_commands", arabic_speech_commands.REPOSITORY),
        ("baved", baved.REPOSITORY),
        ("everyayah", everyayah.REPOSITORY),
        ("free_spoken_digits", free_spoken_digits.REPOSITORY),
    ):
        server.files[f"/{address}"] = served[name]
    quran = (made["everyayah"] / "quran.json").read_bytes()
    server.files[f"/{everyayah.QURAN}"] = quran
    server.cut = 1
    for name, module in MODULES.items():
        options = {"quran_sha256": hashlib.sha256(quran).hexdigest()} if name == "everyayah" else {}
        folder = module.download(tmp_path / "downloads", host=server.url, **options)
        assert folder == tmp_path / "downloads" / name
    assert (folder / "recordings/6_theo_6.wav").exists()
    assert "zoom in\tتكبير\n" in (tmp_path / "downloads/arabic_speech_commands/keywords.tsv").read_text()
    everyayah_files = {path.name for path in (tmp_path / "downloads/everyayah").iterdir()}
    assert everyayah_files == {"yasser_salama", "quran.json"}
    left = [path.name for path in (tmp_path / "downloads").iterdir() if not path.name.endswith(".lock")]
    assert sorted(left) == sorted(MODULES)  # no archive, no temporary folder
    count = len(server.asked)
    baved.download(tmp_path / "downloads", host=server.url)
    assert len(server.asked) == count


def test_an_archive_of_another_layout_is_not_kept(server, tmp_path):
    (tmp_path / "other").mkdir()
    (tmp_path / "other/README.md").write_text("moved")
    server.files[f"/{baved.REPOSITORY}"] = _repository(tmp_path / "other")
    with pytest.raises(CorpusError, match="downloads"):
        baved.download(tmp_path / "downloads", host=server.url)
    assert not (tmp_path / "downloads/baved").exists()


def test_the_pinned_text_of_the_quran_is_that_of_the_real_corpus(real_speech):
    found = hashlib.sha256((real_speech / "everyayah/quran.json").read_bytes()).hexdigest()
    assert found == everyayah.QURAN_SHA256

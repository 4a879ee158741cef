"""Names of upstreams: keys change with weights and configuration, errors say how to add a missing one."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from downstream.upstreams import UpstreamMissing, resolve


def test_fbank_is_s3prls_own(tmp_path: Path):
    fbank = resolve("fbank", tmp_path)
    assert (fbank.build, fbank.batched) == ({"name": "fbank"}, False)
    assert fbank.key != resolve("mfcc", tmp_path).key


def test_a_model_directory_uses_our_entry(tiny_models: Path):
    tiny = resolve("tiny_a", tiny_models)
    assert tiny.build == {"name": "harness_custom", "path_or_url": str(tiny_models / "tiny_a")}
    assert tiny.key != resolve("tiny_b", tiny_models).key
    other = resolve(f"hubert={tiny_models / 'tiny_a'}", Path("elsewhere"))
    assert (other.name, other.key) == ("hubert", tiny.key)


def test_the_key_follows_weights_and_configuration_but_not_the_card(tiny_models: Path, tmp_path: Path):
    shutil.copytree(tiny_models / "tiny_a", tmp_path / "m")
    before = resolve("m", tmp_path).key
    path = tmp_path / "m" / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**config, "harness": {"name": "another card"}}), encoding="utf-8")
    assert resolve("m", tmp_path).key == before
    path.write_text(json.dumps({**config, "layer_norm_eps": 0.5}), encoding="utf-8")
    assert resolve("m", tmp_path).key != before


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("harness_l", r"harness_l: .*run\.sh --stage"),
        ("xlsr", r"xlsr: .* --upstreams xlsr=PATH"),
        ("hubert=/nowhere", r"hubert: .*/nowhere"),
    ],
)
def test_a_missing_upstream_says_how_to_add_it(name: str, message: str, tmp_path: Path):
    with pytest.raises(UpstreamMissing, match=message):
        resolve(name, tmp_path)


def test_a_folder_with_pickled_weights_only_is_missing_and_not_a_crash(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}", encoding="utf-8")
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(UpstreamMissing, match="model.safetensors"):
        resolve(f"hubert={tmp_path}", tmp_path)


def test_published_encoders_are_found_by_name_and_by_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from corpora.files import write_json

    folder = tmp_path / "published" / "whisper_base"
    folder.mkdir(parents=True)
    write_json(folder / "config.json", {"model_type": "whisper"})
    (folder / "model.safetensors").write_bytes(b"weights")
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HARNESS_BASELINES", str(tmp_path / "published"))
    named, given = resolve("whisper_base", tmp_path), resolve(f"mine={folder}", tmp_path)
    assert (named.entry, named.path, named.key) == ("harness_transformers", folder, given.key) and named.batched
    theirs = resolve("hubert_base", tmp_path)  # not downloaded: S3PRL's entry downloads it in the worker
    assert (theirs.entry, theirs.path, theirs.batched) == ("hubert_base", None, False)
    monkeypatch.delenv("HARNESS_BASELINES")
    with pytest.raises(UpstreamMissing, match="HARNESS_BASELINES/whisper_base") as failed:
        resolve("whisper_base", tmp_path)
    assert "\n" not in str(failed.value)

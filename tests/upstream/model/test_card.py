"""The lineage graph in every card, drawn as a tree, without the folders of the ancestors."""

import shutil

import pytest

from upstream.__main__ import main
from upstream.config import InitConfig, PretrainConfig, RegressionConfig, TargetConfig
from upstream.model.family import geometry
from upstream.model.modeldir import model_sha256, read_card
from upstream.pretrain.train import pretrain
from upstream.units.label import make_units
from upstream.units.units import LabelSet

TEACHER = geometry("mini_hl", layers=2, width=32, heads=2, ffn=64, pos_conv_groups=4, pos_conv_kernel=8)
STUDENT = geometry("mini_hst", layers=1, width=16, heads=1, ffn=32, pos_conv_groups=4, pos_conv_kernel=8)
CONFIG = PretrainConfig(steps=2, batch_seconds=4.0, crop_seconds=2.0, valid_every=2, precision="fp32")


@pytest.fixture(scope="module")
def family(tmp_path_factory, noise_corpus):
    """MFCC units -> teacher; units of two of its layers, its weights and its features -> student."""
    root = tmp_path_factory.mktemp("family")
    noise_corpus(root / "data", 6, 2, samples=(20000, 20001))
    data = {split: root / "data" / split for split in ("train", "dev")}
    make_units(data, root / "it1", TargetConfig(k=4))
    card = {"name": "نموذج_معلم", "iteration": 1, "data": {"corpora": "noise"}}
    teacher = pretrain(TEACHER, root / "data", root / "it1", root / "teacher", CONFIG, card=card)
    make_units(data, root / "low", TargetConfig(source=str(teacher), layer=0, k=5))
    make_units(data, root / "high", TargetConfig(source=str(teacher), layer=2, pca=3, k=6))
    sets = [LabelSet("high", root / "high"), LabelSet("low", root / "low", weight=0.5)]
    init = InitConfig("project", str(teacher), minutes=0.0)
    student = pretrain(
        STUDENT, root / "data", sets, root / "student", CONFIG, init,
        {"name": "student", "iteration": 2}, regression=RegressionConfig(str(teacher), [1, 2], weight=0.25),
    )  # fmt: skip
    return root, teacher, student


def test_a_card_holds_the_graph_of_its_ancestors_by_hash(family):
    _, teacher, student = family
    sha256 = model_sha256(teacher)
    graph = read_card(student)["lineage"]
    assert list(graph) == [sha256]
    assert graph[sha256]["name"] == "نموذج_معلم" and graph[sha256]["units"]["source"] == "mfcc"
    assert graph[sha256]["hours"] > 0 and graph[sha256]["steps"] == 2
    card = read_card(student)
    assert [s["model_sha256"] for s in card["label_sets"]] == [sha256, sha256]
    assert card["init"] == {"kind": "project", "source_sha256": sha256, "layers": "every_nth", "minutes": 0.0}
    assert read_card(teacher)["lineage"] == {}


def test_the_tree_needs_only_the_model_itself(family, tmp_path, capsys):
    _, teacher, student = family
    shutil.copytree(student, tmp_path / "shared")
    assert main(["lineage", str(tmp_path / "shared")]) == 0
    sha = model_sha256(teacher)[:12]
    assert capsys.readouterr().out.rstrip("\n").split("\n") == [
        f"student, iteration 2, 1 x 16 logmel, 2 steps, 0.002 h [{model_sha256(student)[:12]}]",
        "├── units high, weight 1: نموذج_معلم layer 2, PCA 3, k=6",
        f"│   └── نموذج_معلم, iteration 1, 2 x 32 logmel, 2 steps, 0.002 h, noise [{sha}]",
        "│       ├── units: mfcc, k=4",
        "│       └── init: random",
        "├── units low, weight 0.5: نموذج_معلم layer 0, k=5",
        "│   └── نموذج_معلم (above)",
        "├── features: layers 1, 2, weight 0.25",
        "│   └── نموذج_معلم (above)",
        "└── init: project",
        "    └── نموذج_معلم (above)",
    ]


def test_a_foreign_or_older_model_has_a_tree(tmp_path, capsys):
    from upstream.model.encoder import build_encoder
    from upstream.model.modeldir import save_model

    old = {"name": "old", "init": {"kind": "model", "source_sha256": "f" * 64}}
    save_model(build_encoder(STUDENT), tmp_path / "old", old)
    save_model(build_encoder(STUDENT), tmp_path / "hubert", {})
    assert main(["lineage", str(tmp_path / "old")]) == main(["lineage", str(tmp_path / "hubert")]) == 0
    out = capsys.readouterr().out
    assert "└── model ffffffffffff (its card is missing)" in out and "hubert [" in out
    assert main(["lineage", str(tmp_path)]) == 2

"""Checkpoints of other toolkits become model directories with the same outputs; no code in them runs."""

from __future__ import annotations

import argparse
import os
import pickle
import sys
import types
import zipfile
from pathlib import Path

import pytest
import torch
import torchaudio
import yaml
from safetensors.torch import save_file
from transformers import HubertConfig, HubertModel, Wav2Vec2Config, Wav2Vec2Model

from upstream.__main__ import main
from upstream.errors import UpstreamError
from upstream.model.encoder import encode
from upstream.model.modeldir import load_model, read_card
from upstream.tools.convert import EncoderSettings, conv_layers, import_model
from upstream.tools.pickles import read_checkpoint, unpickle

CONV = [(16, 10, 5)] + [(16, 3, 2)] * 4 + [(16, 2, 2)] * 2
CONV_TEXT = "[(16,10,5)] + [(16,3,2)] * 4 + [(16,2,2)] * 2"
WAV = 0.1 * torch.randn(7000, generator=torch.Generator().manual_seed(0))
HEADS = 4


def torchaudio_model(mode: str, pretraining: bool = False) -> torch.nn.Module:
    torch.manual_seed(3)
    shape = dict(
        extractor_mode=mode, extractor_conv_layer_config=CONV, extractor_conv_bias=mode == "layer_norm",
        encoder_embed_dim=32, encoder_projection_dropout=0.0, encoder_pos_conv_kernel=16, encoder_pos_conv_groups=4,
        encoder_num_layers=3, encoder_num_heads=HEADS, encoder_attention_dropout=0.0, encoder_ff_interm_features=64,
        encoder_ff_interm_dropout=0.0, encoder_dropout=0.0, encoder_layer_norm_first=mode == "layer_norm",
        encoder_layer_drop=0.0,
    )  # fmt: skip
    if pretraining:
        model = torchaudio.models.hubert_pretrain_model(
            **shape, mask_prob=0.8, mask_selection="static", mask_other=0.0, mask_length=10, no_mask_overlap=False,
            mask_min_space=1, mask_channel_prob=0.0, mask_channel_selection="static", mask_channel_other=0.0,
            mask_channel_length=10, no_mask_channel_overlap=False, mask_channel_min_space=1, skip_masked=False,
            skip_nomask=False, num_classes=10, final_dim=16, feature_grad_mult=0.1,
        )  # fmt: skip
    else:
        model = torchaudio.models.wav2vec2_model(**shape, aux_num_out=None)
    for p in model.parameters():
        p.data.add_(0.05 * torch.randn_like(p))
    return model.eval()


@torch.no_grad()
def outputs(model_dir: Path) -> list[torch.Tensor]:
    return encode(load_model(model_dir), [WAV]).hidden_states


@torch.no_grad()
def assert_same_as_torchaudio(model_dir: Path, model: torch.nn.Module, normalise: bool) -> None:
    wav = torch.nn.functional.layer_norm(WAV, WAV.shape, eps=1e-7) if normalise else WAV
    encoder = getattr(model, "wav2vec2", model)
    layers, _ = encoder.extract_features(wav[None])
    top, _ = encoder(wav[None])
    ours = outputs(model_dir)
    assert len(ours) == 4
    for theirs, mine in zip(layers[:-1], ours[1:-1], strict=True):
        torch.testing.assert_close(mine, theirs, atol=2e-5, rtol=1e-4)
    torch.testing.assert_close(ours[-1], top, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize(
    "form, mode",
    [("state dict", "group_norm"), ("training checkpoint", "layer_norm"), ("safetensors", "layer_norm")],
)
@pytest.mark.slow
def test_torchaudio_checkpoints_give_torchaudios_numbers(form, mode, tmp_path):
    # Starting the isolated process takes seconds; one form of each toolkit is read there.
    read = unpickle if form == "training checkpoint" else read_checkpoint
    model = torchaudio_model(mode, pretraining=form == "training checkpoint")
    file = tmp_path / "hubert.pt"
    if form == "safetensors":
        file = tmp_path / "hubert.safetensors"
        save_file(model.state_dict(), file)
    elif form == "training checkpoint":  # as the training recipe of torchaudio saves it
        state = {f"model.{name}": value for name, value in model.state_dict().items()}
        torch.save({"state_dict": state, "epoch": 3, "optimizer_states": [{}]}, file)
    else:
        torch.save(model.state_dict(), file)
    made = import_model(file, tmp_path / "m", "torchaudio", EncoderSettings(heads=HEADS), read=read)
    assert_same_as_torchaudio(made, model, normalise=mode == "layer_norm")
    card = read_card(made)
    assert card["imported_from"] == "torchaudio" and len(card["source_sha256"]) == 64
    if form == "training checkpoint":
        assert torch.equal(load_model(made).masked_spec_embed, model.mask_generator.mask_embedding)


@pytest.mark.parametrize("mode", ["layer_norm"])
def test_espnet_hubert_checkpoints_get_their_geometry_from_config_yaml(mode, tmp_path):
    from espnet2.asr.encoder.hubert_encoder import TorchAudioHuBERTPretrainEncoder

    conf = {
        "extractor_mode": mode, "extractor_conv_layer_config": [list(layer) for layer in CONV],
        "extractor_conv_bias": mode == "layer_norm", "encoder_embed_dim": 32, "encoder_pos_conv_kernel": 16,
        "encoder_pos_conv_groups": 4, "encoder_num_layers": 3, "encoder_num_heads": HEADS,
        "encoder_ff_interm_features": 64, "encoder_layer_norm_first": mode == "layer_norm",
    }  # fmt: skip
    torch.manual_seed(0)
    encoder = TorchAudioHuBERTPretrainEncoder(input_size=1, **conf).eval()
    state = {f"encoder.{name}": value for name, value in encoder.state_dict().items()}
    torch.save(state, tmp_path / "valid.loss.best.pth")
    text = yaml.safe_dump({"encoder": "torchaudio_hubert", "encoder_conf": conf})
    (tmp_path / "config.yaml").write_bytes(text.replace("\n", "\r\n").encode())
    made = import_model(tmp_path / "valid.loss.best.pth", tmp_path / "m", read=unpickle)
    assert read_card(made)["imported_from"] == "espnet"
    assert_same_as_torchaudio(made, encoder.hubert_pretrain_model, normalise=False)


def fairseq_name(name: str) -> str:
    """From torchaudio's names to fairseq's: the inverse of torchaudio's own importer."""
    import re

    rules = [
        (r"feature_extractor\.conv_layers\.(\d+)\.conv\.", r"feature_extractor.conv_layers.\1.0."),
        (r"encoder\.feature_projection\.projection\.", "post_extract_proj."),
        (r"encoder\.feature_projection\.layer_norm\.", "layer_norm."),
        (r"encoder\.transformer\.pos_conv_embed\.conv\.", "encoder.pos_conv.0."),
        (r"encoder\.transformer\.layer_norm\.", "encoder.layer_norm."),
        (r"encoder\.transformer\.layers\.(\d+)\.attention\.", r"encoder.layers.\1.self_attn."),
        (r"encoder\.transformer\.layers\.(\d+)\.layer_norm\.", r"encoder.layers.\1.self_attn_layer_norm."),
        (r"encoder\.transformer\.layers\.(\d+)\.final_layer_norm\.", r"encoder.layers.\1.final_layer_norm."),
        (r"encoder\.transformer\.layers\.(\d+)\.feed_forward\.intermediate_dense\.", r"encoder.layers.\1.fc1."),
        (r"encoder\.transformer\.layers\.(\d+)\.feed_forward\.output_dense\.", r"encoder.layers.\1.fc2."),
    ]
    for pattern, replacement in rules:
        name = re.sub(f"^{pattern}", replacement, name)
    return name.replace("parametrizations.weight.original0", "weight_g").replace(
        "parametrizations.weight.original1", "weight_v"
    )


def fairseq_state(model: torch.nn.Module, mode: str) -> dict[str, torch.Tensor]:
    from torchaudio.models.wav2vec2.utils.import_fairseq import _convert_state_dict

    own = model.state_dict()
    norm = "2" if mode == "group_norm" else "2.1"
    state = {
        fairseq_name(name).replace(".layer_norm.", f".{norm}.", 1)
        if name.startswith("feature_extractor")
        else fairseq_name(name): value
        for name, value in own.items()
    }
    back = _convert_state_dict(state)  # from fairseq's names, by torchaudio's own importer
    spelled = {name.replace("weight_g", "parametrizations.weight.original0") for name in back}
    assert {name.replace("weight_v", "parametrizations.weight.original1") for name in spelled} == set(own)
    return state | {
        "mask_emb": torch.full((32,), 0.5),
        "final_proj.weight": torch.zeros(16, 32),
        "final_proj.bias": torch.zeros(16),
        "label_embs_concat": torch.zeros(10, 16),
    }


@pytest.fixture
def fairseq_classes(monkeypatch):
    """Modules with the names of fairseq's and omegaconf's, whose classes real files hold; in this process only."""
    made = {}
    for name in ("fairseq.data.dictionary.Dictionary", "fairseq.dataclass.constants.DDP"):
        module, _, short = name.rpartition(".")
        cls = type(short, (), {"__module__": module})
        for i in range(1, module.count(".") + 2):
            part = ".".join(module.split(".")[:i])
            monkeypatch.setitem(sys.modules, part, sys.modules.get(part) or types.ModuleType(part))
        setattr(sys.modules[module], short, cls)
        made[short] = cls
    return made


@pytest.mark.parametrize(
    "age, mode",
    [("args", "group_norm"), ("legacy", "group_norm"), ("cfg", "layer_norm"), ("omegaconf", "layer_norm")],
)
@pytest.mark.slow
def test_fairseq_files_with_their_objects_give_the_same_numbers(age, mode, fairseq_classes, tmp_path):
    def read(file: Path) -> object:  # with what S3PRL's launcher lets torch build
        with torch.serialization.safe_globals([argparse.Namespace]):
            return read_checkpoint(file) if age == "cfg" else unpickle(file)

    model = torchaudio_model(mode)
    stated = {
        "_name": "hubert", "encoder_attention_heads": HEADS, "layer_norm_first": mode == "layer_norm",
        "conv_feature_layers": CONV_TEXT, "activation_fn": "gelu",
    }  # fmt: skip
    normalize = mode == "layer_norm"
    dictionary = fairseq_classes["Dictionary"]()
    dictionary.__dict__.update(symbols=["<s>", "0", "ب"], indices={"<s>": 0}, count=[1, 2, 3])
    if age in ("args", "legacy"):
        settings = {"args": argparse.Namespace(arch="hubert", normalize=normalize, **stated), "cfg": None}
    else:
        cfg = {"_name": None, "model": stated, "task": {"_name": "hubert_pretraining", "normalize": normalize}}
        cfg["distributed_training"] = {"ddp_backend": fairseq_classes["DDP"]()}
        if age == "omegaconf":
            from omegaconf import OmegaConf

            cfg = OmegaConf.create({k: v for k, v in cfg.items() if k != "distributed_training"})
        settings = {"args": None, "cfg": cfg}
    content = settings | {
        "model": fairseq_state(model, mode),
        "task_state": {"dictionaries": [dictionary]},
        "optimizer_history": [{"optimizer_name": "FairseqAdam"}],
        "last_optimizer_state": {"state": {0: {"exp_avg": torch.zeros(3)}}},
    }
    torch.save(content, tmp_path / "hubert.pt", _use_new_zipfile_serialization=age != "legacy")
    made = import_model(tmp_path / "hubert.pt", tmp_path / "m", read=read)
    assert read_card(made)["imported_from"] == "fairseq" and load_model(made).config.do_normalize == normalize
    assert_same_as_torchaudio(made, model, normalise=normalize)
    assert load_model(made).masked_spec_embed[0] == 0.5


def test_a_checkpoint_of_another_frame_rate_is_refused_by_name(tmp_path):
    """The strides of a fairseq file stand in its settings only; twice the last one gives 25 frames a second."""
    state = fairseq_state(torchaudio_model("layer_norm"), "layer_norm")
    *first, (channels, kernel, stride) = [list(layer) for layer in CONV]
    stated = {"encoder_attention_heads": HEADS, "layer_norm_first": True}
    stated["conv_feature_layers"] = str([*map(tuple, first), (channels, kernel, 2 * stride)])
    torch.save({"cfg": {"model": stated, "task": {"normalize": True}}, "model": state}, tmp_path / "slow.pt")
    with pytest.raises(UpstreamError, match=r"slow\.pt: the encoder gives 25 frames per second"):
        import_model(tmp_path / "slow.pt", tmp_path / "m", read=unpickle)
    assert not (tmp_path / "m").exists()


def test_fairseq_wav2vec2_and_fine_tuned_files_keep_their_encoder(tmp_path):
    model = torchaudio_model("layer_norm")
    state = {k: v for k, v in fairseq_state(model, "layer_norm").items() if not k.startswith(("final", "label"))}
    wav2vec2 = state | {"quantizer.vars": torch.zeros(1, 4, 8), "project_q.weight": torch.zeros(4, 8)}
    stated = {"encoder_attention_heads": HEADS, "layer_norm_first": True}
    torch.save(
        {"args": None, "cfg": {"model": stated, "task": {"normalize": True}}, "model": wav2vec2}, tmp_path / "w.pt"
    )
    made = import_model(tmp_path / "w.pt", tmp_path / "w", read=unpickle)
    assert isinstance(load_model(made), Wav2Vec2Model)
    assert_same_as_torchaudio(made, model, normalise=True)

    tuned = {f"w2v_encoder.w2v_model.{name}": value for name, value in state.items()}
    tuned["w2v_encoder.proj.weight"] = torch.zeros(30, 32)
    cfg = {"model": {"_name": "hubert_ctc", "w2v_args": {"model": stated, "task": {"normalize": True}}}, "task": {}}
    torch.save({"cfg": cfg, "model": tuned}, tmp_path / "tuned.pt")
    made = import_model(tmp_path / "tuned.pt", tmp_path / "t", read=unpickle)
    assert_same_as_torchaudio(made, model, normalise=True)


def test_divided_weights_are_joined_by_import_and_named_elsewhere(tmp_path):
    shape = dict(
        hidden_size=32, num_hidden_layers=3, num_attention_heads=HEADS, intermediate_size=64, conv_dim=[16] * 7,
        num_conv_pos_embeddings=16, num_conv_pos_embedding_groups=4,
    )  # fmt: skip
    torch.manual_seed(0)
    model = HubertModel(HubertConfig(**shape)).eval()
    for name, size in (("whole", "1GB"), ("divided", "30KB")):
        model.save_pretrained(tmp_path / name, max_shard_size=size)
        (tmp_path / name / "preprocessor_config.json").write_text('{"do_normalize": true}')
    parts = sorted((tmp_path / "divided").glob("model-*.safetensors"))
    assert len(parts) > 2 and not (tmp_path / "divided/model.safetensors").exists()
    with pytest.raises(UpstreamError, match=rf"divided into {len(parts)} files .*python -m upstream import"):
        load_model(tmp_path / "divided")
    assert main(["import", str(tmp_path / "divided"), "--out", str(tmp_path / "m")]) == 0
    for ours, theirs in zip(outputs(tmp_path / "m"), outputs(tmp_path / "whole"), strict=True):
        assert torch.equal(ours, theirs)
    before = read_card(tmp_path / "m")["source_sha256"]
    content = bytearray(parts[1].read_bytes())
    content[-4] ^= 1  # the last bit of a weight
    parts[1].write_bytes(content)
    import_model(tmp_path / "divided", tmp_path / "m")
    assert read_card(tmp_path / "m")["source_sha256"] != before
    parts[1].unlink()
    with pytest.raises(UpstreamError, match=rf"of {len(parts)} files of weights 1 are missing, first number 2"):
        import_model(tmp_path / "divided", tmp_path / "m")


@pytest.mark.parametrize(
    "file, kind",
    [
        ("model.safetensors", "hubert"),
        ("model.safetensors", "wav2vec2"),
        ("model.safetensors", "hubert with a head"),
        ("pytorch_model.bin", "hubert with a head"),
    ],
)
def test_transformers_folders_give_their_own_numbers(file, kind, tmp_path):
    from transformers import HubertForCTC

    shape = dict(
        hidden_size=32, num_hidden_layers=3, num_attention_heads=HEADS, intermediate_size=64, conv_dim=[16] * 7,
        num_conv_pos_embeddings=16, num_conv_pos_embedding_groups=4, feat_extract_norm="layer", vocab_size=12,
        do_stable_layer_norm=True,
    )  # fmt: skip
    torch.manual_seed(0)
    whole = {"hubert": HubertModel, "wav2vec2": Wav2Vec2Model, "hubert with a head": HubertForCTC}[kind]
    model = whole((Wav2Vec2Config if kind == "wav2vec2" else HubertConfig)(**shape)).eval()
    model.save_pretrained(tmp_path / "theirs")
    (tmp_path / "theirs" / "preprocessor_config.json").write_text('{"do_normalize": true}')
    if file == "pytorch_model.bin":
        (tmp_path / "theirs" / "model.safetensors").unlink()
        old = {
            k.replace("parametrizations.weight.original0", "weight_g").replace(
                "parametrizations.weight.original1", "weight_v"
            ): v
            for k, v in model.state_dict().items()
        }
        torch.save(old, tmp_path / "theirs" / file)
    made = import_model(tmp_path / "theirs", tmp_path / "m", read=unpickle)
    encoder = getattr(model, "hubert", model)
    with torch.no_grad():
        expected = encoder(torch.nn.functional.layer_norm(WAV, WAV.shape, eps=1e-7)[None]).last_hidden_state
    torch.testing.assert_close(outputs(made)[-1], expected, atol=2e-5, rtol=1e-4)
    assert not [name for name in load_model(made).state_dict() if "lm_head" in name]


class Trap:
    """Runs a command when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return (os.system, (f"touch '{self.mark}'",))


class Opener(Trap):
    def __reduce__(self):
        return (open, (str(self.mark), "w"))


def malicious(file: Path, form: str, trap: Trap) -> None:
    content = {"model": {"feature_extractor.conv_layers.0.0.weight": torch.zeros(1)}, "args": trap}
    if form == "raw":
        file.write_bytes(pickle.dumps({"model": {}, "args": trap}, protocol=2))
    else:
        torch.save(content, file, _use_new_zipfile_serialization=form == "zip")


def spring(trap: Trap) -> bool:
    """Whether the harmful pickle works when it is loaded without protection."""
    pickle.loads(pickle.dumps(trap, protocol=2))
    return trap.mark.exists()


@pytest.mark.parametrize("trap", [Trap, Opener])
@pytest.mark.parametrize("form", ["zip", "legacy", "raw"])
def test_a_malicious_pickle_is_refused_by_name(trap, form, tmp_path):
    made = trap(tmp_path / "executed")
    malicious(tmp_path / "evil.pt", form, made)
    with pytest.raises(UpstreamError, match="posix.system|open"):
        unpickle(tmp_path / "evil.pt")
    assert not made.mark.exists() and spring(made)


def test_a_malicious_pickle_in_a_model_folder_never_runs(tmp_path):
    made, source = Trap(tmp_path / "executed"), tmp_path / "theirs"
    HubertConfig().save_pretrained(source)
    malicious(source / "pytorch_model.bin", "zip", made)
    with pytest.raises(UpstreamError, match="pytorch_model.bin.*`posix.system`") as refusal:
        import_model(source, tmp_path / "m")
    assert "\n" not in str(refusal.value)
    assert not made.mark.exists() and not (tmp_path / "m").exists() and spring(made)


@pytest.mark.slow
def test_pickles_are_never_opened_in_the_process_of_the_caller(tmp_path, monkeypatch):
    torch.save(torchaudio_model("group_norm").state_dict(), tmp_path / "m.pt")
    for name in ("load", "Unpickler"):
        monkeypatch.setattr(pickle, name, None)
    monkeypatch.setattr(torch, "load", None)
    assert read_checkpoint(tmp_path / "m.pt").tensors
    monkeypatch.undo()


@pytest.mark.slow
def test_a_stand_in_is_inert_even_when_the_file_calls_it(tmp_path, fairseq_classes, monkeypatch):
    """A pickle can call the classes that it names; a stand-in does nothing when it is called."""
    package = tmp_path / "fairseq"
    package.mkdir()
    (package / "__init__.py").write_text(f"open({str(tmp_path / 'imported')!r}, 'w')")
    monkeypatch.syspath_prepend(tmp_path)  # the child could import a real module of that name
    torch.save({"model": {"a": torch.zeros(1)}, "args": fairseq_classes["Dictionary"]()}, tmp_path / "f.pt")
    assert set(read_checkpoint(tmp_path / "f.pt").tensors) == {"a"}
    assert not (tmp_path / "imported").exists()


def test_tensors_and_archives_larger_than_their_file_are_refused(tmp_path):
    torch.save({"model": {"a": torch.zeros(1).expand(10_000, 10_000)}}, tmp_path / "view.pt")
    with pytest.raises(UpstreamError, match=r"`a` of shape \(10000, 10000\)"):
        unpickle(tmp_path / "view.pt")
    with zipfile.ZipFile(tmp_path / "bomb.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"\0" * 10_000_000)
    with pytest.raises(UpstreamError, match="10000000 bytes"):
        read_checkpoint(tmp_path / "bomb.pt")


def test_broken_files_and_other_networks_are_refused(tmp_path):
    torch.save(torch.nn.Linear(2, 2).state_dict(), tmp_path / "linear.pt")
    with pytest.raises(UpstreamError, match=r"conv_layers.0.*(bias|weight), (bias|weight)"):
        import_model(tmp_path / "linear.pt", tmp_path / "m", read=unpickle)
    (tmp_path / "text.pt").write_text("مرحبا")
    data = (tmp_path / "linear.pt").read_bytes()
    (tmp_path / "cut.pt").write_bytes(data[: len(data) // 2])
    for name in ("text.pt", "cut.pt"):
        with pytest.raises(UpstreamError, match="not a checkpoint"):
            unpickle(tmp_path / name)
    save_file({"a": torch.zeros(100)}, tmp_path / "cut.safetensors")
    (tmp_path / "cut.safetensors").write_bytes((tmp_path / "cut.safetensors").read_bytes()[:-40])
    with pytest.raises(UpstreamError, match="cut.safetensors"):
        read_checkpoint(tmp_path / "cut.safetensors")
    with pytest.raises(UpstreamError, match="pytorch_model.bin"):
        import_model(tmp_path, tmp_path / "m")
    assert not (tmp_path / "m").exists()


def test_facts_that_a_file_lacks_must_be_given(tmp_path, capsys):
    file = tmp_path / "hubert.safetensors"
    save_file(torchaudio_model("group_norm").state_dict(), file)
    with pytest.raises(UpstreamError, match="width 32: add --heads"):
        import_model(file, tmp_path / "m")
    with pytest.raises(UpstreamError, match="7 heads"):
        import_model(file, tmp_path / "m", "auto", EncoderSettings(heads=7))
    with pytest.raises(UpstreamError, match="torchaudio, not of fairseq"):
        import_model(file, tmp_path / "m", "fairseq", EncoderSettings(heads=4))
    command = ["import", str(file), "--out", str(tmp_path / "m")]
    assert main([*command, "--heads", "4", "--normalise", "--layer-norm-first"]) == 0
    config = load_model(tmp_path / "m").config
    assert config.do_normalize is True and config.do_stable_layer_norm is True
    assert main(command) == 2
    error = capsys.readouterr().err
    assert "add --heads N" in error and len(error.splitlines()) == 1
    state = torchaudio_model("group_norm").state_dict()
    del state["encoder.transformer.layers.1.attention.q_proj.bias"]
    save_file(state | {"encoder.transformer.extra": torch.zeros(1)}, file)
    with pytest.raises(UpstreamError, match=r"`encoder.layers.1.attention.q_proj.bias` \(1 missing, 1 left"):
        import_model(file, tmp_path / "n", "auto", EncoderSettings(heads=4))


def test_convolutions_are_parsed_without_eval():
    assert conv_layers(CONV_TEXT) == [list(layer) for layer in CONV]
    for text in ("__import__('os').system('x')", "[(1,2,3)] * 9999999", "[(1,2)]", "1", "[" * 500, "[(1,2,3)"):
        with pytest.raises(UpstreamError, match="convolutions"):
            conv_layers(text)


def test_a_transformers_folder_with_a_wrong_config_is_refused(tmp_path):
    folder = tmp_path / "theirs"
    config = HubertConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, conv_dim=[8] * 7,
        num_conv_pos_embeddings=16, num_conv_pos_embedding_groups=4,
    )  # fmt: skip
    HubertModel(config).save_pretrained(folder)
    config.num_hidden_layers = 3
    config.save_pretrained(folder)
    with pytest.raises(UpstreamError, match="num_hidden_layers"):
        import_model(folder, tmp_path / "m")
    assert not (tmp_path / "m").exists()

"""ASR on ESPnet: inputs, scores, and one run of the whole recipe."""

from __future__ import annotations

import csv
import re
import subprocess
import sys
import unicodedata
from pathlib import Path

import jiwer
import numpy as np
import pytest
import yaml

from corpora.audio import audio_info, read_audio, write_audio
from corpora.datadir import Utterance, read_datadir, write_datadir
from downstream import DownstreamError
from downstream.espnet.config import FrontEnd, samples_per_frame, training_config
from downstream.espnet.data import DumpConfig, dump, make_tokens, open_tokens, write_shapes
from downstream.espnet.decode import System, decode
from downstream.espnet.score import read_decoded, score_set, write_results, write_scores

WORDS = ("سَلامٌ", "كتاب", "بيت", "شمس", "قمر")


def noise(path: Path, samples: int, seed: int = 0) -> Path:
    write_audio(path, 0.1 * np.random.default_rng(seed).standard_normal(samples).astype(np.float32))
    return path


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Six utterances of two speakers: two cut from one recording, one without a letter, one very short."""
    long = noise(tmp_path / "long recording.wav", 48000)
    rows = [
        Utterance("a-1", "a", long, 20000, 0, 20000, text="سَلامٌ كتاب"),
        Utterance("a-2", "a", long, 16000, 30000, 46000, text="بيت"),
        Utterance("a-3", "a", noise(tmp_path / "a3.wav", 16000, 1), 16000, 0, 16000, text="،"),
        Utterance("b-1", "b", noise(tmp_path / "b1.wav", 24000, 2), 24000, 0, 24000, text="شمس قمر"),
        Utterance("b-2", "b", noise(tmp_path / "b2.wav", 800, 3), 800, 0, 800, text="قمر"),
    ]
    write_datadir(tmp_path / "data" / "train", rows)
    return tmp_path / "data" / "train"


def test_dump_cuts_segments_to_the_sample_and_lists_unusable_utterances(data: Path, tmp_path: Path) -> None:
    out = dump(data, tmp_path / "dump" / "train", DumpConfig(text_profile="mgb"))
    dumped = {u.utt_id: u for u in read_datadir(out)}
    assert sorted(dumped) == ["a-1", "a-2", "b-1"]
    assert all(u.start is None for u in dumped.values())
    original = {u.utt_id: u for u in read_datadir(data)}
    np.testing.assert_allclose(
        read_audio(dumped["a-2"].audio), read_audio(original["a-2"].audio, 30000, 46000), atol=1 / 32768
    )
    assert dumped["a-1"].text == "سلام كتاب"
    left_out = (out / "left_out.tsv").read_text(encoding="utf-8")
    assert "a-3\tno text" in left_out and "b-2\tshorter than 0.1 s" in left_out


def test_dump_of_a_scored_set_keeps_every_utterance(data: Path, tmp_path: Path) -> None:
    out = dump(data, tmp_path / "dump" / "train", DumpConfig(scored=True))
    assert len(read_datadir(out)) == 5


def test_speed_perturbation_adds_speakers_and_keeps_text(data: Path, tmp_path: Path) -> None:
    out = dump(data, tmp_path / "dump" / "train", DumpConfig(speeds=(0.9, 1.0)))
    dumped = {u.utt_id: u for u in read_datadir(out)}
    assert {"a-1", "sp0.9-a-1"} <= set(dumped)
    slower = dumped["sp0.9-a-1"]
    assert slower.samples == pytest.approx(20000 / 0.9, abs=2)
    assert slower.text == dumped["a-1"].text and slower.speaker == "sp0.9-a"
    assert audio_info(slower.audio).samples == slower.samples


def test_character_list_has_espnets_form(data: Path, tmp_path: Path) -> None:
    tokens = make_tokens(dump(data, tmp_path / "d", DumpConfig()), tmp_path / "char", "char")
    names = tokens.list_file.read_text(encoding="utf-8").splitlines()
    assert names[:2] == ["<blank>", "<unk>"] and names[-1] == "<sos/eos>"
    assert "<space>" in names and "َ" in names
    assert tokens.tokenizer().text2tokens("بيت قمر") == ["ب", "ي", "ت", "<space>", "ق", "م", "ر"]
    assert set(tokens.tokenizer().text2tokens("سَلامٌ كتاب")) <= set(names)


def test_sentencepiece_list_covers_its_own_pieces_once(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    rows = [
        Utterance(f"a-{i:03d}", "a", tmp_path / "x.wav", 16000, text=" ".join(generator.choice(WORDS, 4)))
        for i in range(80)
    ]
    noise(tmp_path / "x.wav", 16000)
    write_datadir(tmp_path / "data", rows)
    tokens = make_tokens(tmp_path / "data", tmp_path / "bpe", "bpe", 18)
    names = tokens.list_file.read_text(encoding="utf-8").splitlines()
    assert len(names) == len(set(names)) == tokens.size()
    pieces = tokens.tokenizer().text2tokens("كتاب بيت")
    assert set(pieces) <= set(names) and "".join(pieces).replace("▁", " ").strip() == "كتاب بيت"
    assert open_tokens(tmp_path / "bpe").bpe_model.is_file()
    with pytest.raises(DownstreamError, match="5000"):
        make_tokens(tmp_path / "data", tmp_path / "big", "bpe", 5000)
    assert not (tmp_path / "big").exists()


def test_sentencepiece_gives_back_every_character(tmp_path: Path) -> None:
    words = [
        "ﷲ",
        "ﻻ",
        "٣٤",
        "۵",
        "½",
        "ｗ",
        "x²",
        "أكل",
        unicodedata.normalize("NFD", "آمن"),
        "کتاب",
        "ـب",
        "«لا»",
        "É",
    ]
    generator = np.random.default_rng(0)
    texts = [" ".join(words), *(" ".join(generator.choice(words, 4)) for _ in range(80))]
    noise(tmp_path / "x.wav", 16000)
    rows = [Utterance(f"a-{i:03d}", "a", tmp_path / "x.wav", 16000, text=text) for i, text in enumerate(texts)]
    write_datadir(tmp_path / "data", rows)
    tokenizer = make_tokens(tmp_path / "data", tmp_path / "bpe", "bpe", 34).tokenizer()
    for text in texts:
        assert tokenizer.tokens2text(tokenizer.text2tokens(text)) == text
    write_datadir(tmp_path / "data", [*rows, Utterance("b-1", "b", tmp_path / "x.wav", 16000, text="▁ا")])
    with pytest.raises(DownstreamError, match="U.2581"):
        make_tokens(tmp_path / "data", tmp_path / "other", "bpe", 34)


def test_shapes_leave_out_utterances_that_ctc_cannot_align(tmp_path: Path) -> None:
    noise(tmp_path / "x.wav", 6400)
    texts = ["ا" * 5, "اب" * 5, *["ا"] * 40]  # 10 frames: five equal letters need nine, ten different ones ten
    rows = [Utterance(f"a-{i:02d}", "a", tmp_path / "x.wav", 6400, text=text) for i, text in enumerate(texts)]
    rows.append(Utterance("b-1", "b", tmp_path / "x.wav", 6400, text="ا" * 6))  # needs eleven
    write_datadir(tmp_path / "data", rows)
    tokens = make_tokens(tmp_path / "data", tmp_path / "char", "char")
    out = write_shapes(tmp_path / "data", tmp_path / "shapes", tokens, 640, training=True)
    speech = dict(line.split() for line in (out / "speech_shape").read_text().splitlines())
    text = dict(line.split() for line in (out / "text_shape").read_text().splitlines())
    assert set(speech) == set(text) and "b-1" not in speech and {"a-00", "a-01"} <= set(speech)
    assert speech["a-00"] == "6400" and text["a-01"] == f"10,{tokens.size()}"
    assert (out / "left_out.tsv").read_text() == "b-1\t10 encoder frames for 11 tokens\n"
    with pytest.raises(DownstreamError, match="of 43 "):
        write_shapes(tmp_path / "data", tmp_path / "shapes", tokens, 6400, training=True)


def test_configuration_of_each_front_end(root: Path, tmp_path: Path) -> None:
    base = root / "egs/TEMPLATE/asr1/conf/tuning/train_asr_ctc.yaml"
    filterbank = training_config(base, FrontEnd())
    (tmp_path / "config.json").write_text('{"hidden_size": 48}')
    frozen = training_config(base, FrontEnd("harness_custom", tmp_path), ["max_epoch=3"])
    tuned = training_config(base, FrontEnd("harness_custom", tmp_path, freeze=False))
    assert samples_per_frame(filterbank) == samples_per_frame(frozen) == 640  # 25 encoder frames a second
    assert frozen["preencoder_conf"] == {"input_size": 48, "output_size": 80}
    assert frozen["freeze_param"] == ["frontend.upstream"] and tuned["freeze_param"] == []
    assert frozen["max_epoch"] == 3 and frozen["frontend_conf"]["frontend_conf"]["path_or_url"] == str(tmp_path)
    with pytest.raises(DownstreamError, match="`encoder_config`"):
        training_config(base, FrontEnd(), ["encoder_config.num_blocks=3"])
    with pytest.raises(DownstreamError, match="preencoder_conf.input_size"):
        training_config(base, FrontEnd("hubert_base"))
    with pytest.raises(DownstreamError, match="none"):
        training_config(base, FrontEnd("harness_custom", tmp_path / "none"))


@pytest.mark.parametrize("name", ["train_asr.yaml", "tuning/train_asr_conformer.yaml", "tuning/train_asr_ctc.yaml"])
def test_every_configuration_says_how_it_subsamples(root: Path, name: str) -> None:
    config = training_config(root / "egs/TEMPLATE/asr1/conf" / name, FrontEnd())
    assert samples_per_frame(config) == 640 and config["normalize"] == "utterance_mvn"


def scored(tmp_path: Path, hypotheses: str) -> Path:
    noise(tmp_path / "x.wav", 8000)
    rows = [
        Utterance("a-1", "a", tmp_path / "x.wav", 8000, text="سَلامٌ عَلَيْكُم"),
        Utterance("b-1", "b", tmp_path / "x.wav", 8000, text="كتاب"),
        Utterance("c-1", "c", tmp_path / "x.wav", 8000, text="،"),
    ]
    write_datadir(tmp_path / "data" / "test", rows)
    (tmp_path / "text").write_text(hypotheses, encoding="utf-8")
    return tmp_path / "data" / "test"


def test_scores_are_those_of_jiwer_and_empty_references_are_not_scored(tmp_path: Path) -> None:
    data = scored(tmp_path, "a-1 سلام عليكن\nb-1 \nc-1 كلام\n")
    rows = {row["metric"]: row for row in score_set(read_decoded("fbank", data, tmp_path / "text"), "mgb")}
    references, hypotheses = ["سلام عليكم", "كتاب"], ["سلام عليكن", ""]
    assert float(rows["wer"]["value"]) == pytest.approx(jiwer.wer(references, hypotheses), abs=1e-6)
    assert float(rows["cer"]["value"]) == pytest.approx(jiwer.cer(references, hypotheses), abs=1e-6)
    assert rows["wer"]["n"] == "2" and rows["wer"]["speakers"] == "2"


def test_an_utterance_that_was_not_decoded_is_an_error(tmp_path: Path) -> None:
    data = scored(tmp_path, "a-1 سلام\nc-1 x\n")
    with pytest.raises(DownstreamError, match="1 of 3 .* b-1"):
        read_decoded("fbank", data, tmp_path / "text")


def test_results_page_sets_systems_side_by_side(tmp_path: Path) -> None:
    data = scored(tmp_path, "a-1 سلام عليكم\nb-1 كتاب\nc-1 \n")
    for system in ("fbank", "harness_st"):
        folder = tmp_path / "exp" / system / "decode_x" / "test"
        write_scores(folder, read_decoded(system, data, tmp_path / "text"), "mgb")
        (tmp_path / "exp" / system / "command").write_text(f"./asr.sh --upstream {system}  # {system}, commit 0\n")
    text = write_results(tmp_path / "exp", "ASR on a corpus").read_text(encoding="utf-8")
    assert "| fbank | x | 0.0 [0.0, 0.0] | 0.0 [0.0, 0.0] | 2 | 2 | mgb |" in " ".join(text.split())
    assert text.count("harness_st") >= 3 and 'dir="rtl">سلام عليكم<' in text and "bootstrap by speaker" in text
    assert "--upstream fbank  # fbank, commit 0\n./asr.sh --upstream harness_st  # harness_st, commit 0\n" in text
    assert "one speaker" not in text


def test_results_of_one_speaker_say_so(tmp_path: Path) -> None:
    data = scored(tmp_path, "a-1 سلام عليكم\nb-1 كتاب\nc-1 \n")
    rows = [row for row in read_datadir(data) if row.speaker == "a"]
    write_datadir(data, rows)
    decoded = read_decoded("fbank", data, tmp_path / "text")
    write_scores(tmp_path / "exp" / "fbank" / "decode_x" / "test", decoded, "mgb")
    assert "one speaker" in write_results(tmp_path / "exp", "x").read_text(encoding="utf-8")


@pytest.fixture
def stand_in(tmp_path: Path) -> tuple[Path, System, list[str]]:
    """A test set, a system, and a launcher that stands in for ESPnet: it writes ids as hypotheses, or fails once."""
    noise(tmp_path / "x.wav", 8000)
    rows = [Utterance(f"a-{i}", "a", tmp_path / "x.wav", 8000, text="ا") for i in range(5)]
    write_datadir(tmp_path / "data" / "test", rows)
    program = tmp_path / "launch.py"
    program.write_text(
        "import pathlib, sys\n"
        "options = dict(zip(sys.argv, sys.argv[1:]))\n"
        "folder = pathlib.Path(options['--output_dir'])\n"
        "if folder.name == '2' and not pathlib.Path(__file__).with_name('fixed').exists():\n"
        "    sys.exit('no memory left')\n"
        "keys = [line.split()[0] for line in open(options['--key_file'])]\n"
        "(folder / '1best_recog').mkdir()\n"
        "(folder / '1best_recog' / 'text').write_text(''.join(f'{key} hyp {key}\\n' for key in keys))\n"
        "with open(pathlib.Path(__file__).with_name('ran'), 'a') as file:\n"
        "    file.write(folder.name)\n"
    )
    for name in ("train.yaml", "model.pth", "decode.yaml"):
        (tmp_path / name).write_text(name)
    system = System(tmp_path / "train.yaml", tmp_path / "model.pth", tmp_path / "decode.yaml")
    return tmp_path / "data" / "test", system, [sys.executable, str(program)]


def test_decoding_continues_after_a_failed_job(stand_in, tmp_path: Path) -> None:
    data, system, launcher = stand_in
    with pytest.raises(DownstreamError, match="1 of 2 .*/2/log: no memory left"):
        decode(data, tmp_path / "out", system, jobs=2, launcher=launcher)
    assert not (tmp_path / "out" / "text").exists()
    (tmp_path / "fixed").touch()
    text = decode(data, tmp_path / "out", system, jobs=2, launcher=launcher).read_text()
    assert text == "".join(f"a-{i} hyp a-{i}\n" for i in range(5))
    assert (tmp_path / "ran").read_text() == "12"  # the first job ran once
    system.model_file.write_text("other weights")
    decode(data, tmp_path / "out", system, jobs=2, launcher=launcher)
    assert sorted((tmp_path / "ran").read_text()) == ["1", "1", "2", "2"]


@pytest.mark.slow
def test_the_whole_recipe_on_a_model_of_ours(root: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Stages 2 to 8 with a frozen tiny student; training runs in a spawned process, as ESPnet does for several GPUs.

    A spawned process does not have the names that its parent registered: the task must register them.
    """
    from upstream.model.encoder import build_encoder
    from upstream.model.family import Geometry
    from upstream.model.modeldir import save_model

    model = build_encoder(Geometry("tiny", 1, 32, 2, 64, "logmel", pos_conv_kernel=16, pos_conv_groups=2))
    save_model(model.eval(), tmp_path / "tiny", {"name": "tiny"})
    for number, name in enumerate(("train", "dev", "test")):
        rows = [
            Utterance(
                f"{s}-{i}", s, noise(tmp_path / f"{name}{s}{i}.wav", 16000 + 800 * i, 10 * number + i),
                16000 + 800 * i, text=f"{WORDS[i % 5]} {WORDS[(i + 1) % 5]}",
            )
            for s in ("a", "b") for i in range(3)
        ]  # fmt: skip
        write_datadir(tmp_path / "data" / name, rows)
    exp = tmp_path / "exp"
    arguments = [
        "./run.sh", "--data", str(tmp_path / "data"), "--exp", str(exp), "--nj", "1", "--tag", "tiny",
        "--upstream", "harness_custom", "--upstream_path", str(tmp_path / "tiny"), "--set", "max_epoch=1",
        "--set", "encoder_conf.num_blocks=1", "--set", "encoder_conf.output_size=16",
        "--set", "encoder_conf.attention_heads=2", "--set", "encoder_conf.linear_units=16",
        "--set", "num_att_plot=0",
    ]  # fmt: skip
    environment = {"PATH": "/usr/bin:/bin", "HARNESS_VENV": sys.prefix, "OMP_NUM_THREADS": "1", "MPLBACKEND": "Agg"}
    run = {"cwd": root / "egs/everyayah/asr1", "env": environment, "capture_output": True, "text": True}
    done = subprocess.run([*arguments, "--stage", "2", "--stop_stage", "4"], timeout=1500, **run)
    assert done.returncode == 0, done.stderr[-2000:]
    train_in_a_spawned_process(exp)
    log = capfd.readouterr().err
    frozen = re.findall(r"Setting (frontend\.upstream\.\S+)\.requires_grad = False", log)
    assert len(frozen) > 10 and "1epoch results" in log
    done = subprocess.run([*arguments, "--stage", "6"], timeout=1500, **run)
    assert done.returncode == 0, done.stderr[-2000:]
    scores = list(csv.DictReader(open(next(exp.glob("tiny/decode_*/test/scores.csv")), encoding="utf-8")))
    assert {row["metric"] for row in scores} == {"wer", "cer"} and all(row["n"] == "6" for row in scores)
    assert "tiny" in (exp / "RESULTS.md").read_text(encoding="utf-8")


def train_in_a_spawned_process(exp: Path) -> None:
    """The training command of asr.sh, started at `main_worker` like ESPnet's processes for several GPUs."""
    from multiprocessing import get_context

    from downstream.espnet.task import HarnessASRTask

    folder, dump = exp / "tiny", exp / "dump_mgb"
    command = ["--config", str(folder / "train.yaml"), "--output_dir", str(folder), "--ngpu", "0"]
    command += ["--token_type", "char", "--token_list", str(exp / "char_mgb" / "tokens.txt")]
    for part, source in {"train": dump / "train_sp1", "valid": dump / "dev"}.items():
        for file, kind in (("wav.scp,speech", "sound"), ("text,text", "text")):
            command += [f"--{part}_data_path_and_name_and_type", f"{source}/{file},{kind}"]
        for shape in ("speech_shape", "text_shape"):
            command += [f"--{part}_shape_file", str(folder / "shapes" / part / shape)]
    args = HarnessASRTask.get_parser().parse_args(command)
    args.distributed = False  # ESPnet's `main` sets it
    process = get_context("spawn").Process(target=HarnessASRTask.main_worker, args=(args,))
    process.start()
    process.join(1500)
    assert process.exitcode == 0


def test_configurations_are_yaml_mappings(root: Path) -> None:
    for path in (root / "egs/TEMPLATE/asr1/conf").rglob("*.yaml"):
        assert isinstance(yaml.safe_load(path.read_text(encoding="utf-8")), dict), path


@pytest.mark.parametrize(
    "front_end, hop, refused", [("s3prl", 640, True), ("s3prl", 320, False), ("default", 160, False)]
)
def test_training_refuses_an_upstream_of_another_frame_rate(monkeypatch, front_end, hop, refused) -> None:
    """Shapes and the CTC limit are counted before the upstream is built."""
    from types import SimpleNamespace

    from espnet2.tasks.asr import ASRTask

    from downstream.espnet.task import HarnessASRTask

    built = SimpleNamespace(frontend=SimpleNamespace(hop_length=hop))
    monkeypatch.setattr(ASRTask, "build_model", classmethod(lambda cls, args: built))
    args = SimpleNamespace(frontend=front_end, frontend_conf={"frontend_conf": {"upstream": "slow"}})
    if refused:
        with pytest.raises(DownstreamError, match="^slow: 25 frames per second"):
            HarnessASRTask.build_model(args)
    else:
        assert HarnessASRTask.build_model(args) is built

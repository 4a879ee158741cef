"""Fixtures: small labelled sets of tones, tiny upstreams, results with a known share of errors."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from corpora.audio import SAMPLE_RATE, write_audio
from corpora.datadir import Utterance, write_datadir
from downstream.score import metrics
from downstream.score.results import Prediction, upsert, write_predictions

LETTERS = "ابتج"
EMOTIONS = ("angry", "calm", "sad")


def tone(hertz: float, seconds: float, seed: int, loud: float = 0.3) -> np.ndarray:
    """A tone with a little noise, float32 (n,)."""
    samples = int(seconds * SAMPLE_RATE)
    noise = np.random.default_rng(seed).standard_normal(samples) * 0.01
    return (loud * np.sin(2 * np.pi * hertz * np.arange(samples) / SAMPLE_RATE) + noise).astype(np.float32)


def spoken(text: str, seed: int) -> np.ndarray:
    """Each letter as 120 ms of its own tone, a space as noise."""
    hertz = {letter: 400.0 * (number + 1) for number, letter in enumerate(LETTERS)}
    parts = [tone(hertz.get(c, 50.0), 0.12, seed * 100 + i, 0.3 if c in hertz else 0.0) for i, c in enumerate(text)]
    return np.concatenate(parts)


@pytest.fixture(scope="session")
def speak() -> Callable[[str, int], np.ndarray]:
    """speak(text, seed) -> its samples, a tone for each letter."""
    return spoken


@pytest.fixture(scope="session")
def write_set() -> Callable[..., Path]:
    """write_set(folder, "asr", {"train": 12, ...}) -> folder with a data directory a split; two speakers each."""

    def write(folder: Path, task: str, sizes: dict[str, int]) -> Path:
        for number, (split, size) in enumerate(sizes.items()):
            utterances = []
            for i in range(size):
                speaker = f"{split}{i % 2}"
                utt_id = f"{speaker}-{i:03d}"
                generator = np.random.default_rng([number, i])
                label = {}
                if task == "asr":
                    words = ["".join(generator.choice(list(LETTERS), 2)) for _ in range(int(generator.integers(1, 4)))]
                    label = {"text": " ".join(words)}
                    samples = spoken(label["text"], 1000 * number + i)
                else:
                    kind = i % len(EMOTIONS)
                    label = {"emotion" if task == "ser" else "dialect": EMOTIONS[kind]}
                    # CMVN removes the mean of fbank, so utterances of different classes must change over time.
                    samples = np.concatenate(
                        [tone(500, 0.2, 1000 * number + i), tone(300.0 * (kind + 1), 0.2 + 0.01 * i, i)]
                    )
                audio = folder / "audio" / f"{utt_id}.wav"
                write_audio(audio, samples)
                utterances.append(Utterance(utt_id, speaker, audio, len(samples), **label))
            write_datadir(folder / split, utterances)
        return folder

    return write


@pytest.fixture
def make_set(tmp_path: Path, write_set: Callable[..., Path]) -> Callable[..., Path]:
    """make_set("asr", {"train": 12, ...}) -> the same in a folder of the test."""
    return lambda task, sizes, name="data": write_set(tmp_path / name / task, task, sizes)


@pytest.fixture(scope="session")
def tiny_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A models folder with `tiny_a` and `tiny_b`: two layers, width 32, random weights."""
    import torch

    from upstream.model.encoder import build_encoder
    from upstream.model.family import geometry
    from upstream.model.modeldir import save_model

    folder = tmp_path_factory.mktemp("models")
    for seed, name in enumerate(("tiny_a", "tiny_b")):
        torch.manual_seed(seed)
        model = build_encoder(geometry("mini_hst", width=32, ffn=64)).eval()
        save_model(model, folder / name, {"name": name})
    return folder


class MadeUp:
    """Results of runs that never were: predictions with a known share of errors, and the files beside them."""

    WORDS = ("كِتَاب", "باب", "مدرسة", "قمر", "شمس")
    EMOTIONS = ("neutral", "angry", "sad")
    # Probability that a word or label is wrong
    ERRORS = {
        "fbank": 0.6, "random_l": 0.6, "harness_l_it1": 0.25, "harness_l": 0.2, "harness_s": 0.2, "harness_st": 0.5
    }  # fmt: skip
    PARAMETERS = {"random_l": 1.5, "harness_l_it1": 1.5, "harness_l": 1.5, "harness_s": 0.8, "harness_st": 0.2}
    STATES = {"fbank": 1, "random_l": 5, "harness_l_it1": 5, "harness_l": 5, "harness_s": 3, "harness_st": 3}

    @classmethod
    def predict(cls, task: str, error: float, seed: int, fold: int | None) -> list[Prediction]:
        """40 utterances of each of 8 speakers (2 per fold); the same utterances for every upstream."""
        references, noise = np.random.default_rng([1, fold or 0]), np.random.default_rng([2, seed, fold or 0])
        pool = cls.WORDS if task == "asr" else cls.EMOTIONS
        people = range(8) if fold is None else range(2 * fold, 2 * fold + 2)
        made = []
        for person in people:
            for number in range(40):
                size = 4 if task == "asr" else 1
                right = [pool[i] for i in references.integers(0, len(pool), size)]
                wrong = noise.random(size) < error
                said = " ".join(pool[0] if bad else word for word, bad in zip(right, wrong, strict=True))
                made.append(Prediction(f"s{person}-{number:02d}", f"s{person}", "test", " ".join(right), said))
        return made

    @classmethod
    def add(
        cls, exp: Path, task: str, upstream: str, *, seed: int = 0, fold: int | None = None, **changes: str
    ) -> Path:
        """One run with its rows: predictions.csv, and results.csv as downstream writes it."""
        name = f"seed{seed}" + ("" if fold is None else f"_fold{fold}")
        apart = "".join(changes.get(key, "")[-8:] for key in ("protocol", "finetune", "budget")) or "aaaa0000"
        run = exp / "probes" / task / upstream / (apart + name)
        error = float(changes.pop("error", cls.ERRORS.get(upstream, 0.0)))
        predictions = cls.predict(task, error, seed, fold)
        write_predictions(run / "predictions.csv", predictions)
        names = {"asr": ("cer", "wer"), "ser": ("ua", "wa", "macro_f1"), "did": ("accuracy", "macro_f1")}[task]
        pairs = [p.reference for p in predictions], [p.hypothesis for p in predictions]
        common = {
            "recipe": "mini", "upstream": upstream, "task": task, "corpus": "mini", "split": "test", "head": "linear",
            "protocol": "light@aaaa0000", "n": len(predictions), "seed": seed, "finetune": "frozen", "lr": 0.001,
            "wall_s": 12.5, "commit": "c0ffee", "run_dir": str(run), "text_profile": "none" if task == "asr" else "",
            "front_end": "logmel", "fold": "" if fold is None else fold, "params_m": cls.PARAMETERS.get(upstream, ""),
        }  # fmt: skip
        rows = [common | changes | {"metric": name, "value": metrics.value(name, *pairs)} for name in names]
        rows += [common | changes | {"metric": name, "value": 0.123, "split": "dev"} for name in names]
        upsert(exp / "results.csv", rows)
        return run

    @classmethod
    def add_details(cls, run: Path, upstream: str, metric: str) -> None:
        """What a run leaves besides: command, dev values, layer weights, learning curve (two rates, one chosen)."""
        (run / "command").write_text("downstream benchmark --recipe mini --tasks 'asr,ser'\n", encoding="utf-8")
        (run / "cell.json").write_text(json.dumps({"dev": {"0.001": 0.3, "0.01": 0.4}}), encoding="utf-8")
        states = cls.STATES[upstream]
        weights = {"layers": list(range(states)), "weights": [1 / states] * states, "normalised": True}
        (run / "layer_weights.json").write_text(json.dumps(weights), encoding="utf-8")
        lines = ["lr,step,train_loss,dev_loss,metric,dev"]
        lines += [f"{lr},{step},{2 - step / 100},,{metric},{step / 100}" for lr in (0.001, 0.01) for step in (20, 40)]
        (run / "curve.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")

    @classmethod
    def add_costs(cls, exp: Path) -> None:
        header = "upstream,front_end,iteration,layers,width,params_m,macs_g_per_s,delta_s,rtf_cpu,threads,seconds,runs"
        lines = [
            f"{u},logmel,2,4,128,{p},{p / 3:.3f},{100 * (1 - p / 1.5):.2f},0.0123,2,10.0,5"
            for u, p in cls.PARAMETERS.items()
        ]
        (exp / "compression.csv").write_text("\n".join([header, *lines]) + "\n")

    @classmethod
    def add_training(cls, exp: Path) -> None:
        for model in ("hl_it1", "hst"):
            (exp / model).mkdir()
            (exp / model / "metrics.csv").write_text(
                "step,train_masked_accuracy,valid_masked_accuracy\n100,0.2,0.19\n200,0.3,0.28\n"
            )


@pytest.fixture(scope="session")
def made_up() -> type[MadeUp]:
    """Makes results trees that the report can read."""
    return MadeUp

"""Invented results for the tests of the report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from downstream.report.columns import Column, Predictions, make_columns
from downstream.report.rows import is_test, read_rows
from downstream.report.tables import UpstreamFacts
from downstream.score import metrics
from downstream.score.results import Prediction, upsert, write_predictions


class FakeResults:
    """Results of invented runs: predictions with a known error rate, and the other files of run directories."""

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
        """Predictions of 40 utterances of each of 8 speakers (2 per fold); all upstreams have the same utterances."""
        references, noise = np.random.default_rng([1, fold or 0]), np.random.default_rng([2, seed, fold or 0])
        pool = cls.WORDS if task == "asr" else cls.EMOTIONS
        people = range(8) if fold is None else range(2 * fold, 2 * fold + 2)
        predictions = []
        for person in people:
            for number in range(40):
                size = 4 if task == "asr" else 1
                right = [pool[i] for i in references.integers(0, len(pool), size)]
                wrong = noise.random(size) < error
                hypothesis = " ".join(pool[0] if bad else word for word, bad in zip(right, wrong, strict=True))
                predictions.append(
                    Prediction(f"s{person}-{number:02d}", f"s{person}", "test", " ".join(right), hypothesis)
                )
        return predictions

    @classmethod
    def add(
        cls, exp: Path, task: str, upstream: str, *, seed: int = 0, fold: int | None = None, **changes: str
    ) -> Path:
        """Add one run: its predictions.csv, and its rows in results.csv."""
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
        """Add the other files of a run: command, dev values, layer weights, learning curve (two learning rates)."""
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
        """Write compression.csv."""
        header = "upstream,front_end,iteration,layers,width,params_m,macs_g_per_s,delta_s,rtf_cpu,threads,seconds,runs"
        lines = [
            f"{u},logmel,2,4,128,{p},{p / 3:.3f},{100 * (1 - p / 1.5):.2f},0.0123,2,10.0,5"
            for u, p in cls.PARAMETERS.items()
        ]
        (exp / "compression.csv").write_text("\n".join([header, *lines]) + "\n")

    @classmethod
    def add_training(cls, exp: Path) -> None:
        """Write metrics.csv of two pre-training runs."""
        for model in ("hl_it1", "hst"):
            (exp / model).mkdir()
            (exp / model / "metrics.csv").write_text(
                "step,train_masked_accuracy,valid_masked_accuracy\n100,0.2,0.19\n200,0.3,0.28\n"
            )


@pytest.fixture(scope="session")
def fake_results() -> type[FakeResults]:
    """Writes folders of results for the report."""
    return FakeResults


@pytest.fixture(scope="package")
def real_exp(tmp_path_factory: pytest.TempPathFactory, fake_results: Any) -> Path:
    """ASR and SER, two seeds; the student harness_st is much worse than the teacher."""
    folder = tmp_path_factory.mktemp("root") / "exp" / "open_arabic"
    for upstream in ("fbank", "harness_l", "harness_s", "harness_st"):
        for seed in (0, 1):
            kind = {"corpus": "real", "recipe": "open_arabic", "finetune": "probe"}
            run = fake_results.add(folder, "asr", upstream, seed=seed, **kind)
            fake_results.add_details(run, upstream, "cer")
            fake_results.add(folder, "ser", upstream, seed=seed, **kind)
    fake_results.add_costs(folder)
    return folder


@pytest.fixture(scope="package")
def columns(real_exp: Path) -> list[Column]:
    """The columns of `real_exp`."""
    return make_columns(
        [row for row in read_rows(real_exp / "results.csv") if is_test(row.split)], Predictions(real_exp)
    )


@pytest.fixture(scope="session")
def known() -> dict[str, UpstreamFacts]:
    """Parameters saved by the models of `real_exp`."""
    sizes = {"harness_l": 0.0, "harness_s": 46.7, "harness_st": 86.7}
    return {name: UpstreamFacts(delta_s=delta) for name, delta in sizes.items()}

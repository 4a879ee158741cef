"""ESPnet's ASR task that registers our upstreams in every process."""

from __future__ import annotations

import argparse
from typing import Any

from espnet2.tasks.asr import ASRTask

import upstream
from corpora.audio import SAMPLE_RATE
from downstream import DownstreamError
from downstream.espnet.config import HOP


class HarnessASRTask(ASRTask):
    """`ASRTask` whose workers have the `harness_*` upstreams.

    With several GPUs ESPnet spawns one process per GPU. It starts at `main_worker` without the names that the parent
    registered.
    """

    @classmethod
    def main_worker(cls, args: argparse.Namespace) -> None:
        """Register, then train as ESPnet does."""
        upstream.register("s3prl", "transformers")
        super().main_worker(args)

    @classmethod
    def build_model(cls, args: argparse.Namespace) -> Any:
        """ESPnet's model. Raises DownstreamError for an upstream of another frame rate than the shapes assume."""
        model = super().build_model(args)
        hop = getattr(model.frontend, "hop_length", None)
        if args.frontend == "s3prl" and hop != HOP["s3prl"]:
            name = args.frontend_conf["frontend_conf"]["upstream"]
            raise DownstreamError(
                f"{name}: {SAMPLE_RATE / hop:.4g} frames per second (one every {hop} samples), but recipes with an "
                f"upstream need {SAMPLE_RATE // HOP['s3prl']}; choose another upstream"
            )
        return model

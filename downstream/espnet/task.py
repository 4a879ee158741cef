"""ESPnet's ASR task that registers our upstreams in every process."""

from __future__ import annotations

import argparse

from espnet2.tasks.asr import ASRTask

import upstream


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

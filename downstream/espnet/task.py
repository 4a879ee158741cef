"""ESPnet's ASR task with our upstreams: names are registered in every process that builds a model."""

from __future__ import annotations

import argparse

from espnet2.tasks.asr import ASRTask

import upstream


class HarnessASRTask(ASRTask):
    """`ASRTask` whose workers know `harness_*`.

    With several GPUs ESPnet spawns a process each, which begins with `main_worker` and has nothing of what its parent
    registered.
    """

    @classmethod
    def main_worker(cls, args: argparse.Namespace) -> None:
        """Register, then train as ESPnet does."""
        upstream.register("s3prl", "transformers")
        super().main_worker(args)

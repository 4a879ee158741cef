"""Decode a test set with ESPnet in several processes; complete jobs are kept."""

from __future__ import annotations

import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from corpora.datadir import read_datadir
from corpora.files import atomic_file, sha256_file, sha256_json, write_text
from downstream import DownstreamError

# ESPnet logs this text once per utterance.
_ONE_UTTERANCE = b"speech length:"


@dataclass(frozen=True)
class System:
    """Files of a trained ASR system: training configuration, weights, search configuration, optional language model."""

    train_config: Path
    model_file: Path
    inference_config: Path
    lm_config: Path | None = None
    lm_file: Path | None = None

    def arguments(self) -> list[str]:
        """Options of `espnet2.bin.asr_inference`."""
        options = {
            "--asr_train_config": self.train_config,
            "--asr_model_file": self.model_file,
            "--config": self.inference_config,
            "--lm_train_config": self.lm_config,
            "--lm_file": self.lm_file,
        }
        return [part for name, value in options.items() if value is not None for part in (name, str(value))]

    def digest(self) -> str:
        """Hash of every file that the hypotheses depend on."""
        files = (self.train_config, self.model_file, self.inference_config, self.lm_config, self.lm_file)
        return sha256_json([sha256_file(path) if path else None for path in files])


def decode(
    data_dir: Path, out_dir: Path, system: System, *, jobs: int = 1, gpus: int = 0, launcher: Sequence[str] = ()
) -> Path:
    """Write `<out_dir>/text` (utterance, hypothesis; sorted by id) and return it.

    Job n decodes utterances n, n + jobs, ... in its own process, started through `launcher` (for instance `srun`), and
    logs to `<out_dir>/jobs-<digest>/<n>/log`. Raises DownstreamError if a job fails; complete jobs are kept.
    """
    ids = [u.utt_id for u in read_datadir(data_dir)]
    jobs = max(1, min(jobs, len(ids)))
    work = out_dir / f"jobs-{sha256_json([system.digest(), ids, jobs])[:12]}"
    running = {}
    for number in range(jobs):
        folder = work / str(number + 1)
        if (folder / "done").is_file():
            continue
        folder.mkdir(parents=True, exist_ok=True)
        write_text(folder / "keys.scp", "".join(f"{key} {key}\n" for key in ids[number::jobs]))
        command = [
            *launcher,
            *(sys.executable, "-m", "downstream.espnet", "asr_inference"),
            *("--ngpu", str(gpus), "--batch_size", "1", "--output_dir", str(folder)),
            *("--data_path_and_name_and_type", f"{data_dir / 'wav.scp'},speech,sound"),
            *("--key_file", str(folder / "keys.scp"), *system.arguments()),
        ]
        write_text(folder / "command", shlex.join(command) + "\n")
        with open(folder / "log", "wb") as log:
            running[folder] = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
    _wait(running, data_dir.name, len(ids))
    lines = []
    for number in range(jobs):
        text = work / str(number + 1) / "1best_recog" / "text"
        lines += [line for line in text.read_text(encoding="utf-8").split("\n") if line]
    with atomic_file(out_dir / "text") as path:
        path.write_text("".join(f"{line}\n" for line in sorted(lines)), encoding="utf-8")
    return out_dir / "text"


def _wait(running: dict[Path, subprocess.Popen[bytes]], name: str, total: int) -> None:
    failed: list[Path] = []
    pending = dict(running)
    try:
        with tqdm(total=total, desc=f"decode {name}", unit="utt", mininterval=1.0) as bar:
            if not running:
                bar.update(total)
            while pending:
                time.sleep(0.5)
                for folder, process in list(pending.items()):
                    if process.poll() is None:
                        continue
                    del pending[folder]
                    if process.returncode:
                        failed.append(folder)
                    else:
                        (folder / "done").touch()
                seen = sum((folder / "log").read_bytes().count(_ONE_UTTERANCE) for folder in running)
                bar.update(min(seen, total) - bar.n)
    finally:
        for process in pending.values():
            process.terminate()
            process.wait()
    if failed:
        last = (failed[0] / "log").read_text(encoding="utf-8", errors="replace").strip().splitlines()[-1:]
        raise DownstreamError(
            f"{len(failed)} of {len(running)} decoding jobs failed; the first: {failed[0] / 'log'}"
            + (f": {last[0]}" if last else "")
        )

"""One training run from a geometry and units (or a teacher's features) to a model directory, through Lightning.

A killed run goes on from its last checkpoint and ends as an undisturbed one would: the state holds model, heads,
optimiser, schedule and step, and everything random is a function of (seed, step).
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import torch
from lightning.pytorch.callbacks import TQDMProgressBar
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.plugins.environments import LightningEnvironment, TorchElasticEnvironment
from torch.utils.data import DataLoader
from transformers import HubertModel

from corpora.audio import SAMPLE_RATE, AudioError
from corpora.datadir import Utterance, read_datadir
from corpora.files import read_json, sha256_json, write_json
from corpora.source_audio import read_utterance
from upstream.config import InitConfig, PretrainConfig, RegressionConfig
from upstream.distributed import Place, adopt_slurm, place
from upstream.model.encoder import build_encoder
from upstream.model.family import Geometry
from upstream.model.frontend import LogMelFrontEnd
from upstream.model.lineage import lineage
from upstream.model.modeldir import load_model, model_sha256, save_model
from upstream.pretrain.bad_batches import TrainingError
from upstream.pretrain.checkpoints import OtherConfiguration, Recorder, load_state
from upstream.pretrain.data import Position, PretrainDataset, StepBatches, StepSampler, usable
from upstream.pretrain.init import InitError, initialise
from upstream.pretrain.module import Pretraining, UnitTask
from upstream.pretrain.regression import FeatureHeads
from upstream.pretrain.shard_data import ShardDataset, ShardSampler, check_shards
from upstream.pretrain.shards import ShardsInfo, read_shards, write_shards
from upstream.units.labelsets import Labels, LabelSet, label_sets, open_labels
from upstream.units.units import UnitsError

log = logging.getLogger(__name__)

STATISTICS_UTTERANCES = 400
SAMPLING = 2  # counts the ways in which epochs were made: a position means something in its own alone
# Settings that may change when a run goes on: they decide how fast it gets there.
MACHINERY = ("workers", "compile", "checkpointing", "bad_steps", "bad_rate")


def native_bf16() -> bool:
    """Whether this machine multiplies bf16 in hardware: a CUDA GPU that says so, or a CPU with AMX or AVX512-BF16."""
    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported(including_emulation=False)
    checks = (getattr(torch.cpu, f"_is_{name}_supported", None) for name in ("amx_tile", "avx512_bf16"))
    return any(check is not None and check() for check in checks)


def resolve_precision(precision: str) -> str:
    """Lightning's name for `fp32`, `bf16` or `auto`."""
    bf16 = native_bf16() if precision == "auto" else precision == "bf16"
    return "bf16-mixed" if bf16 else "32-true"


def resolve_compile(choice: str) -> bool:
    """Whether `on`, `off` or `auto` means that the Transformer layers are compiled: `auto` where there are a GPU and
    the C compiler that Triton starts."""
    if choice != "auto" or not torch.cuda.is_available():
        return choice == "on"
    if not any(map(shutil.which, filter(None, (os.environ.get("CC"), "gcc", "clang")))):
        log.warning("no C compiler on PATH, so layers stay uncompiled; with one (gcc) a step takes less time")
        return False
    return True


def sample_waveforms(utterances: Sequence[Utterance], seed: int) -> Iterator[np.ndarray]:
    """The audio of a seeded sample of utterances, each (N,), of those that can be read. Raises AudioError where none
    can."""
    failed, found = None, False
    for index in np.random.default_rng([seed, 3]).permutation(len(utterances))[:STATISTICS_UTTERANCES]:
        try:
            yield read_utterance(utterances[index])
            found = True
        except AudioError as error:
            log.warning("utterance %s is left out: %s", utterances[index].utt_id, error)
            failed = error
    if failed and not found:
        raise failed


@torch.no_grad()
def set_log_mel_statistics(model: HubertModel, wavs: Iterable[np.ndarray]) -> None:
    """Global mean and deviation of the log-mel bands over some training audio."""
    front_end = model.feature_extractor
    total = square = torch.zeros(front_end.mean.shape[0], dtype=torch.float64)
    frames = 0
    for wav in wavs:
        x = front_end.log_mel(torch.from_numpy(wav)[None])[0].double()
        total, square, frames = total + x.sum(0), square + x.square().sum(0), frames + len(x)
    mean = total / frames
    front_end.set_statistics(mean.float(), (square / frames - mean.square()).clamp(min=0).sqrt().float())


def initial_model(
    geometry: Geometry,
    utterances: Sequence[Utterance],
    init: InitConfig,
    seed: int,
    wavs: Iterable[np.ndarray] | None = None,
) -> HubertModel:
    """The model before its first step; with init `random` this is also the random baseline of the benchmark.

    Log-mel statistics are those of a sample of the utterances, or of `wavs` where these are given.
    """
    torch.manual_seed(seed)
    model = build_encoder(geometry)
    copied = initialise(model, init, utterances, seed=seed)
    if isinstance(model.feature_extractor, LogMelFrontEnd) and "feature_extractor.mean" not in copied:
        set_log_mel_statistics(model, sample_waveforms(utterances, seed) if wavs is None else wavs)
    return model


def training_utterances(data_dir: Path, units: Path | Sequence[LabelSet], split: str) -> tuple[list[Utterance], Labels]:
    """The utterances of a split that have units in all label sets (or in the one folder given), and the units.

    Raises UnitsError when a label is missing, too large, or of another length than its utterance.
    """
    return open_labels(label_sets(units), usable(read_datadir(data_dir / split), split), split)


def shard_training_data(
    data_dir: Path, units: Sequence[LabelSet], folder: Path, *, codec: str, shard_seconds: float, jobs: int
) -> ShardsInfo:
    """Write `train` of a data folder as shards with the labels of the sets, where any are named. Raises UnitsError,
    ShardsError, TooManyBadFiles."""
    labels = training_utterances(data_dir, units, "train")[1] if units else None
    return write_shards(
        read_datadir(data_dir / "train"),
        folder,
        "train",
        codec=codec,
        shard_seconds=shard_seconds,
        units=labels,
        units_info={name: asdict(own.info) for name, own in labels.sets.items()} if labels else None,
        jobs=jobs,
    )


def pretrain(
    geometry: Geometry,
    data_dir: Path,
    units: Path | Sequence[LabelSet],
    out_dir: Path,
    config: PretrainConfig,
    init: InitConfig | None = None,
    card: dict[str, Any] | None = None,
    expected_units: dict[str, Any] | None = None,
    regression: RegressionConfig | None = None,
    shards: Path | None = None,
) -> Path:
    """Train one model and write `<out_dir>/model`; returns that path.

    `data_dir` holds the data directories `train` and `dev`. `units` is a folder of units of both (checked against
    `expected_units`, fields of UnitsInfo such as `k` and `model_sha256`), or several label sets, the first of which is
    the main one: its accuracy decides which weights are best. With `shards`, which hold units as well, `dev` alone is
    needed of both. With `regression` the model also predicts features of a frozen teacher; then there may be no label
    set at all, nor units in the shards. Goes on from `<out_dir>/checkpoints` when they belong to the same
    configuration. Raises UnitsError before the first step when a label is missing, too large, of another length than
    its utterance, or when units are not those expected.
    """
    here, init = place(), init or InitConfig()
    adopt_slurm()
    sets = label_sets(units, expected_units)
    train = _from_directory(data_dir, sets, config) if shards is None else _from_shards(shards, sets, config)
    dev, dev_labels = training_utterances(data_dir, sets, "dev")
    infos = {name: asdict(own.info) for name, own in dev_labels.sets.items()}
    if shards is not None:
        if sets:
            check_shards(ShardsInfo.open(shards, "train"), infos)
        if init.kind == "project" and init.minutes > 0:
            train = replace(train, utterances=_beside_shards(data_dir, init))
    elif train.units != infos:
        raise UnitsError(f"{data_dir}: train and dev have units of different origin; make them together")
    facts = {
        "geometry": asdict(geometry),
        "config": {name: value for name, value in asdict(config).items() if name not in MACHINERY},
        "init": {"kind": init.kind, "source_sha256": model_sha256(init.source) if init.source else None},
        "units": [{"name": s.name, "weight": s.weight, **infos[s.name]} for s in sets],
        "utterances": sha256_json([train.identity, [[u.utt_id, u.samples] for u in dev]]),
        "sampling": SAMPLING,
    }
    if init.kind == "project":
        facts["init"] |= {"layers": init.layers, "minutes": init.minutes}
    if init.kind == "foreign":
        facts["init"] |= {"layers": init.layers}
    if regression is not None:
        teacher_sha256 = model_sha256(regression.source)
        facts["regression"] = {**asdict(regression), "source": None, "source_sha256": teacher_sha256}
    fingerprint = sha256_json(facts)

    recorder = Recorder(PretrainDataset(dev, dev_labels, config), out_dir, config, fingerprint, here)
    try:
        recorder.restore(load_state(out_dir / "checkpoints", fingerprint))
    except OtherConfiguration as error:
        raise OtherConfiguration(
            f"{error} ({_differences(out_dir / 'config.json', facts)}). Give this run another folder, or move that one "
            "away; nothing there was touched"
        ) from None
    if here.is_first:
        write_json(out_dir / "config.json", facts)
    before, now = (recorder.state or {}).get("precision"), resolve_precision(config.precision)
    if before not in (None, now):
        log.warning(
            "steps up to %d were trained in %s, the others will be in %s: precision=%s depends on the machine",
            recorder.done, before, now, config.precision,
        )  # fmt: skip
    if recorder.positions and len(recorder.positions) != here.ranks and recorder.done < config.steps:
        raise TrainingError(
            f"{out_dir}: the run was stopped with {len(recorder.positions)} processes, which share the batches of "
            f"a step; go on with as many (now: {here.ranks})"
        )
    model = initial_model(geometry, train.utterances, init, config.seed, train.wavs)
    tasks = {s.name: UnitTask(infos[s.name]["k"], s.weight) for s in sets}
    features = None if regression is None else FeatureHeads(geometry.width, regression)
    module = Pretraining(model, tasks, config, features)
    # Of several processes all must come here, for they see there whether they agree on what is done.
    if recorder.done < config.steps or here.ranks > 1:
        _fit(module, recorder, train, out_dir, config)

    if not here.is_first:
        return out_dir / "model"
    best = torch.load(out_dir / "checkpoints" / "best.pt", map_location="cpu", weights_only=True)
    if best["fingerprint"] != fingerprint:
        raise TrainingError(f"{out_dir}: no validation had a finite loss, so there are no best weights; lower lr")
    module.encoder.load_state_dict(best["encoder"])
    facts_of_run = {
        "geometry": asdict(geometry),
        "front_end": geometry.front_end,
        "units": infos[sets[0].name] if sets else None,
        "label_sets": facts["units"] if len(sets) > 1 else None,
        "init": facts["init"],
        "regression": facts.get("regression"),
        "hours": round(train.hours, 3),
        "hours_shown": {group: round(shown, 3) for group, shown in sorted(recorder.last_hours.items())},
        "steps": config.steps,
        "valid_masked_accuracy": round(recorder.best, 4) if sets else None,
        "lineage": lineage([s.folder for s in sets], init.source, regression.source if regression else None),
    }
    save_model(
        module.encoder.cpu().eval(),
        out_dir / "model",
        {key: value for key, value in ((card or {}) | facts_of_run).items() if value is not None},
    )
    load_model(out_dir / "model")  # an export that cannot be read must fail here, not in a benchmark
    return out_dir / "model"


def _differences(path: Path, facts: dict[str, Any]) -> str:
    """In what the configuration of a folder differs from the one asked for."""
    if not path.is_file():
        return f"{path} is missing"
    there, now = (dict(_leaves(json.loads(json.dumps(content)))) for content in (read_json(path), facts))
    names = [name for name in {**there, **now} if there.get(name) != now.get(name)]
    told = [f"{name}: {there.get(name)} there, {now.get(name)} now" for name in names[:5]]
    return "; ".join([*told, *(["..."] if len(names) > 5 else [])]) or "the version of this program"


def _leaves(content: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Values of nested mappings and lists under dotted names."""
    if not isinstance(content, dict | list):
        yield name, content
        return
    for key, value in content.items() if isinstance(content, dict) else enumerate(content):
        yield from _leaves(value, f"{name}.{key}" if name else str(key))


@dataclass(frozen=True)
class TrainingData:
    """Where the batches come from: a dataset, and the sampler of its steps from `start` at `positions` on.

    `units` are the facts of every label set. `identity` stands for the utterances in the fingerprint of a run; `wavs`
    is some of the audio where there are no `utterances` to read it from.
    """

    dataset: PretrainDataset
    sampler: Callable[[int, list[Position] | None, Place], StepSampler | ShardSampler]
    units: dict[str, dict[str, Any]]
    hours: float
    identity: str
    utterances: Sequence[Utterance] = ()
    wavs: Iterable[np.ndarray] | None = None


def _beside_shards(data_dir: Path, init: InitConfig) -> list[Utterance]:
    """The utterances that init `project` may look at where training reads shards."""
    if not (data_dir / "train").is_dir():
        raise InitError(
            f"{data_dir / 'train'}: init project looks at {init.minutes:g} minutes of training audio, drawn at "
            "random, which shards do not give; name a folder with the data directory train, or minutes: 0"
        )
    return usable(read_datadir(data_dir / "train"), "train")


def _from_directory(data_dir: Path, sets: Sequence[LabelSet], config: PretrainConfig) -> TrainingData:
    utterances, labels = training_utterances(data_dir, sets, "train")

    def sampler(start: int, positions: list[Position] | None, here: Place) -> StepSampler:
        at = positions[0] if positions else None  # the row of batches is one for all processes
        return StepSampler(utterances, config, start=start, position=at, rank=here.rank, ranks=here.ranks)

    return TrainingData(
        PretrainDataset(utterances, labels, config),
        sampler,
        {name: asdict(own.info) for name, own in labels.sets.items()},
        sum(u.samples for u in utterances) / SAMPLE_RATE / 3600,
        sha256_json([[u.utt_id, u.samples] for u in utterances]),
        utterances,
    )


def _from_shards(folder: Path, sets: Sequence[LabelSet], config: PretrainConfig) -> TrainingData:
    info = ShardsInfo.open(folder, "train")
    if not sets:
        info = info.without_units()

    def sampler(start: int, positions: list[Position] | None, here: Place) -> ShardSampler:
        at = positions[here.rank] if positions else None
        return ShardSampler(info, config, start=start, position=at, rank=here.rank, ranks=here.ranks)

    return TrainingData(
        ShardDataset(config),
        sampler,
        info.units or {},
        sum(info.hours.values()),
        info.sha256,
        wavs=(item.waveform(0, item.samples) for item in islice(read_shards(info, [0]), STATISTICS_UTTERANCES)),
    )


def _fit(module: Pretraining, recorder: Recorder, train: TrainingData, out_dir: Path, config: PretrainConfig) -> None:
    here = place()
    loader: DataLoader = DataLoader([])  # of a finished run, which only compares what its processes found
    if recorder.done < config.steps:
        sampler = train.sampler(recorder.done, recorder.positions, here)
        log.info(
            "training steps %d to %d on %s; hours by language %s, shown per epoch x %s",
            recorder.done,
            config.steps,
            resolve_precision(config.precision),
            json.dumps({g: round(h, 3) for g, h in sampler.hours.items()}),
            json.dumps({g: round(r, 2) for g, r in sampler.repeats.items()}),
        )
        loader = DataLoader(
            train.dataset, sampler=sampler, batch_size=None, num_workers=config.workers, collate_fn=_unchanged
        )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*does not have many workers.*")
        warnings.filterwarnings("ignore", message=".*`training_step` returned.*")
        # Of a first step that was skipped: the schedule goes by steps, not by updates.
        warnings.filterwarnings("ignore", message=".*`lr_scheduler.step\\(\\)` before `optimizer.step.*")
        warnings.filterwarnings("ignore", message=".*Trying to infer the `batch_size`.*")
        trainer = lightning.Trainer(
            accelerator="gpu" if torch.cuda.is_available() else "cpu",
            devices=here.local_ranks,
            num_nodes=here.nodes,
            # Named, because Lightning would look for Slurm by itself, and see it in a batch script without srun too.
            plugins=[TorchElasticEnvironment() if here.ranks > 1 else LightningEnvironment()],
            # LayerDrop leaves the parameters of a skipped layer without a gradient
            strategy="auto" if here.ranks == 1 else f"ddp{'_find_unused_parameters_true' * (config.layerdrop > 0)}",
            precision=resolve_precision(config.precision),
            max_epochs=1,
            logger=TensorBoardLogger(out_dir, name="tensorboard", version=""),
            callbacks=[recorder, TQDMProgressBar(refresh_rate=20)],
            enable_checkpointing=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
            limit_val_batches=0,
            num_sanity_val_steps=0,
            log_every_n_steps=1,
        )
        module.train()
        if resolve_compile(config.compile):
            for layer in module.encoder.encoder.layers:
                layer.compile(dynamic=True)
        trainer.fit(module, loader)


def _unchanged(step: StepBatches) -> StepBatches:
    return step

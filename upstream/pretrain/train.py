"""Run pre-training from a geometry and units (or a teacher's features) to a model directory, with Lightning.

A killed run resumes from its last checkpoint and gives the model of an undisturbed run: the state holds model, heads,
optimiser, schedule and step, and all random draws are functions of (seed, step).
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import warnings
from collections.abc import Callable, Iterable, Sequence
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

from corpora.audio import SAMPLE_RATE
from corpora.datadir import Utterance, read_datadir
from corpora.files import read_json, sha256_json, write_json, writes
from corpora.schema import flatten
from upstream.config import InitConfig, PretrainConfig, RegressionConfig, TargetConfig, settings_of
from upstream.distributed import Place, adopt_slurm, place
from upstream.errors import UpstreamError
from upstream.model.card import lineage
from upstream.model.encoder import geometry_of
from upstream.model.family import Geometry
from upstream.model.modeldir import load_model, model_sha256, read_card, save_model
from upstream.model.rate import check_directory
from upstream.pretrain.checkpoints import Recorder, load_best, load_state
from upstream.pretrain.data import Position, PretrainDataset, StepBatches, StepSampler, usable
from upstream.pretrain.init import STATISTICS_UTTERANCES, initial_model
from upstream.pretrain.module import Pretraining, UnitTask
from upstream.pretrain.objective import FeatureHeads
from upstream.pretrain.shards import ShardDataset, ShardSampler, ShardsInfo, check_shards, read_shards, write_shards
from upstream.units.label import make_units
from upstream.units.units import Labels, LabelSet, label_sets, open_labels

log = logging.getLogger(__name__)

SAMPLER_VERSION = 2  # a saved position is valid for one version of the sampler only
OWN_UNITS = 500  # clusters of a model's own features
# Settings that may change when a run resumes: they change its speed and limits, not its result.
CHANGEABLE = ("workers", "compile", "checkpointing", "bad_steps", "bad_rate")


@writes("out_dir", when=lambda: place().is_first)
def pretrain(
    geometry: Geometry | None,
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
    """Train one model and write `<out_dir>/model`; returns that path. Without a geometry, `init` of kind `model` names
    the model that is trained on, of any encoder that `load_model` reads.

    `data_dir` holds the data directories `train` and `dev`. `units` is a folder of units of both (checked against
    `expected_units`, fields of UnitsInfo such as `k` and `model_sha256`), or several label sets; the first one is the
    main one, and its accuracy decides which weights are best. `shards` replace `train` in both. With `regression` the
    model also predicts features of a frozen teacher; then units are optional. Resumes from `<out_dir>/checkpoints` of
    the same configuration. Raises UpstreamError before the first step for a label that is missing, too large or of
    another length than its utterance, and for units other than expected.
    """
    here, init = place(), init or InitConfig()
    for source in (init.source, regression.source if regression else None):
        if source is not None:
            check_directory(source)
    adopt_slurm()
    own = geometry or _geometry_of(init)
    sets = label_sets(units, expected_units)
    if shards is None:
        train = _from_directory(data_dir, sets, config, own.squeeze)
    else:
        train = _from_shards(shards, sets, config, own.squeeze)
    dev, dev_labels = training_utterances(data_dir, sets, "dev")
    infos = {name: labels.info.facts() for name, labels in dev_labels.sets.items()}
    if shards is None:
        if train.units != infos:
            raise UpstreamError(f"{data_dir}: train and dev have units of different origin; make them together")
    else:
        if sets:
            check_shards(ShardsInfo.open(shards, "train"), infos)
        train = replace(train, utterances=_projection_utterances(data_dir, init))
    facts = _facts(own, config, init, regression, sets, infos, train, dev)
    fingerprint = sha256_json(facts)
    recorder = Recorder(PretrainDataset(dev, dev_labels, config, own.squeeze), out_dir, config, fingerprint, here)
    _resume(recorder, facts, config)
    if here.is_first:
        write_json(out_dir / "config.json", facts)

    model = initial_model(geometry, train.utterances, init, config.seed, train.wavs)
    tasks = {s.name: UnitTask(infos[s.name]["k"], s.weight) for s in sets}
    features = None if regression is None else FeatureHeads(own.width, regression)
    module = Pretraining(model, tasks, config, features)
    # Several processes fit a finished run too: there they check that all of them found it finished.
    if recorder.done < config.steps or here.ranks > 1:
        _fit(module, recorder, train, out_dir, config)
    if not here.is_first:
        return out_dir / "model"

    best = load_best(out_dir / "checkpoints" / "best.pt")
    if best["fingerprint"] != fingerprint:
        raise UpstreamError(f"{out_dir}: no validation had a finite loss, so there are no best weights; lower lr")
    module.encoder.load_state_dict(best["encoder"])
    run = {
        "geometry": own.facts(),
        "front_end": own.front_end,
        # Ours norm before each layer, HuBERT-Base behind it.
        "do_stable_layer_norm": None if model.config.do_stable_layer_norm else False,
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
        {key: value for key, value in ((card or {}) | run).items() if value is not None},
    )
    load_model(out_dir / "model")  # an unreadable export must fail here, not in a benchmark
    return out_dir / "model"


def own_units(model: str, data_dir: Path, out_dir: Path) -> LabelSet:
    """Units of a model's own features, two thirds up its layers, to train it on with: k=500 as in the recipes."""
    data = {split: data_dir / split for split in ("train", "dev")}
    make_units(data, out_dir, TargetConfig(source=model, k=OWN_UNITS))
    return LabelSet("units", out_dir)


def _geometry_of(init: InitConfig) -> Geometry:
    if init.kind != "model" or init.source is None:
        raise UpstreamError("give a geometry, or a model to train on: --init MODEL_DIR")
    source = load_model(init.source)
    return geometry_of(source, read_card(init.source).get("name") or Path(init.source).resolve().name)


def training_utterances(data_dir: Path, units: Path | Sequence[LabelSet], split: str) -> tuple[list[Utterance], Labels]:
    """The utterances of a split that have units in all label sets (or in the one folder given), and the units.

    Raises UpstreamError for a label that is missing, too large, or of another length than its utterance.
    """
    return open_labels(label_sets(units), usable(read_datadir(data_dir / split), split), split)


@writes("folder")
def shard_training_data(
    data_dir: Path, units: Sequence[LabelSet], folder: Path, *, codec: str, shard_seconds: float, jobs: int
) -> ShardsInfo:
    """Write `train` of a data folder as shards, with the labels of the sets, if any. Raises UpstreamError,
    TooManyBadFiles."""
    labels = training_utterances(data_dir, units, "train")[1] if units else None
    return write_shards(
        read_datadir(data_dir / "train"),
        folder,
        "train",
        codec=codec,
        shard_seconds=shard_seconds,
        units=labels,
        units_info={name: own.info.facts() for name, own in labels.sets.items()} if labels else None,
        jobs=jobs,
    )


@dataclass(frozen=True)
class TrainingData:
    """A dataset, and `sampler(start, positions, place)`, which yields its steps from `start` on.

    `units` are the facts of every label set. `identity` is the hash of the utterances for the fingerprint of a run.
    `utterances` are those that the initialisation may read; without any, `wavs` are some of the audio.
    """

    dataset: PretrainDataset
    sampler: Callable[[int, list[Position] | None, Place], StepSampler | ShardSampler]
    units: dict[str, dict[str, Any]]
    hours: float
    identity: str
    utterances: Sequence[Utterance] = ()
    wavs: Iterable[np.ndarray] | None = None


def _from_directory(data_dir: Path, sets: Sequence[LabelSet], config: PretrainConfig, squeeze: int) -> TrainingData:
    utterances, labels = training_utterances(data_dir, sets, "train")

    def sampler(start: int, positions: list[Position] | None, here: Place) -> StepSampler:
        at = positions[0] if positions else None  # all processes share one sequence of batches
        return StepSampler(utterances, config, start=start, position=at, rank=here.rank, ranks=here.ranks)

    return TrainingData(
        PretrainDataset(utterances, labels, config, squeeze),
        sampler,
        {name: own.info.facts() for name, own in labels.sets.items()},
        sum(u.samples for u in utterances) / SAMPLE_RATE / 3600,
        sha256_json([[u.utt_id, u.samples] for u in utterances]),
        utterances,
    )


def _from_shards(folder: Path, sets: Sequence[LabelSet], config: PretrainConfig, squeeze: int) -> TrainingData:
    info = ShardsInfo.open(folder, "train")
    if not sets:
        info = info.without_units()

    def sampler(start: int, positions: list[Position] | None, here: Place) -> ShardSampler:
        at = positions[here.rank] if positions else None
        return ShardSampler(info, config, start=start, position=at, rank=here.rank, ranks=here.ranks)

    return TrainingData(
        ShardDataset(config, squeeze),
        sampler,
        info.units or {},
        sum(info.hours.values()),
        info.sha256,
        wavs=(item.waveform(0, item.samples) for item in islice(read_shards(info, [0]), STATISTICS_UTTERANCES)),
    )


def _projection_utterances(data_dir: Path, init: InitConfig) -> list[Utterance]:
    """The utterances that init `project` measures activations on; none for the other kinds."""
    if init.kind != "project" or init.minutes <= 0:
        return []
    if not (data_dir / "train").is_dir():
        raise UpstreamError(
            f"{data_dir / 'train'}: init project measures activations on {init.minutes:g} random minutes of training "
            "audio, and shards have no random access; name a folder with the data directory train, or minutes: 0"
        )
    return usable(read_datadir(data_dir / "train"), "train")


def _facts(
    geometry: Geometry,
    config: PretrainConfig,
    init: InitConfig,
    regression: RegressionConfig | None,
    sets: Sequence[LabelSet],
    infos: dict[str, dict[str, Any]],
    train: TrainingData,
    dev: Sequence[Utterance],
) -> dict[str, Any]:
    """Everything that decides the result of a run, as config.json holds it; its hash is the run's fingerprint."""
    facts: dict[str, Any] = {
        "geometry": geometry.facts(),
        "config": {name: value for name, value in settings_of(config).items() if name not in CHANGEABLE},
        "init": {"kind": init.kind, "source_sha256": model_sha256(init.source) if init.source else None},
        "units": [{"name": s.name, "weight": s.weight, **infos[s.name]} for s in sets],
        "utterances": sha256_json([train.identity, [[u.utt_id, u.samples] for u in dev]]),
        "sampling": SAMPLER_VERSION,
    }
    if init.kind == "project":
        facts["init"] |= {"layers": init.layers, "minutes": init.minutes}
    if init.kind == "foreign":
        facts["init"] |= {"layers": init.layers}
    if regression is not None:
        teacher_sha256 = model_sha256(regression.source)
        facts["regression"] = {**asdict(regression), "source": None, "source_sha256": teacher_sha256}
    return facts


def _resume(recorder: Recorder, facts: dict[str, Any], config: PretrainConfig) -> None:
    """Restore the state of a stopped run. Raises UpstreamError if it has another configuration or process count."""
    out_dir, ranks = recorder.out_dir, recorder.here.ranks
    state = load_state(out_dir / "checkpoints")
    if state is not None and state["fingerprint"] != recorder.fingerprint:
        raise UpstreamError(
            f"{out_dir / 'checkpoints'} belongs to another configuration "
            f"({_differences(out_dir / 'config.json', facts)}). Give this run another folder, or move the old one; "
            "nothing in it was changed"
        )
    recorder.restore(state)
    before, now = (state or {}).get("precision"), resolve_precision(config.precision)
    if before not in (None, now):
        log.warning(
            "steps up to %d were trained in %s, the others will be in %s: precision=%s depends on the machine",
            recorder.done, before, now, config.precision,
        )  # fmt: skip
    if recorder.positions and len(recorder.positions) != ranks and recorder.done < config.steps:
        raise UpstreamError(
            f"{out_dir}: the run was stopped with {len(recorder.positions)} processes, which share the batches of "
            f"a step; resume it with as many (now: {ranks})"
        )


def _differences(path: Path, facts: dict[str, Any]) -> str:
    """The first differences between a run's config.json and the configuration of this run."""
    if not path.is_file():
        return f"{path} is missing"
    stored, now = (flatten(json.loads(json.dumps(content)), lists=True) for content in (read_json(path), facts))
    names = [name for name in {**stored, **now} if stored.get(name) != now.get(name)]
    listed = [f"{name}: {stored.get(name)} there, {now.get(name)} now" for name in names[:5]]
    return "; ".join([*listed, *(["..."] if len(names) > 5 else [])]) or "the version of this program"


def native_bf16() -> bool:
    """Whether this machine multiplies bf16 in hardware: a CUDA GPU with bf16, or a CPU with AMX or AVX512-BF16."""
    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported(including_emulation=False)
    checks = (getattr(torch.cpu, f"_is_{name}_supported", None) for name in ("amx_tile", "avx512_bf16"))
    return any(check is not None and check() for check in checks)


def resolve_precision(precision: str) -> str:
    """Lightning's name for `fp32`, `bf16` or `auto`."""
    bf16 = native_bf16() if precision == "auto" else precision == "bf16"
    return "bf16-mixed" if bf16 else "32-true"


def resolve_compile(choice: str) -> bool:
    """Whether to compile the Transformer layers. `auto`: with a GPU and the C compiler that Triton needs."""
    if choice != "auto" or not torch.cuda.is_available():
        return choice == "on"
    if not any(map(shutil.which, filter(None, (os.environ.get("CC"), "gcc", "clang")))):
        log.warning("no C compiler on PATH, so layers are not compiled; with one (gcc) a step takes less time")
        return False
    return True


def unchanged(step: StepBatches) -> StepBatches:
    """`collate_fn` of the data loader: the dataset returns whole steps."""
    return step


def _fit(module: Pretraining, recorder: Recorder, train: TrainingData, out_dir: Path, config: PretrainConfig) -> None:
    here = place()
    loader: DataLoader = DataLoader([])  # for a finished run, whose processes only compare their states
    if recorder.done < config.steps:
        sampler = train.sampler(recorder.done, recorder.positions, here)
        log.info(
            "training steps %d to %d in %s; hours by language %s, repeated per epoch x %s",
            recorder.done,
            config.steps,
            resolve_precision(config.precision),
            json.dumps({g: round(h, 3) for g, h in sampler.hours.items()}),
            json.dumps({g: round(r, 2) for g, r in sampler.repeats.items()}),
        )
        loader = DataLoader(
            train.dataset, sampler=sampler, batch_size=None, num_workers=config.workers, collate_fn=unchanged
        )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*does not have many workers.*")
        warnings.filterwarnings("ignore", message=".*`training_step` returned.*")
        # After a skipped first step: the schedule counts steps, not updates.
        warnings.filterwarnings("ignore", message=".*`lr_scheduler.step\\(\\)` before `optimizer.step.*")
        warnings.filterwarnings("ignore", message=".*Trying to infer the `batch_size`.*")
        trainer = lightning.Trainer(
            accelerator="gpu" if torch.cuda.is_available() else "cpu",
            devices=here.local_ranks,
            num_nodes=here.nodes,
            # Explicit: Lightning itself takes a batch script without srun for a Slurm run of several processes.
            plugins=[TorchElasticEnvironment() if here.ranks > 1 else LightningEnvironment()],
            # Parameters of a layer that LayerDrop skipped have no gradient.
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

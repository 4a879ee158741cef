"""Make units, train a model, or look at one, from the command line.

    python -m upstream units    --data data/mini/ssl --out exp/my/units  source=mfcc k=100
    python -m upstream pretrain --data data/mini/ssl --units exp/my/units --out exp/my/hl --geometry mini_hl steps=300
    python -m upstream shards   --data data/mini/ssl --out exp/my/shards --units exp/my/units
    python -m upstream sweep    --data data/mini/ssl --model exp/mini/models/harness_l --out exp/my/sweep
    python -m upstream info     exp/my/hl/model
    python -m upstream lineage  exp/my/hl/model
    python -m upstream compare  exp/mini/models/harness_l exp/mini/models/harness_st --audio data/mini/asr/test
    python -m upstream import   hubert_base_ls960.pt --out exp/hubert_base
    python -m upstream export   exp/my/hl/model --format onnx --out hl.onnx
    python -m upstream push     exp/my/hl/model OWNER/NAME
    python -m upstream s3prl    SuperbER --help
    python -m upstream cost     exp/mini/models/* --out exp/my/compression.csv
    python -m upstream baselines

units and pretrain also run on several processes: torchrun --nproc_per_node 2 -m upstream pretrain ..., or under srun.
"""

from __future__ import annotations

import argparse
import json
import logging
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from corpora.files import TooManyBadFiles
from corpora.schema import RecordError, check_keys, convert, record
from upstream.config import INIT_KINDS, LAYER_CHOICES, InitConfig, PretrainConfig, RegressionConfig, TargetConfig
from upstream.model.family import FAMILY, geometry
from upstream.pretrain.bad_batches import TrainingError

if TYPE_CHECKING:
    from upstream.units.labelsets import LabelSet


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; 0 when it is done, 2 after one line that says what is wrong."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    # Everything after `s3prl` is S3PRL's, its --help included, so argparse gets no more than the name.
    rest = arguments[1:] if arguments[:1] == ["s3prl"] else []
    args = _parser().parse_args(arguments[: len(arguments) - len(rest)])
    args.rest = rest
    logging.basicConfig(level=logging.INFO, format="%(levelname)s: %(message)s", stream=sys.stderr)
    try:
        _COMMANDS[args.command](args)
    except ModuleNotFoundError as error:
        print(f"upstream: error: {error}; install the pinned stack: pip install -r requirements.txt", file=sys.stderr)
        return 2
    except (ValueError, KeyError, OSError, ImportError, TrainingError, TooManyBadFiles) as error:
        print(f"upstream: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("upstream: interrupted; the same command goes on from here", file=sys.stderr)
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m upstream", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    units = commands.add_parser("units", help="features -> optional PCA -> k-means -> units")
    train = commands.add_parser("pretrain", help="masked prediction of units; goes on where it was killed")
    for command, config in ((units, TargetConfig), (train, PretrainConfig)):
        command.add_argument("--data", type=Path, required=True, help="folder with the data directories train and dev")
        command.add_argument("--out", type=Path, required=True)
        command.add_argument("settings", nargs="*", metavar="KEY=VALUE", help=f"{', '.join(config.__annotations__)}")
    _add_units_options(units)
    train.add_argument(
        "--units",
        action="append",
        default=[],
        metavar="[NAME=]DIR[:WEIGHT]",
        help="folder that `units` wrote; again for further label sets, each with a head of its own (the first is the "
        "main one), with a name and the weight of its loss",
    )
    train.add_argument("--geometry", required=True, choices=list(FAMILY), metavar="NAME", help=", ".join(FAMILY))
    train.add_argument("--init", default="random", help=f"{', '.join(INIT_KINDS)} (default: random)")
    train.add_argument("--init-source", help="model directory that the weights come from")
    train.add_argument(
        "--init-layers",
        metavar="WHICH",
        help=f"that init project takes ({', '.join(LAYER_CHOICES)}; default: every_nth), or init foreign (0,1,2,3)",
    )
    train.add_argument(
        "--init-minutes",
        type=float,
        help="of training audio on which init project looks at the source's activations; 0: at its weights alone "
        "(default: 5)",
    )
    train.add_argument("--shards", type=Path, help="folder that `shards` wrote: read train from it, sequentially")
    train.add_argument("--teacher", help="model directory whose features are predicted beside units or alone")
    train.add_argument("--teacher-layers", metavar="L,L", help="its hidden states, for instance 4,8,12")
    train.add_argument("--teacher-weight", type=float, help="weight of this loss (default: 1)")
    train.add_argument("--teacher-cosine", type=float, help="weight of its cosine beside its L1 distance (default: 1)")
    train.add_argument(
        "--teacher-normalise",
        action="store_true",
        default=None,
        help="bring each frame of a state to mean 0 and variance 1, so that no layer dominates by its norm",
    )
    shards = commands.add_parser("shards", help="train as Lhotse Shar, for corpora that outgrow a disk; goes on")
    shards.add_argument("--data", type=Path, required=True, help="folder with the data directory train")
    shards.add_argument("--out", type=Path, required=True)
    shards.add_argument(
        "--units",
        action="append",
        default=[],
        metavar="[NAME=]DIR",
        help="folder that `units` wrote, again for further label sets; others than before replace labels alone",
    )
    shards.add_argument("--codec", choices=("flac", "opus"), default="flac", help="default: flac; opus is lossy")
    shards.add_argument("--shard-minutes", type=float, default=60.0, help="audio of one shard (default: 60)")
    shards.add_argument("--jobs", type=int, default=1, help="processes that encode (default: 1)")
    sweep = commands.add_parser("sweep", help="PCA dimension x k: what the units of a layer keep; table and plot")
    sweep.add_argument("--data", type=Path, required=True, help="folder with the data directories train and dev")
    sweep.add_argument("--model", required=True, help="model directory, mfcc, or s3prl:NAME")
    sweep.add_argument("--layer", type=int, help="hidden state to cluster (default: two thirds of the depth)")
    sweep.add_argument("--pca", help="dimensions or shares of variance (default: 16,32,64,none, as far as there are)")
    sweep.add_argument("--k", default="100,500", help="cluster counts (default: %(default)s)")
    sweep.add_argument("--against", metavar="L,L", help="hidden states to compare with (default: up to five others)")
    sweep.add_argument("--minutes", type=float, default=20.0, help="of train to fit on and of dev (default: 20)")
    sweep.add_argument("--out", type=Path, required=True, help="receives sweep.csv and sweep.png; goes on there")
    sweep.add_argument("--seed", type=int, default=0)
    tree = commands.add_parser("lineage", help="what a model came from: units, models, initialisation, as a tree")
    tree.add_argument("model", type=Path, help="model directory")
    info = commands.add_parser("info", help="what a model directory holds and where it comes from")
    info.add_argument("model", type=Path, help="model directory")
    info.add_argument("--json", action="store_true", help="all facts as JSON")
    compare = commands.add_parser("compare", help="similarity (linear CKA) of two models' hidden states, with a plot")
    compare.add_argument("first", type=Path, help="model directory (rows)")
    compare.add_argument("second", type=Path, help="model directory (columns)")
    compare.add_argument("--audio", type=Path, nargs="+", required=True, help="files, folders, or data directories")
    compare.add_argument("--frames", type=int, default=4000, help="frames drawn from all of it (default: 4000)")
    compare.add_argument(
        "--out", type=Path, default=Path("cka.png"), help="heat map; its CSV beside it (default: cka.png)"
    )
    push = commands.add_parser("push", help="upload a model directory with its card to the Hugging Face Hub")
    push.add_argument("model", type=Path, help="model directory")
    push.add_argument("repo", metavar="OWNER/NAME")
    push.add_argument("--private", action="store_true", help="a new repository is visible to its owner alone")
    push.add_argument("--revision", default="main", help="branch (default: main)")
    export = commands.add_parser("export", help="a model directory as one file for ONNX Runtime")
    export.add_argument("model", type=Path, help="model directory")
    export.add_argument("--format", choices=["onnx"], default="onnx")
    export.add_argument("--out", type=Path, required=True, help="file to write (.onnx)")
    export.add_argument("--int8", action="store_true", help="8-bit weights in matrix products; convolutions stay fp32")
    export.add_argument("--all-states", action="store_true", help="also give every hidden state, (L+1, B, T, D)")
    export.add_argument("--no-lengths", action="store_true", help="no `lengths` input: every clip fills its row")
    load = commands.add_parser("import", help="a checkpoint of Transformers, torchaudio, ESPnet or fairseq")
    load.add_argument("source", type=Path, help="file, or for Transformers the folder")
    load.add_argument(
        "--kind", default="auto", help="auto, transformers, torchaudio, espnet or fairseq (default: auto)"
    )
    load.add_argument("--out", type=Path, required=True, help="model directory to write")
    facts = load.add_argument_group("what the file does not say (default: as models of its kind have it)")
    facts.add_argument("--heads", type=int, help="attention heads")
    facts.add_argument(
        "--layer-norm-first", action=argparse.BooleanOptionalAction, help="norms before attention and FFN"
    )
    facts.add_argument("--normalise", action=argparse.BooleanOptionalAction, help="waveforms to mean 0 and variance 1")
    fit = commands.add_parser(
        "regress", help="start a student from the layers of Whisper: copy them, learn their input; goes on"
    )
    fit.add_argument("--source", type=Path, required=True, help="Whisper directory in Transformers form")
    fit.add_argument("--layers", default="0,1,2,3", metavar="L,L", help="which to copy (default: 0,1,2,3)")
    fit.add_argument("--geometry", default="open", choices=list(FAMILY), metavar="NAME", help="default: open")
    fit.add_argument("--audio", type=Path, required=True, help="packed store of training audio (corpora.packed)")
    fit.add_argument("--out", type=Path, required=True, help="receives model/ and the state of the run")
    fit.add_argument("settings", nargs="*", metavar="KEY=VALUE", help="stem_steps, steps, windows, ...")
    cost = commands.add_parser("cost", help="parameters, MACs, compression and real-time factor on this CPU")
    cost.add_argument("models", type=Path, nargs="+")
    cost.add_argument("--out", type=Path, required=True, help="table to write (CSV)")
    commands.add_parser("baselines", help="published encoders: name, size, licence, at hand or how to get them")
    commands.add_parser(
        "s3prl", help="S3PRL's own commands, with our names registered: s3prl PROBLEM ..., s3prl -m ..."
    )
    return parser


def _settings(pairs: Sequence[str]) -> dict[str, object]:
    from omegaconf import OmegaConf

    for pair in pairs:
        if "=" not in pair:
            raise RecordError(f"`{pair}`: write settings as key=value, for instance k=100")
    return OmegaConf.to_container(OmegaConf.from_dotlist(list(pairs)))  # type: ignore[return-value]


def _add_units_options(command: argparse.ArgumentParser) -> None:
    exchange = command.add_mutually_exclusive_group()
    exchange.add_argument("--export-km", type=Path, metavar="DIR", help="write the units in --out in fairseq's form")
    exchange.add_argument("--import-km", type=Path, metavar="DIR", help="make --out of fairseq's labels (with k=...)")
    command.add_argument("--km-rate", type=int, default=50, help="of imported labels in Hz: 50, or 100 (default: 50)")


def _units(args: argparse.Namespace) -> None:
    settings = _settings(args.settings)
    data = {split: args.data / split for split in ("train", "dev")}
    if args.export_km is not None or args.import_km is not None:
        from upstream.units.fairseq import export_folder, import_folder

        if args.export_km is not None:
            check_keys(settings, (), "command line with --export-km", "")
            export_folder(args.out, data, args.export_km)
        else:
            check_keys(settings, ("k",), "command line with --import-km", "")
            if "k" not in settings:
                raise RecordError("--import-km: say how many clusters the labels have, k=...")
            k = convert(int, settings["k"], "command line", "k")
            import_folder(args.import_km, data, args.out, k, km_rate=args.km_rate)
        return
    from upstream.units.make import make_units

    make_units(data, args.out, record(TargetConfig, settings, "command line"))


def _label_set(text: str) -> LabelSet:
    """`[NAME=]DIR[:WEIGHT]` as --units takes it."""
    from upstream.units.labelsets import LabelSet

    name, given, rest = text.partition("=")
    if not given or not name.isidentifier():  # an equals sign in a path
        name, rest = "", text
    folder, _, weight = rest.rpartition(":")
    try:
        value = float(weight) if folder else 1.0
    except ValueError:  # a colon in a path
        folder, value = rest, 1.0
    folder = folder or rest
    # A folder may have any name, a label set that names columns may not.
    return LabelSet(name or re.sub(r"\W", "_", f"_{Path(folder).name}").lstrip("_") or "units", Path(folder), value)


def _sweep(args: argparse.Namespace) -> None:
    from upstream.units.sweep import Sweep, parse_dimensions, sweep

    against = None if args.against is None else _numbers(args.against, "--against")
    config = Sweep(
        source=args.model,
        layer=args.layer,
        pca=None if args.pca is None else parse_dimensions(args.pca),
        k=_numbers(args.k, "--k"),
        against=against,
        minutes=args.minutes,
        seed=args.seed,
    )
    print(sweep(args.data, args.out, config))


def _numbers(text: str, option: str) -> list[int]:
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() for part in parts):
        raise RecordError(f"{option} {text}: whole numbers separated by commas are needed")
    return [int(part) for part in parts]


def _regress(args: argparse.Namespace) -> None:
    from upstream.pretrain.foreign import RegressConfig, fit

    config = record(RegressConfig, _settings(args.settings), "command line")
    layers = _numbers(args.layers, "--layers")
    print(fit(geometry(args.geometry), args.source, layers, args.audio, args.out, config))


def _lineage(args: argparse.Namespace) -> None:
    from upstream.model.lineage import tree

    print(tree(args.model))


def _pretrain(args: argparse.Namespace) -> None:
    config = record(PretrainConfig, _settings(args.settings), "command line")
    choices = _given(args, "init_layers", "init_minutes")
    if choices and args.init not in ("project", "foreign"):
        raise RecordError(f"{_option(choices)}: of --init project alone, not of --init {args.init}")
    if args.init == "foreign" and "init_layers" in choices:
        choices["init_layers"] = _numbers(choices["init_layers"], "--init-layers")
    init = InitConfig(args.init, args.init_source, **{key.removeprefix("init_"): v for key, v in choices.items()})
    regression = _regression(args)
    if not args.units and regression is None:
        raise RecordError("nothing to learn: name --units or --teacher")
    # Not before: torch takes seconds, and a wrong option is answered at once.
    sets = [_label_set(text) for text in args.units]
    from upstream.pretrain.train import pretrain

    card = {"name": args.out.name}
    runs = {"regression": regression, "shards": args.shards}
    print(pretrain(geometry(args.geometry), args.data, sets, args.out, config, init, card, **runs))


def _regression(args: argparse.Namespace) -> RegressionConfig | None:
    given = _given(args, "teacher_layers", "teacher_weight", "teacher_cosine", "teacher_normalise")
    if args.teacher is None:
        if given:
            raise RecordError(f"{_option(given)}: name the teacher, --teacher MODEL_DIR")
        return None
    layers = given.pop("teacher_layers", None)
    if layers is None:
        raise RecordError("--teacher: say which of its hidden states to predict, --teacher-layers L,L")
    settings = {key.removeprefix("teacher_"): value for key, value in given.items()}
    return RegressionConfig(args.teacher, _numbers(layers, "--teacher-layers"), **settings)


def _given(args: argparse.Namespace, *names: str) -> dict[str, Any]:
    """Those of the options that the command line holds."""
    return {name: getattr(args, name) for name in names if getattr(args, name) is not None}


def _option(names: Iterable[str]) -> str:
    return ", ".join("--" + name.replace("_", "-") for name in names)


def _shards(args: argparse.Namespace) -> None:
    from upstream.pretrain.train import shard_training_data

    sets = [_label_set(text) for text in args.units]
    seconds = 60 * args.shard_minutes
    info = shard_training_data(args.data, sets, args.out, codec=args.codec, shard_seconds=seconds, jobs=args.jobs)
    print(f"{args.out}: {len(info.shards)} shards, {sum(info.hours.values()):.2f} h of {info.codec}")


def _info(args: argparse.Namespace) -> None:
    from upstream.model.describe import describe, facts

    print(json.dumps(facts(args.model), indent=2, ensure_ascii=False) if args.json else describe(args.model))


def _compare(args: argparse.Namespace) -> None:
    from upstream.tools.cka import compare, table, write

    similarity = compare(args.first, args.second, args.audio, frames=args.frames)
    print(table(similarity))
    print(f"{args.out} and {write(similarity, args.out)}")


def _push(args: argparse.Namespace) -> None:
    from upstream.tools.push import push

    print(push(args.model, args.repo, private=args.private, revision=args.revision))


def _s3prl(args: argparse.Namespace) -> None:
    from upstream.harness.launch import launch

    launch(args.rest)


def _import(args: argparse.Namespace) -> None:
    from upstream.tools.convert import import_model
    from upstream.tools.shape import Settings

    settings = Settings(args.heads, args.layer_norm_first, args.normalise)
    print(import_model(args.source, args.out, args.kind, settings))


def _export(args: argparse.Namespace) -> None:
    from upstream.model.onnx import export_onnx

    parity = export_onnx(args.model, args.out, int8=args.int8, all_states=args.all_states, lengths=not args.no_lengths)
    print(
        f"{args.out}: {args.out.stat().st_size / 1e6:.2f} MB; against PyTorch: largest relative difference "
        f"{parity.max_difference:.2g}, mean cosine {parity.cosine:.5f}"
    )


def _cost(args: argparse.Namespace) -> None:
    from upstream.tools.cost import measure, table

    print(table(measure({path.name: path for path in args.models}, args.out)))


def _baselines(args: argparse.Namespace) -> None:
    from upstream.harness.baselines import listing

    print(listing())


_COMMANDS: dict[str, Callable[[argparse.Namespace], None]] = {
    "units": _units,
    "shards": _shards,
    "pretrain": _pretrain,
    "sweep": _sweep,
    "info": _info,
    "lineage": _lineage,
    "regress": _regress,
    "compare": _compare,
    "push": _push,
    "s3prl": _s3prl,
    "import": _import,
    "export": _export,
    "cost": _cost,
    "baselines": _baselines,
}


if __name__ == "__main__":
    sys.exit(main())

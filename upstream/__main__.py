"""Commands for units, pre-training and models:

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
    python -m upstream regress  --source whisper_base --audio data/my/audio --out exp/my/start
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
from argparse import Namespace
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin

from corpora.command import Parser, fail, number, output_folder, whole
from corpora.files import only_writer
from corpora.schema import Problems, check_keys, convert, record
from upstream.config import INIT_KINDS, InitConfig, PretrainConfig, RegressionConfig, TargetConfig
from upstream.errors import UpstreamError
from upstream.model.family import FAMILY, geometry

if TYPE_CHECKING:
    from upstream.units.units import LabelSet

WHERE = "command line"
# Commands whose output is locked here; functions of units, pretrain and shards lock their folders themselves.
LOCKED = ("sweep", "compare", "export", "import", "cost")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command. Returns 0 on success, or 2 after printing one line about the error."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    # S3PRL parses all words after `s3prl`, also --help, so argparse gets only this first one.
    rest = arguments[1:] if arguments[:1] == ["s3prl"] else []
    logging.basicConfig(level=logging.INFO, format="%(levelname)s: %(message)s", stream=sys.stderr)
    args = Namespace()
    try:
        args = parser().parse_args(arguments[: len(arguments) - len(rest)])
        args.rest = rest
        with only_writer(args.out) if args.command in LOCKED else nullcontext():
            args.run(args)
    except ModuleNotFoundError as error:
        print(f"upstream: error: {error}; install the pinned stack: pip install -r requirements.txt", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("upstream: interrupted; the same command resumes here", file=sys.stderr)
        return 130
    except Exception as error:
        return fail("upstream", error, output=getattr(args, "out", None))
    return 0


def parser() -> argparse.ArgumentParser:
    """The parser of all commands; `run` of the parsed arguments is the function of the command."""
    every = Parser(prog="python -m upstream", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = every.add_subparsers(dest="command", required=True)

    def command(name: str, run: Callable[[Namespace], None], text: str) -> Callable[..., argparse.Action]:
        """Add a command; returns the function that adds its options."""
        made = commands.add_parser(name, help=text)
        made.set_defaults(run=run)
        return made.add_argument

    add = command("units", _units, "make units: features -> optional PCA -> k-means -> labels")
    add("--data", type=Path, required=True, help="folder with the data directories train and dev")
    add("--out", type=output_folder, required=True)
    add("settings", nargs="*", metavar="KEY=VALUE", help=_names(TargetConfig))
    exchange = commands.choices["units"].add_mutually_exclusive_group()
    exchange.add_argument("--export-km", type=Path, metavar="DIR", help="write the units in --out as fairseq's labels")
    exchange.add_argument("--import-km", type=Path, metavar="DIR", help="make --out from fairseq's labels (with k=...)")
    add("--km-rate", type=whole(1), default=50, help="rate of imported labels in Hz: 50, or 100 (default: 50)")

    add = command("pretrain", _pretrain, "masked prediction of units; resumes a killed run")
    add("--data", type=Path, required=True, help="folder with the data directories train and dev")
    add("--out", type=output_folder, required=True)
    add("settings", nargs="*", metavar="KEY=VALUE", help=_names(PretrainConfig))
    add(
        "--units",
        action="append",
        default=[],
        metavar="[NAME=]DIR[:WEIGHT]",
        help="folder that `units` wrote, with an optional name and weight of its loss; repeat the option for further "
        "label sets, each with its own head; the first set is the main one",
    )
    members = [name for name, g in FAMILY.items() if not g.left_context and not g.cmvn]
    others = (
        "of log-mel geometries also the name with _stream (streaming) or _cmvn (bands normalised over the clip), such "
        "as hst_fast_stream"
    )
    listing = f"{', '.join(members)}; {others}"
    add("--geometry", choices=list(FAMILY), metavar="NAME", help=listing)
    add("--shards", type=Path, help="folder that `shards` wrote: read train from it, sequentially")
    init = (
        f"{', '.join(INIT_KINDS)} (default: random); or a model directory to train on, such as a HuBERT or XLS-R: "
        "without --geometry; if --units and --teacher are absent too, its own units are made in OUT/units"
    )
    add("--init", default="random", metavar="KIND|MODEL_DIR", help=init)
    _add_fields(add, InitConfig, "init", ("source", "layers", "minutes"))
    add("--teacher", help="model directory whose features are predicted, with units or without")
    _add_fields(add, RegressionConfig, "teacher", ("layers", "weight", "cosine", "normalise"))

    add = command("shards", _shards, "write train as Lhotse Shar, for corpora larger than a disk; resumes")
    add("--data", type=Path, required=True, help="folder with the data directory train")
    add("--out", type=output_folder, required=True)
    add(
        "--units",
        action="append",
        default=[],
        metavar="[NAME=]DIR",
        help="folder that `units` wrote; repeat it for further label sets. New units replace the labels only",
    )
    add("--codec", choices=("flac", "opus"), default="flac", help="default: flac; opus is lossy")
    add("--shard-minutes", type=number(0, above=True), default=60.0, help="audio of one shard (default: 60)")
    add("--jobs", type=whole(1), default=1, help="processes that encode (default: 1)")

    add = command("sweep", _sweep, "quality of units over PCA dimension and k; table and plot")
    add("--data", type=Path, required=True, help="folder with the data directories train and dev")
    add("--model", required=True, help="model directory, mfcc, or s3prl:NAME")
    add("--layer", type=whole(0), help="hidden state to cluster (default: two thirds of the depth)")
    add("--pca", help="dimensions or shares of variance (default: those of 16,32,64,none that fit)")
    add("--k", default="100,500", help="cluster counts (default: %(default)s)")
    add("--against", metavar="L,L", help="hidden states to compare with (default: up to five others)")
    add("--cmvn", action="store_true", help="features with mean 0 and variance 1 over each utterance, as in `units`")
    add(
        "--minutes",
        type=number(0, above=True),
        default=20.0,
        help="audio of train for the fit, and of dev (default: 20)",
    )
    add("--out", type=output_folder, required=True, help="folder of sweep.csv and sweep.png; resumes there")
    add("--seed", type=whole(0), default=0)

    add = command("lineage", _lineage, "ancestors of a model: its units, models and initialisation, as a tree")
    add("model", type=Path, help="model directory")

    add = command("info", _info, "facts and origin of a model directory")
    add("model", type=Path, help="model directory")
    add("--json", action="store_true", help="all facts as JSON")

    add = command("compare", _compare, "similarity (linear CKA) of two models' hidden states, with a plot")
    add("first", type=Path, help="model directory (rows)")
    add("second", type=Path, help="model directory (columns)")
    add("--audio", type=Path, nargs="+", required=True, help="files, folders, or data directories")
    add("--frames", type=whole(1), default=4000, help="frames drawn from the audio (default: 4000)")
    add("--channel", type=whole(0), metavar="N", help="of files with several, from 0 (default: the average)")
    add("--out", type=Path, default=Path("cka.png"), help="heat map; its CSV is next to it (default: cka.png)")

    add = command("push", _push, "upload a model directory with its card to the Hugging Face Hub")
    add("model", type=Path, help="model directory")
    add("repo", metavar="OWNER/NAME")
    add("--private", action="store_true", help="only the owner sees a new repository")
    add("--revision", default="main", help="branch (default: main)")

    add = command("export", _export, "write a model directory as one file for ONNX Runtime")
    add("model", type=Path, help="model directory")
    add("--format", choices=["onnx"], default="onnx")
    add("--out", type=Path, required=True, help="file to write (.onnx)")
    add("--int8", action="store_true", help="8-bit weights in matrix products; convolutions keep 16 bits or more")
    add("--int4", action="store_true", help="4-bit weights in blocks of 32: half the size of --int8, less exact")
    add("--all-states", action="store_true", help="also output all hidden states, (L+1, B, T, D)")
    add("--no-lengths", action="store_true", help="no `lengths` input: every clip fills its row")
    add("--streaming", action="store_true", help="one chunk a call, with states in and out; for streaming geometries")

    add = command("import", _import, "import a checkpoint of Transformers, torchaudio, ESPnet or fairseq")
    add("source", type=Path, help="file, or for Transformers the folder")
    add("--kind", default="auto", help="auto, transformers, torchaudio, espnet or fairseq (default: auto)")
    add("--out", type=output_folder, required=True, help="model directory to write")
    group = commands.choices["import"].add_argument_group("facts that the file lacks (default: those of its kind)")
    group.add_argument("--heads", type=whole(1), help="attention heads")
    group.add_argument("--layer-norm-first", action=argparse.BooleanOptionalAction, help="norms precede attention, FFN")
    group.add_argument("--normalise", action=argparse.BooleanOptionalAction, help="waveforms to mean 0 and variance 1")

    add = command("cost", _cost, "parameters, MACs, compression and real-time factor on this CPU")
    add("models", type=Path, nargs="+")
    add("--out", type=Path, required=True, help="table to write (CSV)")

    add = command("regress", _regress, "start a student: copy Whisper's layers and learn their input; resumes")
    add("--source", type=Path, required=True, help="Whisper's folder in Transformers form")
    add("--layers", metavar="L,L", help="its first layers, which are copied (default: as many as the student has)")
    add("--geometry", default="hst_fast", choices=list(FAMILY), metavar="NAME", help="default: %(default)s")
    add("--audio", type=Path, required=True, help="folder of packed audio (corpora/prepare/packed.py)")
    add("--out", type=output_folder, required=True, help="folder for model/ and the state of the run")
    add(
        "settings", nargs="*", metavar="KEY=VALUE", help="stem_steps, steps, windows, stem_rate, rate, save_steps, seed"
    )

    command("baselines", _baselines, "list published encoders: name, size, licence, local folder")
    command("s3prl", _s3prl, "S3PRL's own commands, with our names registered: s3prl PROBLEM ..., s3prl -m ...")
    return every


def _names(config: type) -> str:
    return ", ".join(field.name for field in fields(config))


def _add_fields(add: Callable[..., argparse.Action], config: Any, prefix: str, names: Iterable[str]) -> None:
    """Add `--PREFIX-NAME` for these fields of a configuration; an option that is not given is None."""
    for name in names:
        field = config.__pydantic_fields__[name]
        kind: dict[str, Any] = {}
        if field.annotation is bool:
            kind = {"action": "store_true", "default": None}
        elif field.annotation is float:
            kind = {"type": number()}
        elif get_origin(field.annotation) is Literal:
            kind = {"choices": get_args(field.annotation)}
        elif get_origin(field.annotation) is list:
            kind = {"metavar": "L,L"}
        add(f"--{prefix}-{name}", help=field.description, **kind)


def _given(args: Namespace, prefix: str, names: Iterable[str]) -> dict[str, Any]:
    """The fields whose options `--PREFIX-NAME` were given."""
    found = {name: getattr(args, f"{prefix}_{name}") for name in names}
    return {name: value for name, value in found.items() if value is not None}


def _settings(pairs: Sequence[str]) -> dict[str, object]:
    from omegaconf import OmegaConf

    for pair in pairs:
        if "=" not in pair:
            raise UpstreamError(f"`{pair}`: write settings as key=value, for instance k=100")
    try:
        return OmegaConf.to_container(OmegaConf.from_dotlist(list(pairs)), resolve=True)  # type: ignore[return-value]
    except Exception as error:  # YAML and OmegaConf raise a dozen types
        raise UpstreamError(f"`{' '.join(pairs)}`: not key=value with a YAML value ({error})") from None


def _numbers(text: str, option: str) -> list[int]:
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isascii() and part.isdecimal() and len(part) <= 9 for part in parts):
        raise UpstreamError(f"{option} {text}: whole numbers separated by commas are needed")
    return [int(part) for part in parts]


def label_set(text: str) -> LabelSet:
    """`[NAME=]DIR[:WEIGHT]`, the argument of --units, as a label set."""
    from upstream.units.units import LabelSet

    name, given, rest = text.partition("=")
    if not given or not name.isidentifier():  # an equals sign in a path
        name, rest = "", text
    folder, _, weight = rest.rpartition(":")
    try:
        value = float(weight) if folder else 1.0
    except ValueError:  # a colon in a path
        folder, value = rest, 1.0
    folder = folder or rest
    # A folder can have any name; the name of a label set also names columns.
    return LabelSet(name or re.sub(r"\W", "_", f"_{Path(folder).name}").lstrip("_") or "units", Path(folder), value)


def _units(args: Namespace) -> None:
    settings = _settings(args.settings)
    data = {split: args.data / split for split in ("train", "dev")}
    if args.export_km is not None:
        from upstream.units.fairseq import export_folder

        check_keys(settings, (), f"{WHERE} with --export-km", "")
        export_folder(args.out, data, args.export_km)
    elif args.import_km is not None:
        from upstream.units.fairseq import import_folder

        check_keys(settings, ("k",), f"{WHERE} with --import-km", "")
        if "k" not in settings:
            raise UpstreamError("--import-km: give the number of clusters of the labels, k=...")
        import_folder(args.import_km, data, args.out, convert(int, settings["k"], WHERE, "k"), km_rate=args.km_rate)
    else:
        from upstream.units.label import make_units

        make_units(data, args.out, record(TargetConfig, settings, WHERE))


def _pretrain(args: Namespace) -> None:
    problems = Problems(WHERE)
    with problems.collect():
        config = record(PretrainConfig, _settings(args.settings), WHERE)
    choices = _given(args, "init", ("layers", "minutes"))
    continues = args.geometry is None and args.init not in INIT_KINDS
    if continues:
        args.init, args.init_source = "model", args.init
    with problems.collect():
        allowed = {"project": ("layers", "minutes"), "foreign": ("layers",)}.get(args.init, ())
        if wrong := [f"--init-{name}" for name in choices if name not in allowed]:
            kinds = "--init project" if "--init-minutes" in wrong else "--init project or foreign"
            raise UpstreamError(f"{', '.join(wrong)}: only for {kinds}, not for --init {args.init}")
        if args.init == "foreign" and "layers" in choices:
            choices["layers"] = _numbers(choices["layers"], "--init-layers")
        init = record(InitConfig, {"kind": args.init, "source": args.init_source, **choices}, WHERE, "init")
    with problems.collect():
        regression = _regression(args)
        if not args.units and regression is None and (args.shards or not continues):
            raise UpstreamError("no training target: give --units or --teacher")
        if args.geometry is None and not continues:
            raise UpstreamError("--geometry: name one, or a model to train on: --init MODEL_DIR")
    problems.check()
    # Imported after the checks: torch takes seconds, and a wrong option should be reported at once.
    sets = [label_set(text) for text in args.units]
    from upstream.pretrain.train import own_units, pretrain

    if not sets and regression is None:
        sets = [own_units(init.source, args.data, args.out / "units")]
    card = {"name": args.out.name}
    runs = {"regression": regression, "shards": args.shards}
    shape = None if continues else geometry(args.geometry)
    print(pretrain(shape, args.data, sets, args.out, config, init, card, **runs))


def _regression(args: Namespace) -> RegressionConfig | None:
    given = _given(args, "teacher", ("layers", "weight", "cosine", "normalise"))
    if args.teacher is None:
        if given:
            options = ", ".join(f"--teacher-{name}" for name in given)
            raise UpstreamError(f"{options}: give the teacher, --teacher MODEL_DIR")
        return None
    if "layers" not in given:
        raise UpstreamError("--teacher: give the hidden states to predict, --teacher-layers L,L")
    given["layers"] = _numbers(given["layers"], "--teacher-layers")
    return record(RegressionConfig, {"source": args.teacher, **given}, WHERE, "teacher")


def _shards(args: Namespace) -> None:
    from upstream.pretrain.train import shard_training_data

    sets = [label_set(text) for text in args.units]
    seconds = 60 * args.shard_minutes
    info = shard_training_data(args.data, sets, args.out, codec=args.codec, shard_seconds=seconds, jobs=args.jobs)
    print(f"{args.out}: {len(info.shards)} shards, {sum(info.hours.values()):.2f} h of {info.codec}")


def _sweep(args: Namespace) -> None:
    from upstream.units.sweep import Sweep, parse_dimensions, sweep

    config = Sweep(
        source=args.model,
        layer=args.layer,
        pca=None if args.pca is None else parse_dimensions(args.pca),
        k=_numbers(args.k, "--k"),
        against=None if args.against is None else _numbers(args.against, "--against"),
        minutes=args.minutes,
        seed=args.seed,
        cmvn=args.cmvn,
    )
    print(sweep(args.data, args.out, config))


def _regress(args: Namespace) -> None:
    from upstream.pretrain.foreign import RegressConfig, fit

    config = record(RegressConfig, _settings(args.settings), WHERE)
    student = geometry(args.geometry)
    layers = list(range(student.layers)) if args.layers is None else _numbers(args.layers, "--layers")
    print(fit(student, args.source, layers, args.audio, args.out, config))


def _lineage(args: Namespace) -> None:
    from upstream.model.card import tree

    print(tree(args.model))


def _info(args: Namespace) -> None:
    from upstream.model.card import describe, facts

    print(json.dumps(facts(args.model), indent=2, ensure_ascii=False) if args.json else describe(args.model))


def _compare(args: Namespace) -> None:
    from upstream.tools.cka import compare, table, write

    similarity = compare(args.first, args.second, args.audio, frames=args.frames, channel=args.channel)
    print(table(similarity))
    print(f"{args.out} and {write(similarity, args.out)}")


def _push(args: Namespace) -> None:
    from upstream.tools.push import push

    print(push(args.model, args.repo, private=args.private, revision=args.revision))


def _export(args: Namespace) -> None:
    if args.int8 and args.int4:
        raise UpstreamError("--int4: not with --int8; the weights have one precision")
    precision = "int8" if args.int8 else "int4" if args.int4 else "fp32"
    if args.streaming:
        from upstream.model.onnxstream import export_stream

        for option, given in (("--all-states", args.all_states), ("--no-lengths", args.no_lengths)):
            if given:
                raise UpstreamError(f"{option}: not with --streaming, whose graph gives the top state of one chunk")
        parity = export_stream(args.model, args.out, precision=precision)
    else:
        from upstream.model.onnx import export_onnx

        lengths = not args.no_lengths
        parity = export_onnx(args.model, args.out, precision=precision, all_states=args.all_states, lengths=lengths)
    print(
        f"{args.out}: {args.out.stat().st_size / 1e6:.2f} MB; against PyTorch: largest relative difference "
        f"{parity.max_difference:.2g}, mean cosine {parity.cosine:.5f}"
    )


def _import(args: Namespace) -> None:
    from upstream.tools.convert import EncoderSettings, import_model

    settings = EncoderSettings(args.heads, args.layer_norm_first, args.normalise)
    print(import_model(args.source, args.out, args.kind, settings))


def _cost(args: Namespace) -> None:
    from upstream.tools.cost import measure, table

    print(table(measure({path.name: path for path in args.models}, args.out)))


def _baselines(args: Namespace) -> None:
    from upstream.harness.baselines import listing

    print(listing())


def _s3prl(args: Namespace) -> None:
    from upstream.harness.launch import launch

    launch(args.rest)


if __name__ == "__main__":
    sys.exit(main())

"""Make units, train a model, or look at one, from the command line.

    python -m upstream units    --data data/mini/ssl --out exp/my/units  source=mfcc k=100
    python -m upstream pretrain --data data/mini/ssl --units exp/my/units --out exp/my/hl --geometry mini_hl steps=300
    python -m upstream info     exp/my/hl/model
    python -m upstream compare  exp/mini/models/harness_l exp/mini/models/harness_st --audio data/mini/asr/test
    python -m upstream import   hubert_base_ls960.pt --out exp/hubert_base
    python -m upstream export   exp/my/hl/model --format onnx --out hl.onnx
    python -m upstream push     exp/my/hl/model OWNER/NAME
    python -m upstream s3prl    SuperbER --help
    python -m upstream cost     exp/mini/models/* --out exp/my/compression.csv
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from corpora.records import RecordError, record
from upstream.config import InitConfig, PretrainConfig, TargetConfig
from upstream.family import FAMILY, geometry


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
    except (ValueError, KeyError, OSError, ImportError) as error:
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
    train.add_argument("--units", type=Path, required=True, help="folder that `units` wrote")
    train.add_argument("--geometry", required=True, choices=list(FAMILY), metavar="NAME", help=", ".join(FAMILY))
    train.add_argument("--init", default="random", help="random, model, every_nth or first_n (default: random)")
    train.add_argument("--init-source", help="model directory that the weights come from")
    info = commands.add_parser("info", help="what a model directory holds and where it comes from")
    info.add_argument("model", type=Path)
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
    push.add_argument("model", type=Path)
    push.add_argument("repo", metavar="OWNER/NAME")
    push.add_argument("--private", action="store_true", help="a new repository is visible to its owner alone")
    push.add_argument("--revision", default="main", help="branch (default: main)")
    export = commands.add_parser("export", help="a model directory as one file for ONNX Runtime")
    export.add_argument("model", type=Path)
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
    cost = commands.add_parser("cost", help="parameters, MACs, compression and real-time factor on this CPU")
    cost.add_argument("models", type=Path, nargs="+")
    cost.add_argument("--out", type=Path, required=True, help="table to write (CSV)")
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


def _units(args: argparse.Namespace) -> None:
    from upstream.targets.make import make_units

    config = record(TargetConfig, _settings(args.settings), "command line")
    make_units({split: args.data / split for split in ("train", "dev")}, args.out, config)


def _pretrain(args: argparse.Namespace) -> None:
    from upstream.pretrain import pretrain

    config = record(PretrainConfig, _settings(args.settings), "command line")
    init = InitConfig(args.init, args.init_source)
    card = {"name": args.out.name}
    print(pretrain(geometry(args.geometry), args.data, args.units, args.out, config, init, card))


def _info(args: argparse.Namespace) -> None:
    from upstream.describe import describe, facts

    print(json.dumps(facts(args.model), indent=2, ensure_ascii=False) if args.json else describe(args.model))


def _compare(args: argparse.Namespace) -> None:
    from upstream.compare import compare, table, write

    similarity = compare(args.first, args.second, args.audio, frames=args.frames)
    print(table(similarity))
    print(f"{args.out} and {write(similarity, args.out)}")


def _push(args: argparse.Namespace) -> None:
    from upstream.push import push

    print(push(args.model, args.repo, private=args.private, revision=args.revision))


def _s3prl(args: argparse.Namespace) -> None:
    from upstream.harness.launch import launch

    launch(args.rest)


def _import(args: argparse.Namespace) -> None:
    from upstream.importing.convert import import_model
    from upstream.importing.shape import Settings

    settings = Settings(args.heads, args.layer_norm_first, args.normalise)
    print(import_model(args.source, args.out, args.kind, settings))


def _export(args: argparse.Namespace) -> None:
    from upstream.onnx import export_onnx

    parity = export_onnx(args.model, args.out, int8=args.int8, all_states=args.all_states, lengths=not args.no_lengths)
    print(
        f"{args.out}: {args.out.stat().st_size / 1e6:.2f} MB; against PyTorch: largest relative difference "
        f"{parity.max_difference:.2g}, mean cosine {parity.cosine:.5f}"
    )


def _cost(args: argparse.Namespace) -> None:
    from upstream.compression import measure, table

    print(table(measure({path.name: path for path in args.models}, args.out)))


_COMMANDS = {
    "units": _units,
    "pretrain": _pretrain,
    "info": _info,
    "compare": _compare,
    "push": _push,
    "s3prl": _s3prl,
    "import": _import,
    "export": _export,
    "cost": _cost,
}

if __name__ == "__main__":
    sys.exit(main())

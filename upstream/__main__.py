"""Make units, train a model, or look at one, from the command line.

    python -m upstream units    --data data/mini/ssl --out exp/my/units  source=mfcc k=100
    python -m upstream pretrain --data data/mini/ssl --units exp/my/units --out exp/my/hl --geometry mini_hl steps=300
    python -m upstream shards   --data data/mini/ssl --out exp/my/shards --units exp/my/units
    python -m upstream info     exp/my/hl/model
    python -m upstream cost     exp/mini/models/* --out exp/my/compression.csv

units and pretrain also run on several processes: torchrun --nproc_per_node 2 -m upstream pretrain ..., or under srun.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from corpora.files import TooManyBadFiles
from corpora.records import RecordError, record
from upstream.bad_batches import TrainingError
from upstream.config import InitConfig, PretrainConfig, TargetConfig
from upstream.family import FAMILY, geometry


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; 0 when it is done, 2 after one line that says what is wrong."""
    args = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(levelname)s: %(message)s", stream=sys.stderr)
    try:
        {"units": _units, "shards": _shards, "pretrain": _pretrain, "info": _info, "cost": _cost}[args.command](args)
    except (ValueError, KeyError, OSError, TrainingError, TooManyBadFiles) as error:
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
    train.add_argument("--shards", type=Path, help="folder that `shards` wrote: read train from it, sequentially")
    shards = commands.add_parser("shards", help="train as Lhotse Shar, for corpora that outgrow a disk; goes on")
    shards.add_argument("--data", type=Path, required=True, help="folder with the data directory train")
    shards.add_argument("--out", type=Path, required=True)
    shards.add_argument("--units", type=Path, help="folder that `units` wrote; again with others replaces labels alone")
    shards.add_argument("--codec", choices=("flac", "opus"), default="flac", help="default: flac; opus is lossy")
    shards.add_argument("--shard-minutes", type=float, default=60.0, help="audio of one shard (default: 60)")
    shards.add_argument("--jobs", type=int, default=1, help="processes that encode (default: 1)")
    info = commands.add_parser("info", help="what a model directory holds and where it comes from")
    info.add_argument("model", type=Path)
    cost = commands.add_parser("cost", help="parameters, MACs, compression and real-time factor on this CPU")
    cost.add_argument("models", type=Path, nargs="+")
    cost.add_argument("--out", type=Path, required=True, help="table to write (CSV)")
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
    print(pretrain(geometry(args.geometry), args.data, args.units, args.out, config, init, card, shards=args.shards))


def _shards(args: argparse.Namespace) -> None:
    from dataclasses import asdict

    from corpora.datadir import read_datadir
    from upstream.pretrain import training_utterances
    from upstream.shards import write_shards

    utterances, units, origin = read_datadir(args.data / "train"), None, None
    if args.units is not None:
        _, units = training_utterances(args.data, args.units, "train")
        origin = asdict(units.info)
    info = write_shards(
        utterances,
        args.out,
        "train",
        codec=args.codec,
        shard_seconds=60 * args.shard_minutes,
        units=units,
        units_info=origin,
        jobs=args.jobs,
    )
    print(f"{args.out}: {len(info.shards)} shards, {sum(info.hours.values()):.2f} h of {info.codec}")


def _info(args: argparse.Namespace) -> None:
    from upstream.modeldir import load_model, model_sha256, read_card

    model = load_model(args.model)
    facts = {"parameters": sum(p.numel() for p in model.parameters()), "sha256": model_sha256(args.model)}
    print(json.dumps(facts | read_card(args.model), indent=2, ensure_ascii=False))


def _cost(args: argparse.Namespace) -> None:
    from upstream.compression import measure, table

    print(table(measure({path.name: path for path in args.models}, args.out)))


if __name__ == "__main__":
    sys.exit(main())

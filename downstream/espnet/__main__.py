"""Prepare inputs for ESPnet, run ESPnet's own commands with our upstreams registered, decode and score.

python -m downstream.espnet dump    --data data/x/train --out exp/x/dump/train [--speeds 0.9,1,1.1]
python -m downstream.espnet tokens  --data exp/x/dump/train --out exp/x/char --type char
python -m downstream.espnet config  --base conf/train_asr.yaml --upstream harness_custom --upstream_path DIR --out F
python -m downstream.espnet shapes  --data exp/x/dump/train --tokens exp/x/char --config F --out exp/x/shapes/train
python -m downstream.espnet decode  --data exp/x/dump/test --train_config F --model_file F ... --out DIR
python -m downstream.espnet score   --system NAME --data exp/x/dump/test --hypotheses .../text --out DIR
python -m downstream.espnet results --exp exp/x --title TITLE
python -m downstream.espnet asr_train|asr_inference|lm_train|... ARGUMENTS OF ESPNET
"""

from __future__ import annotations

import argparse
import importlib
import logging
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack, nullcontext
from importlib.util import find_spec
from pathlib import Path

from corpora.command import Parser, fail, number, whole
from corpora.files import CorpusError, only_writer


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return 0, or 2 after printing one line about the error, or 130 when interrupted."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    parser, ours = _parser()
    if arguments and arguments[0] not in ours and not arguments[0].startswith("-"):
        return _espnet(arguments[0], arguments[1:], ours)
    logging.basicConfig(level=logging.INFO, format="%(levelname)s: %(message)s", stream=sys.stderr)
    try:
        args = parser.parse_args(arguments)
        with only_writer(args.out) if hasattr(args, "out") else nullcontext():
            args.func(args)
    except KeyboardInterrupt:
        print("downstream.espnet: interrupted; the same command continues", file=sys.stderr)
        return 130
    except Exception as error:
        return fail("downstream.espnet", error)
    return 0


def _espnet(name: str, arguments: list[str], ours: Sequence[str]) -> int:
    """Run `espnet2.bin.<name>` with our upstreams registered; `asr_train` registers them in spawned processes too."""
    if not name.isidentifier() or find_spec(f"espnet2.bin.{name}") is None:
        print(
            f"downstream.espnet: error: no command `{name}`; commands: {', '.join(ours)}, and every module of "
            "espnet2.bin",
            file=sys.stderr,
        )
        return 2
    with ExitStack() as stack:
        try:
            if folder := _output_dir(arguments):
                stack.enter_context(only_writer(folder))
        except CorpusError as error:
            return fail("downstream.espnet", error)
        return _run_espnet(name, arguments)


def _output_dir(arguments: Sequence[str]) -> Path | None:
    """The value of ESPnet's option --output_dir."""
    for place, word in enumerate(arguments):
        if word.startswith("--output_dir="):
            return Path(word.partition("=")[2])
        if word == "--output_dir" and place + 1 < len(arguments):
            return Path(arguments[place + 1])
    return None


def _run_espnet(name: str, arguments: list[str]) -> int:
    import upstream

    upstream.register("s3prl", "transformers")
    if name == "asr_train":
        from downstream.espnet.task import HarnessASRTask

        HarnessASRTask.main(cmd=arguments)
    else:
        importlib.import_module(f"espnet2.bin.{name}").main(arguments)
    return 0


def _parser() -> tuple[argparse.ArgumentParser, list[str]]:
    """The parser, and the names of our commands."""
    parser = Parser(
        prog="python -m downstream.espnet",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    steps = parser.add_subparsers(dest="step", required=True)

    def step(name: str, func: Callable[[argparse.Namespace], None], text: str) -> argparse.ArgumentParser:
        own = steps.add_parser(
            name, help=text, allow_abbrev=False, formatter_class=argparse.ArgumentDefaultsHelpFormatter
        )
        own.set_defaults(func=func)
        return own

    own = step("dump", _dump, "a data directory in ESPnet's form")
    own.add_argument("--data", type=Path, required=True)
    own.add_argument("--out", type=Path, required=True)
    own.add_argument("--min_seconds", type=number(0), default=0.1, help="shorter utterances are left out")
    own.add_argument("--max_seconds", type=number(0, above=True), default=30.0, help="longer utterances are left out")
    own.add_argument("--text_profile", default="none", help="profile of corpora.text")
    own.add_argument("--scored", action="store_true", help="a test set: keep every utterance, and the text unchanged")
    own.add_argument("--speeds", default="1", help="factors of speed perturbation, comma-separated")
    own.add_argument("--jobs", type=whole(1), default=1, help="processes")

    own = step("tokens", _tokens, "characters or SentencePiece pieces of a training text")
    own.add_argument("--data", type=Path, required=True)
    own.add_argument("--out", type=Path, required=True)
    own.add_argument("--type", default="char", help="char or bpe")
    own.add_argument("--pieces", type=whole(1), default=500, help="number of SentencePiece pieces")

    own = step("config", _config, "ESPnet's training configuration for one upstream")
    own.add_argument("--base", type=Path, required=True, help="YAML without a front end")
    own.add_argument("--upstream", default="fbank", help="fbank, or a name on S3PRL's hub")
    own.add_argument("--upstream_path", type=Path, help="model directory, for harness_custom")
    own.add_argument("--finetune", action="store_true", help="train the upstream too (default: frozen)")
    own.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override a value of the base")
    own.add_argument("--out", type=Path, required=True)

    own = step("shapes", _shapes, "the shape files from which ESPnet makes batches")
    own.add_argument("--data", type=Path, required=True)
    own.add_argument("--tokens", type=Path, required=True, help="folder that `tokens` wrote")
    own.add_argument("--config", type=Path, required=True, help="file that `config` wrote")
    own.add_argument("--training", action="store_true", help="leave out utterances that CTC cannot align")
    own.add_argument("--out", type=Path, required=True)

    own = step("lm_text", _lm_text, "text and shapes for ESPnet's language model")
    own.add_argument("--data", type=Path, required=True)
    own.add_argument("--tokens", type=Path, required=True, help="folder that `tokens` wrote")
    own.add_argument("--out", type=Path, required=True)

    own = step("decode", _decode, "hypotheses of a test set, in several processes")
    own.add_argument("--data", type=Path, required=True)
    own.add_argument("--train_config", type=Path, required=True, help="config.yaml that ESPnet wrote")
    own.add_argument("--model_file", type=Path, required=True, help="for instance valid.acc.ave.pth")
    own.add_argument("--inference_config", type=Path, required=True)
    own.add_argument("--lm_config", type=Path)
    own.add_argument("--lm_file", type=Path)
    own.add_argument("--jobs", type=whole(1), default=1, help="processes")
    own.add_argument("--gpus", type=whole(0), default=0, help="GPUs per process, 0 or 1")
    own.add_argument("--launcher", default="", help="command that starts a process, for instance: srun --mem 8G")
    own.add_argument("--out", type=Path, required=True)

    own = step("score", _score, "WER and CER of a decoded set")
    own.add_argument("--system", required=True, help="name in the table")
    own.add_argument("--data", type=Path, required=True)
    own.add_argument("--hypotheses", type=Path, required=True, help="ESPnet's file `text`")
    own.add_argument("--text_profile", default="mgb", help="profile of corpora.text for both sides")
    own.add_argument("--out", type=Path, required=True)

    own = step("results", _results, "RESULTS.md from all scores of an experiment")
    own.add_argument("--exp", type=Path, required=True)
    own.add_argument("--title", required=True)
    return parser, list(steps.choices)


def _dump(args: argparse.Namespace) -> None:
    from downstream.espnet.data import DumpConfig, dump

    try:
        speeds = tuple(float(part) for part in args.speeds.split(",") if part.strip())
    except ValueError:
        raise CorpusError(f"--speeds {args.speeds}: give factors separated by commas, such as 0.9,1,1.1") from None
    config = DumpConfig(args.min_seconds, args.max_seconds, args.text_profile, speeds, args.scored)
    dump(args.data, args.out, config, jobs=args.jobs)


def _tokens(args: argparse.Namespace) -> None:
    from downstream.espnet.data import make_tokens

    make_tokens(args.data, args.out, args.type, args.pieces)


def _config(args: argparse.Namespace) -> None:
    from downstream.espnet.config import FrontEnd, training_config, write_config

    front_end = FrontEnd(args.upstream, args.upstream_path, freeze=not args.finetune)
    write_config(training_config(args.base, front_end, args.set), args.out)


def _shapes(args: argparse.Namespace) -> None:
    import yaml

    from downstream.espnet.config import samples_per_frame
    from downstream.espnet.data import open_tokens, write_shapes

    tokens = open_tokens(args.tokens)
    config = yaml.safe_load(args.config.read_text(encoding="utf-8"))
    write_shapes(args.data, args.out, tokens, samples_per_frame(config), training=args.training)


def _lm_text(args: argparse.Namespace) -> None:
    from downstream.espnet.data import open_tokens, write_lm_text

    write_lm_text(args.data, args.out, open_tokens(args.tokens))


def _decode(args: argparse.Namespace) -> None:
    import shlex

    from downstream.espnet.decode import System, decode

    system = System(args.train_config, args.model_file, args.inference_config, args.lm_config, args.lm_file)
    launcher = shlex.split(args.launcher)
    print(decode(args.data, args.out, system, jobs=args.jobs, gpus=args.gpus, launcher=launcher))


def _score(args: argparse.Namespace) -> None:
    from downstream.espnet.score import read_decoded, write_scores

    write_scores(args.out, read_decoded(args.system, args.data, args.hypotheses), args.text_profile)


def _results(args: argparse.Namespace) -> None:
    from downstream.espnet.score import write_results

    print(write_results(args.exp, args.title))


if __name__ == "__main__":
    sys.exit(main())

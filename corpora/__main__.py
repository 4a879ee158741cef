"""Prepare a corpus, or check a data directory, from the command line.

    python -m corpora --list
    python -m corpora baved --corpus /data/baved --out data/baved [--jobs N] [--set folds=4]
    python -m corpora baved --help                           # what it is, how to get it, its options
    python -m corpora mini --out data/mini
    python -m corpora open_arabic --out data/open_arabic     # the four folders come from the environment
    python -m corpora ssl --out data/both --from data/mgb2/train --from data/librispeech/train-clean-100
    python -m corpora validate data/open_arabic
    python -m corpora cuts data/baved/fold1/train --out baved.jsonl.gz   # for Lhotse

A corpus given as `downloads` is fetched from its publisher into the folder `downloads` first; one given as an archive
(tar, zip) is unpacked into `<out>/unpacked` first.
"""

from __future__ import annotations

import argparse
import inspect
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import NoReturn

from corpora import download, machine, registry
from corpora.datadir import read_datadir, validate_datadir
from corpora.files import atomic_file
from corpora.prepare.ingest import CorpusError
from corpora.schema import nearest
from corpora.sets import open_arabic

DOWNLOADS = "downloads"
_OTHERS = {
    "mini": "synthetic Arabic and English speech, nothing to download",
    "open_arabic": f"self-supervised, ASR and SER data from {', '.join(m.INFO.name for m in open_arabic.CORPORA)}",
    "ssl": "one self-supervised set out of prepared data directories, without what is held out",
    "validate": "check the data directories in a folder",
    "cuts": "a data directory as a cut set of Lhotse, for its users",
}


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, as all errors here do."""

    def error(self, message: str) -> NoReturn:
        raise CorpusError(f"{message} (see python -m corpora --help)")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; 0 when it is done, 2 after one line that says what is wrong."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)s: %(message)s", stream=sys.stderr)
    try:
        return _run(list(sys.argv[1:] if arguments is None else arguments))
    except (ValueError, OSError, RuntimeError) as error:  # all errors of this package are among these
        print(f"corpora: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("corpora: interrupted; the same command goes on from here", file=sys.stderr)
        return 130


def _run(arguments: list[str]) -> int:
    parser = _Parser(
        prog="python -m corpora", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--list", action="store_true", help="list the corpora that can be prepared")
    parser.add_argument("command", nargs="?", help="a corpus of --list, or validate")
    options, rest = parser.parse_known_args(arguments[:1])
    if options.list:
        _print_list()
        return 0
    known = [*registry.MODULES, *_OTHERS]
    if options.command is None:
        parser.error(f"unknown option {rest[0]}" if rest else "no corpus is named")
    if options.command not in known:
        hint = nearest(options.command, known) or f"; known are {', '.join(known)}"
        raise CorpusError(f"unknown corpus or command `{options.command}`{hint}")
    rest += arguments[1:]
    if options.command == "validate":
        return _validate(rest)
    if options.command == "ssl":
        return _ssl(rest)
    if options.command == "cuts":
        return _cuts(rest)
    return _prepare(options.command, rest)


def _prepare(name: str, arguments: list[str]) -> int:
    module = registry.load(name) if name in registry.MODULES else None
    parser = _Parser(
        prog=f"python -m corpora {name}",
        description=registry.describe(module.INFO) if module else _OTHERS[name],
        epilog=_describe_options(module) if module else None,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    if module:
        fetched = f"; or '{DOWNLOADS}' to fetch it" if name in download.DOWNLOADS else ""
        parser.add_argument("--corpus", required=True, help=f"folder of the corpus, or its archive{fetched}")
        parser.add_argument(
            "--set", action="append", default=[], metavar="KEY=VALUE", help="an option of this corpus, see below"
        )
    parser.add_argument("--out", type=Path, required=True, help="folder to write the data directories into")
    if not module or "seed" in registry.options(module):
        parser.add_argument("--seed", type=int, default=0, help="seed of every random choice (default: 0)")
    parser.add_argument("--jobs", type=_positive, default=machine.cores(), help="processes (default: number of cores)")
    if name == "mini":
        parser.add_argument("--scale", type=float, default=1.0, help="size; 1.0 (the default) is that of the recipe")
    options = parser.parse_args(arguments)
    common = {key: getattr(options, key) for key in ("seed", "jobs") if hasattr(options, key)}
    if module:
        chosen = registry.parse_options(module, options.set)
        module.prepare(_folder(name, options.corpus, options.out), options.out, **{**common, **chosen})
    elif name == "mini":
        from corpora.sets import mini  # the synthesiser's library is loaded only where it is used

        mini.prepare(options.out, scale=options.scale, **common)
    else:
        sources = {
            corpus.INFO.variable: _folder(corpus.INFO.name, os.environ[corpus.INFO.variable], options.out)
            for corpus in open_arabic.CORPORA
            if os.environ.get(corpus.INFO.variable)
        }
        open_arabic.prepare(options.out, sources=sources, **common)
    return 0


def _describe_options(module: ModuleType) -> str | None:
    """The options of `--set` with their defaults, and what `prepare` says about them."""
    own = {key: p for key, p in registry.options(module).items() if key not in ("seed", "jobs")}
    lines = [f"    {key}={'' if p.default is None else p.default}" for key, p in own.items()]
    about = inspect.getdoc(module.prepare) or ""
    return "\n".join(["options of --set, with their defaults:" if lines else "no options", *lines, "", about])


def _folder(name: str, value: str, out_dir: Path) -> Path:
    """The folder of a corpus, fetched or unpacked first where the value says so."""
    if value != DOWNLOADS:
        path = Path(value).expanduser()
        return download.unpack_once(path, out_dir / "unpacked" / name) if path.is_file() else path
    if name not in download.DOWNLOADS:
        how = registry.how_to_get(registry.load(name).INFO)
        raise CorpusError(f"{name} cannot be fetched by itself; get it: {how}")
    return download.DOWNLOADS[name](Path(DOWNLOADS))


def _validate(arguments: list[str]) -> int:
    """Check every data directory in a folder; one line for each problem."""
    parser = _Parser(prog="python -m corpora validate", allow_abbrev=False)
    parser.add_argument("dir", type=Path, help="a data directory, or a folder that holds some")
    folder = parser.parse_args(arguments).dir
    found = sorted(path.parent for path in folder.rglob("wav.scp"))
    if not found:
        raise CorpusError(f"{folder}: expected a data directory or a folder that holds some; found no wav.scp")
    problems = 0
    for data_dir in found:
        own = validate_datadir(data_dir)
        problems += len(own)
        for problem in own:
            print(problem, file=sys.stderr)
        print(f"{data_dir}: {'ok' if not own else f'{len(own)} problems'}")
    return 2 if problems else 0


def _cuts(arguments: list[str]) -> int:
    """Write the utterances of a data directory as cuts."""
    parser = _Parser(prog="python -m corpora cuts", allow_abbrev=False)
    parser.add_argument("dir", type=Path, help="a data directory")
    parser.add_argument("--out", type=Path, required=True, help="file to write, .jsonl or .jsonl.gz")
    options = parser.parse_args(arguments)
    if not options.out.name.endswith((".jsonl", ".jsonl.gz")):
        parser.error(f"--out {options.out}: expected a name that ends in .jsonl or .jsonl.gz")
    utterances = read_datadir(options.dir)
    from corpora.prepare.cuts import cut_set

    with atomic_file(options.out) as temporary:
        cut_set(utterances).to_file(temporary)
    print(f"{options.out}: {len(utterances)} cuts")
    return 0


def _ssl(arguments: list[str]) -> int:
    """Put prepared data directories together for pre-training."""
    from corpora.sets import ssl

    parser = _Parser(
        prog="python -m corpora ssl",
        description=ssl.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--out", type=Path, required=True, help="writes OUT/ssl/{train,dev}")
    add("--from", dest="sets", action="append", default=[], metavar="DIR[:LANG]", help="data directory to train on")
    add("--held-out", action="append", default=[], metavar="DIR", help="data directory of what is scored")
    add("--max-seconds", type=float, default=30.0, help="longer utterances are cut (default: %(default)s)")
    add("--min-seconds", type=float, default=0.5, help="shorter ones are left out (default: %(default)s)")
    add("--dev-share", type=float, default=ssl.DEV_SHARE, help="of each language (default: %(default)s)")
    add(
        "--min-text-words",
        type=_positive,
        default=ssl.MIN_TEXT_WORDS,
        help="a held-out text of fewer words may be trained on (default: %(default)s)",
    )
    add(
        "--keep-speakers",
        dest="held_out_speakers",
        action="store_false",
        help="train on other utterances of held-out speakers too (default: no)",
    )
    add("--seed", type=int, default=0, help="seed of the dev part (default: %(default)s)")
    options = vars(parser.parse_args(arguments))
    ssl.prepare(options.pop("out"), **options)
    return 0


def _positive(value: str) -> int:
    number = int(value)
    if number < 1:
        raise argparse.ArgumentTypeError(f"expected 1 or more, got {value}")
    return number


def _print_list() -> None:
    for name in sorted(registry.MODULES):
        print(registry.describe(registry.load(name).INFO), end="\n\n")
    for name, text in _OTHERS.items():
        if name != "validate":
            print(f"{name}  {text}")


if __name__ == "__main__":
    sys.exit(main())

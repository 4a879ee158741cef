"""Prepare corpora and check data directories from the command line.

    python -m corpora --list
    python -m corpora baved --corpus /data/baved --out data/baved [--jobs N] [--set folds=4]
    python -m corpora baved --help                           # about the corpus: how to get it, its options
    python -m corpora mini --out data/mini
    python -m corpora open_arabic --out data/open_arabic     # variables such as BAVED= name the folders
    python -m corpora ssl --out data/both --from data/mgb2/train --from data/librispeech/train-clean-100
    python -m corpora table recordings.csv --out data/mine   # a list of your own recordings
    python -m corpora validate data/open_arabic [--quick]    # tables, and all audio is decoded
    python -m corpora degrade data/everyayah/test --condition telephone --out data/telephone
    python -m corpora cuts data/baved/fold1/train --out baved.jsonl.gz   # for Lhotse

--corpus downloads fetches the corpus from its publisher into the folder `downloads`. An archive (tar, zip) is unpacked
into `<out>/unpacked`.
"""

from __future__ import annotations

import argparse
import inspect
import logging
import os
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from types import ModuleType
from typing import Any

from corpora import fetch, machine, registry
from corpora.command import Parser, fail, number, output_folder, whole
from corpora.datadir import read_datadir
from corpora.files import CorpusError, atomic_file, only_writer
from corpora.schema import nearest
from corpora.text import PROFILES

DOWNLOADS = "downloads"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns 0 on success, 2 after an error, which is printed on one line."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)s: %(message)s", stream=sys.stderr)
    options: dict[str, Any] = {}
    try:
        arguments = list(sys.argv[1:] if arguments is None else arguments)
        options = vars(_parser(arguments[0] if arguments else "").parse_args(arguments))
        if options.pop("list"):
            return _list()
        if not options.pop("command"):
            raise CorpusError("expected the name of a corpus or a command (see python -m corpora --help)")
        run, channel = options.pop("run"), options.pop("channel", None)
        with only_writer(options["out"]) if "out" in options else nullcontext(), _taking(channel):
            return run(**options)
    except KeyboardInterrupt:
        print("corpora: interrupted; the same command resumes", file=sys.stderr)
        return 130
    except Exception as error:
        return fail("corpora", error, output=options.get("out"))


def _taking(channel: int | None) -> AbstractContextManager[None]:
    if channel is None:
        return nullcontext()
    from corpora.prepare.sources import taking_channel  # takes a second to import

    return taking_channel(channel)


def _parser(asked: str) -> argparse.ArgumentParser:
    """The command-line parser. Only the requested command imports its module and gets its options."""
    known = [*registry.MODULES, *COMMANDS]
    if asked and not asked.startswith("-") and asked not in known:
        hint = nearest(asked, known) or f"; known are {', '.join(known)}"
        raise CorpusError(f"unknown corpus or command `{asked}`{hint}")
    form: dict[str, Any] = {"formatter_class": argparse.RawDescriptionHelpFormatter, "allow_abbrev": False}
    parser = Parser(prog="python -m corpora", description=__doc__, **form)
    parser.add_argument("--list", action="store_true", help="list the corpora that can be prepared")
    commands = parser.add_subparsers(dest="command", metavar="command", help="a corpus of --list, or validate")
    for name in known:
        if name != asked:
            commands.add_parser(name)
        elif name in COMMANDS:
            about, add_options = COMMANDS[name]
            add_options(commands.add_parser(name, description=about, **form))
        else:
            module = registry.load(name)
            about, options = registry.describe(module.INFO), _describe_options(module)
            _add_corpus(commands.add_parser(name, description=about, epilog=options, **form), module)
    return parser


def _add_corpus(parser: argparse.ArgumentParser, module: ModuleType) -> None:
    fetched = f"; or '{DOWNLOADS}' to fetch it" if registry.can_be_fetched(module.INFO.name) else ""
    parser.add_argument("--corpus", required=True, help=f"folder of the corpus, or its archive{fetched}")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="an option of this corpus, see below"
    )
    _add_output(parser, seed="seed" in registry.options(module))
    _add_channel(parser)
    parser.set_defaults(run=_prepare, module=module)


def _add_mini(parser: argparse.ArgumentParser) -> None:
    _add_output(parser)
    parser.add_argument(
        "--scale", type=number(0, above=True), default=1.0, help="size; 1.0 (the default) is that of the recipe"
    )
    parser.set_defaults(run=_mini)


def _add_open_arabic(parser: argparse.ArgumentParser) -> None:
    _add_output(parser)
    _add_channel(parser)
    parser.set_defaults(run=_open_arabic)


def _add_ssl(parser: argparse.ArgumentParser) -> None:
    from corpora.sets import ssl

    parser.description = ssl.__doc__
    add = parser.add_argument
    add("--out", type=output_folder, required=True, help="writes OUT/ssl/{train,dev}")
    add("--from", dest="sets", action="append", default=[], metavar="DIR[:LANG]", help="data directory to train on")
    add("--held-out", action="append", default=[], metavar="DIR", help="data directory that will be scored")
    add(
        "--max-seconds",
        type=number(0, above=True),
        default=30.0,
        help="longer utterances are cut (default: %(default)s)",
    )
    add("--min-seconds", type=number(0), default=0.5, help="shorter ones are left out (default: %(default)s)")
    add("--dev-share", type=number(0, 1), default=ssl.DEV_SHARE, help="of each language (default: %(default)s)")
    add(
        "--min-text-words",
        type=whole(1),
        default=ssl.MIN_TEXT_WORDS,
        help="a held-out text of fewer words may be trained on (default: %(default)s)",
    )
    add(
        "--keep-speakers",
        dest="held_out_speakers",
        action="store_false",
        help="train on other utterances of held-out speakers too (default: no)",
    )
    add("--seed", type=whole(0), default=0, help="seed of the dev part (default: %(default)s)")
    parser.set_defaults(run=_ssl)


def _add_table(parser: argparse.ArgumentParser) -> None:
    from corpora.sets import table

    parser.description = table.__doc__
    add = parser.add_argument
    add("file", type=Path, help="the list: CSV, TSV or JSON lines")
    add("--out", type=output_folder, required=True, help="folder to write the data directories into")
    add("--column", action="append", default=[], metavar="FIELD=NAME", help="a column with another name than the usual")
    add("--root", type=Path, default=None, help="folder of relative paths (default: that of the list)")
    add("--language", default="ar", help="of rows without one (default: %(default)s)")
    add("--text-profile", default="none", help="profile of corpora.text (default: %(default)s)")
    add("--dev-share", type=float, default=0.0, help="of the speakers, for a list without splits (default: 0)")
    add("--test-share", type=float, default=0.0, help="of the speakers, for a list without splits (default: 0)")
    add("--seed", type=whole(0), default=0, help="of the drawn speakers (default: 0)")
    _add_jobs(parser)
    _add_channel(parser)
    parser.set_defaults(run=_table)


def _add_validate(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "folders", metavar="dir", type=Path, nargs="+", help="a data directory, or a folder that contains some"
    )
    parser.add_argument(
        "--quick", action="store_true", help="read the headers of the audio only; a broken download may pass"
    )
    _add_jobs(parser)
    parser.set_defaults(run=_validate)


def _add_cuts(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", metavar="dir", type=Path, help="a data directory")
    parser.add_argument("--out", type=Path, required=True, help="file to write, .jsonl or .jsonl.gz")
    parser.set_defaults(run=_cuts)


def _add_degrade(parser: argparse.ArgumentParser) -> None:
    from corpora.prepare.conditions import CONDITIONS

    parser.add_argument("folder", metavar="dir", type=Path, help="a data directory, such as a test set")
    parser.add_argument("--condition", choices=list(CONDITIONS), required=True)
    parser.add_argument("--out", type=output_folder, required=True, help="writes OUT/<name of dir> and OUT/audio")
    parser.set_defaults(run=_degrade)


def _add_output(parser: argparse.ArgumentParser, *, seed: bool = True) -> None:
    parser.add_argument("--out", type=output_folder, required=True, help="folder to write the data directories into")
    if seed:
        parser.add_argument("--seed", type=whole(0), default=0, help="seed of every random choice (default: 0)")
    _add_jobs(parser)


def _add_jobs(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--jobs", type=whole(1), default=machine.cores(), help="processes (default: number of cores)")


def _add_channel(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--channel", type=whole(0), metavar="N", help="of recordings with several, from 0 (default: the average)"
    )


def _describe_options(module: ModuleType) -> str:
    """The options of `--set` with their defaults, and the docstring of `prepare`."""
    own = {key: p for key, p in registry.options(module).items() if key not in ("seed", "jobs")}
    lines = [f"    {key}={'' if p.default is None else p.default}" for key, p in own.items()]
    about = inspect.getdoc(module.prepare) or ""
    return "\n".join(["options of --set, with their defaults:" if lines else "no options", *lines, "", about])


def _list() -> int:
    for name in sorted(registry.MODULES):
        print(registry.describe(registry.load(name).INFO), end="\n\n")
    for name, (about, _) in COMMANDS.items():
        print(f"{name}  {about}")
    return 0


def _prepare(module: ModuleType, corpus: str, out: Path, **options: Any) -> int:
    chosen = registry.parse_options(module, options.pop("set"))
    module.prepare(_folder(module, corpus, out), out, **{**options, **chosen})
    return 0


def _mini(out: Path, **options: Any) -> int:
    from corpora.sets import mini  # loads the library of the synthesiser

    mini.prepare(out, **options)
    return 0


def _open_arabic(out: Path, **options: Any) -> int:
    from corpora.sets import open_arabic

    sources = {
        module.INFO.variable: _folder(module, os.environ[module.INFO.variable], out)
        for module in open_arabic.CORPORA
        if os.environ.get(module.INFO.variable)
    }
    open_arabic.prepare(out, sources=sources, **options)
    return 0


def _folder(module: ModuleType, value: str, out: Path) -> Path:
    """The folder of a corpus. value: a folder, an archive (unpacked first), or `downloads` (fetched first)."""
    name = module.INFO.name
    if value != DOWNLOADS:
        path = Path(value).expanduser()
        if path.is_file():
            return fetch.unpack_once(path, out / "unpacked" / name)
        if path.is_dir() and out.resolve().is_relative_to(path.resolve()):
            raise CorpusError(
                f"--out {out}: lies in the corpus folder {path}, so the next run would take the converted copies for "
                "recordings; name a folder outside of it"
            )
        return path
    if not registry.can_be_fetched(name):
        raise CorpusError(f"{name} cannot be fetched automatically; get it: {registry.how_to_get(module.INFO)}")
    return module.download(Path(DOWNLOADS))


def _ssl(out: Path, **options: Any) -> int:
    from corpora.sets import ssl

    ssl.prepare(out, **options)
    return 0


def _table(file: Path, out: Path, column: list[str], **options: Any) -> int:
    from corpora.sets import table

    if options["text_profile"] not in PROFILES:
        hint = nearest(options["text_profile"], PROFILES)
        raise CorpusError(f"--text-profile {options['text_profile']}: expected one of {', '.join(PROFILES)}{hint}")
    shares = table.Shares(options.pop("dev_share"), options.pop("test_share"), options.pop("seed"))
    written = table.prepare(file, out, columns=column, shares=shares, **options)
    for split, own in sorted(written.items()):
        print(f"{out / split}: {len(own)} utterances, {len({u.speaker for u in own})} speakers")
    return 0


def _validate(folders: list[Path], quick: bool, jobs: int) -> int:
    """Check every data directory in the folders with its audio; prints one line per problem."""
    from corpora.prepare.validation import check_datadir, find_datadirs

    found: list[Path] = []
    problems: list[str] = []
    for folder in folders:
        own, unreadable = find_datadirs(folder)
        if not own and not (unreadable and folder.is_dir()):
            raise CorpusError(f"{folder}: expected a data directory or a folder that contains some; found no wav.scp")
        found += own
        problems += unreadable
    for problem in problems:
        print(problem, file=sys.stderr)
    ok = "ok (headers only; the audio was not decoded)" if quick else "ok"
    for data_dir in found:
        own = check_datadir(data_dir, quick=quick, jobs=jobs)
        problems += own
        for problem in own:
            print(problem, file=sys.stderr)
        print(f"{data_dir}: {ok if not own else f'{len(own)} problems'}")
    return 2 if problems else 0


def _cuts(folder: Path, out: Path) -> int:
    """Write the utterances of a data directory as cuts."""
    from corpora.prepare.lhotse import cut_set

    if not out.name.endswith((".jsonl", ".jsonl.gz")):
        raise CorpusError(f"--out {out}: expected a name that ends in .jsonl or .jsonl.gz")
    utterances = read_datadir(folder)
    with atomic_file(out) as temporary:
        cut_set(utterances).to_file(temporary)
    print(f"{out}: {len(utterances)} cuts")
    return 0


def _degrade(folder: Path, condition: str, out: Path) -> int:
    from corpora.prepare.conditions import degrade

    print(f"{out}: {len(degrade(folder, out, condition))} utterances")
    return 0


COMMANDS = {
    "mini": ("synthetic Arabic and English speech, nothing to download", _add_mini),
    "open_arabic": ("self-supervised, ASR and SER data from four open corpora", _add_open_arabic),
    "ssl": ("one self-supervised set from prepared data directories, without the held-out data", _add_ssl),
    "table": ("data directories from a CSV, TSV or JSON-lines list of your recordings", _add_table),
    "validate": ("check the data directories in a folder, and all of their audio", _add_validate),
    "degrade": ("write a data directory with noise (10 dB), a telephone band or MP3 (16 kbit/s)", _add_degrade),
    "cuts": ("write a data directory as a cut set of Lhotse", _add_cuts),
}


if __name__ == "__main__":
    sys.exit(main())

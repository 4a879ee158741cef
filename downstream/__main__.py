"""Train and score probes, write the report, and apply trained heads to audio files.

python -m downstream benchmark --recipe mini --data data/mini --exp exp/mini --upstreams fbank,harness_l
python -m downstream report --recipe mini --exp exp/mini
python -m downstream traits --models HL=exp/my/models/harness_l,HST=... --data data/my/traits --out exp/my/traits
python -m downstream transcribe talk.mp3
python -m downstream transcribe talk.mp3 --model exp/mini/probes/asr_light/harness_st/seed0/head
arecord -q -f S16_LE -r 16000 -c 1 | python -m downstream transcribe --stream - --model exp/my/ctc/head
python -m downstream find recitation.mp3 --texts verses.text --spans 5
python -m downstream web --texts verses.text
python -m downstream score --hypotheses text --references data/mgb3/dev
"""

from __future__ import annotations

import argparse
import logging
import shlex
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from corpora.command import Parser, device, fail, number, output_folder, whole
from corpora.files import check_output, only_writer
from corpora.names import check_name
from corpora.schema import nearest
from downstream import DownstreamError
from downstream.grid import run as grid
from downstream.grid.plan import parse_part
from downstream.protocols import TASKS, parse_overrides
from upstream.names import STANDARD_UPSTREAMS, TEACHER

_PREDICTED = {
    "asr": "text of audio files, by a trained ASR head",
    "ser": "emotion of audio files, by a trained SER head",
    "did": "dialect of audio files, by a trained DID head",
}
_EPILOGUE = (
    "Reads every common audio format (WAV, FLAC, MP3, M4A, Opus, WebM, AMR, WMA and others), at any sample rate and "
    "length; writes UTF-8. A broken download is read as far as it goes, and its line says so. Exit "
    "status: 0 all files have an answer, 1 some files have an error, 2 wrong options or head."
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command. Returns 0 on success, 1 when probes or files failed, 2 after a one-line error message."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s", stream=sys.stderr)
    try:
        return _run(list(sys.argv[1:] if arguments is None else arguments))
    except grid.BenchmarkError as error:
        return fail("downstream", error, 1)
    except KeyboardInterrupt:
        print("downstream: interrupted; finished probes are kept, and the same command resumes", file=sys.stderr)
        return 130
    except Exception as error:
        return fail("downstream", error)


def _run(arguments: list[str]) -> int:
    parser = build_parser()
    parsed, unknown = parser.parse_known_args(arguments)
    if unknown:
        known = [option[2:] for option in parser.options if option.startswith("--")]
        name = unknown[0].partition("=")[0]
        raise DownstreamError(f"unknown option {name}{nearest(name.lstrip('-'), known, '--')}")
    return parsed.run(parsed)


def _benchmark(parsed: argparse.Namespace) -> int:
    grid.run_tasks(
        _names(parsed.tasks, "--tasks", TASKS),
        check_name(parsed.recipe, "--recipe"),
        parsed.data,
        parsed.exp,
        _names(parsed.upstreams, "--upstreams"),
        parsed.models or parsed.exp / "models",
        parsed.protocol,
        [_number(seed, "--seeds") for seed in _names(parsed.seeds, "--seeds")],
        parsed.folds,
        parse_overrides(parsed.set),
        finetune=_names(parsed.finetune, "--finetune"),
        budgets=_names(parsed.budget, "--budget"),
        jobs=parsed.jobs,
        device=parsed.device,
        part=None if parsed.shard is None else parse_part(parsed.shard),
        cache_gb=parsed.cache_gb,
        dry_run=parsed.dry_run,
    )
    return 0


def _report(parsed: argparse.Namespace) -> int:
    from downstream import report

    check_name(parsed.recipe, "--recipe")
    if not parsed.exp.is_dir():
        raise DownstreamError(f"--exp {parsed.exp}: no such folder")
    with only_writer(parsed.exp / "report"):
        report.build(parsed.exp, parsed.recipe, reference=parsed.reference)
    return 0


def _traits(parsed: argparse.Namespace) -> int:
    from downstream import traits

    models = {}
    for entry in _names(parsed.models, "--models"):
        name, _, path = entry.partition("=")
        if not path or name in models:
            raise DownstreamError(f"--models: `{entry}`: give NAME=DIR, each name once")
        models[check_name(name, "--models")] = Path(path)
    against = _names(parsed.against, "--against") if parsed.against else []
    probes = traits.probe_models(models, parsed.data, against=against, reference=next(iter(models)))
    words = ["--models", parsed.models, "--data", str(parsed.data), "--out", str(parsed.out)]
    words += ["--against", parsed.against] if parsed.against else []
    with only_writer(parsed.out):
        print(traits.write(probes, parsed.out, shlex.join(["python", "-m", "downstream", "traits", *words])))
    return 0


def _score(parsed: argparse.Namespace) -> int:
    from corpora.text import PROFILES
    from downstream.score import texts

    if parsed.text_profile not in PROFILES:
        hint = nearest(parsed.text_profile, PROFILES)
        raise DownstreamError(f"--text_profile {parsed.text_profile}: expected one of {', '.join(PROFILES)}{hint}")
    speakers = texts.read_text(parsed.utt2spk) if parsed.utt2spk else None
    files = texts.reference_files(parsed.references)
    check_output(parsed.out, [parsed.hypotheses, parsed.utt2spk, *files])
    rates = texts.score_files(parsed.hypotheses, files, parsed.text_profile, speakers)
    print(texts.table(rates))
    if parsed.out:
        texts.write_rates(parsed.out, rates)
    return 0


def _predict(parsed: argparse.Namespace) -> int:
    from downstream import predict

    return predict.run(parsed)


def _find(parsed: argparse.Namespace) -> int:
    from downstream import predict

    return predict.find(parsed)


def _web(parsed: argparse.Namespace) -> int:
    from downstream.web import server

    return server.run(parsed)


def build_parser() -> argparse.ArgumentParser:
    """The parser of all commands; its attribute `options` lists the option strings of every command."""
    parser = Parser(
        prog="python -m downstream", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    defaults = argparse.ArgumentDefaultsHelpFormatter
    benchmark = commands.add_parser("benchmark", help="train and score missing probes", formatter_class=defaults)
    benchmark.set_defaults(run=_benchmark)
    add = benchmark.add_argument
    add("--recipe", required=True, help="name in the table")
    add("--data", type=Path, required=True, help="holds <task>/{train,dev,test*} or <task>/fold<k>/...")
    add("--exp", type=Path, required=True, help="folder for results.csv, probes/ and cache/")
    add("--models", type=Path, default=None, help="folder of model directories (None: <exp>/models)")
    add(
        "--upstreams",
        default=",".join(STANDARD_UPSTREAMS),
        help="comma-separated; fbank, a model directory, or name=path",
    )
    add("--tasks", default=",".join(TASKS), help="comma-separated")
    add("--protocol", default="light", help="downstream/<task>/<protocol>.yaml")
    add("--seeds", default="0,1,2", help="comma-separated")
    add("--folds", type=whole(1), default=None, help="use the first N folds (None: all)")
    add("--jobs", type=whole(1), default=None, help="processes (None: one per core, or one per GPU)")
    add("--finetune", default="probe", help="trained part of the upstream, comma-separated: probe (none), top-K "
        "layers, lora-R (rank), full")  # fmt: skip
    add("--budget", default="all", help="labelled training speech, comma-separated: 10min, 1h, a share (0.1), all")
    add("--device", type=device, default="auto", help="auto, cpu, cuda (processes take the GPUs in turn) or cuda:N")
    add("--shard", default=None, metavar="I/N", help="part I of N, for array jobs (None: all)")
    add("--cache_gb", type=number(0, above=True), default=None, help="limit of stored features (GB); the least "
        "recently used are deleted first (None: the disk)")  # fmt: skip
    add("--dry_run", action="store_true", help="print the plan with its time and disk space; train nothing")
    add("--set", action="append", default=[], metavar="KEY=VALUE", help="override a protocol value")

    page = commands.add_parser(
        "report", help="tables, plots and the page report/index.html from results.csv", formatter_class=defaults
    )
    page.set_defaults(run=_report)
    page.add_argument("--recipe", required=True, help="name in the table")
    page.add_argument("--exp", type=Path, required=True, help="folder of results.csv; the page goes to its report/")
    page.add_argument("--reference", default=TEACHER, help="upstream with 1000 in the SUPERB-like score (fbank has 0)")

    kept = commands.add_parser(
        "traits", help="linear probes for speaker and language on every hidden state", formatter_class=defaults
    )
    kept.set_defaults(run=_traits)
    kept.add_argument(
        "--models", required=True, metavar="NAME=DIR,...", help="model directories; ΔS is relative to the first"
    )
    kept.add_argument("--data", type=Path, required=True, help="holds {speaker,language}/{train,test}")
    kept.add_argument(
        "--out", type=output_folder, required=True, help="folder for TRAITS.md, traits.csv and traits.png"
    )
    kept.add_argument("--against", default=None, metavar="NAMES", help="models to compare the others with")

    files = commands.add_parser(
        "score", help="WER and CER of a file of hypotheses, against one or several references", formatter_class=defaults
    )
    files.set_defaults(run=_score)
    files.add_argument("--hypotheses", type=Path, required=True, help="Kaldi's text: an utterance id and its words")
    files.add_argument("--references", type=Path, nargs="+", required=True, metavar="FILE", help="Kaldi's text of each "
        "annotator, or a data directory; several add the multi-reference WER")  # fmt: skip
    files.add_argument("--text_profile", default="mgb", help="profile of corpora.text for both sides")
    files.add_argument("--utt2spk", type=Path, default=None, help="speakers, for intervals over speakers (None: over "
        "utterances)")  # fmt: skip
    files.add_argument("--out", type=Path, default=None, help="file of the rates, CSV (None: print them only)")

    predictors = [_add_predictor(commands, task) for task in TASKS]
    add = predictors[0].add_argument  # asr; all of these need a CTC recogniser
    add("--words", action="store_true", help="times of each word, with --format json")
    add("--hotwords", metavar="FILE_OR_LIST", help="words and phrases to prefer where they sound similar: a file with "
        "one a line, or a list with commas")  # fmt: skip
    add("--stream", action="store_true", help="read 16-bit PCM (16 kHz, mono) from standard input, AUDIO being -, and "
        "print partial and final lines; for streaming models")  # fmt: skip
    add("--chunk", type=number(0, above=True), metavar="MS", help="with --stream: 160 to 1280 ms of audio at a time "
        "(default: that of the model, 320)")  # fmt: skip
    search = _add_reader(commands, "find", "known texts that audio files contain, by a CTC recogniser", _find)
    add = search.add_argument
    add("--texts", type=Path, required=True, metavar="FILE", help="one `id text` per line, in order (Kaldi text)")
    add("--spans", type=int, default=1, metavar="N", help="up to N consecutive lines per file (default: 1)")

    browser = commands.add_parser(
        "web", help="a page that runs a CTC recogniser in a browser, served on this computer", formatter_class=defaults
    )
    browser.set_defaults(run=_web)
    add = browser.add_argument
    add("--head", type=Path, default=None, metavar="DIR", help="folder with head.json, or the name of a model that "
        "ships (None: harness_open)")  # fmt: skip
    add("--model", type=Path, default=None, metavar="DIR", help="model directory that the head was trained on (None: "
        "near the head)")  # fmt: skip
    add("--texts", type=Path, default=None, metavar="FILE", help="list to search: one `id text` per line (Kaldi text)")
    add("--spans", type=whole(1), default=1, metavar="N", help="up to N consecutive lines per recording")
    add("--precision", choices=("int8", "fp32"), default="int8", help="weights of the model")
    add("--port", type=whole(0), default=8000, help="on 127.0.0.1; 0: any that is free")
    add("--out", type=output_folder, default=None, metavar="DIR", help="write the page there, and serve nothing")
    every = (benchmark, page, kept, files, *predictors, search, browser)
    parser.options = [option for p in every for action in p._actions for option in action.option_strings]
    return parser


def _add_predictor(commands: argparse._SubParsersAction, task: str) -> argparse.ArgumentParser:
    parser = _add_reader(commands, TASKS[task].command, _PREDICTED[task], _predict)
    parser.add_argument("--device", type=device, default="auto", help="auto, cpu or cuda (default: auto)")
    return parser


def _add_reader(
    commands: argparse._SubParsersAction, name: str, text: str, run: Callable[[argparse.Namespace], int]
) -> argparse.ArgumentParser:
    """Add a command that reads audio files and writes one line for each."""
    parser = commands.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}. {_EPILOGUE}")
    parser.set_defaults(run=run)
    add = parser.add_argument
    add("audio", type=Path, nargs="+", metavar="AUDIO", help="audio files, or folders that are searched for them")
    ships = name in ("transcribe", "find")  # the only heads that ship are recognisers
    default = ", or harness_open (the default) or harness_open_tiny, which ship" if ships else ""
    add("--model", type=Path, required=not ships, metavar="HEAD_DIR", help=f"folder with head.json{default}")
    add("--upstream", type=Path, metavar="DIR", help="model directory that the head was trained on (default: the "
        "directory of its name in $HARNESS_MODELS, or in a folder `models` above the head)")  # fmt: skip
    forms, more = ("json", "tsv"), ""
    if name == "transcribe":
        forms, more = (*forms, "srt", "vtt"), "; srt, vtt: subtitles, of several files one each in the folder --out"
    add("--format", choices=forms, default="json", help=f"default: json, one object per line{more}")
    add("--out", type=Path, help="output file, written whole or not at all (default: standard output)")
    add("--channel", type=_channel, metavar="N", help="channel of files with several, from 0, such as one side of a "
        "telephone call (default: the average)")  # fmt: skip
    return parser


def _names(text: str, option: str, known: Iterable[str] = ()) -> list[str]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names:
        raise DownstreamError(f"{option} is empty")
    for name in names:
        if known and name not in known:
            raise DownstreamError(f"{option}: unknown `{name}`{nearest(name, known)} (known: {', '.join(known)})")
    return names


def _channel(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"expected a number from 0, found `{text}`")
    return int(text)


def _number(text: str, option: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) <= 9):
        raise DownstreamError(f"{option}: `{text}` is not a whole number")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())

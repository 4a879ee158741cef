"""Prepare data for a CTC recogniser, train it, measure its error rates, and make the directory that ships.

python -m downstream.asr data --quran quran.json --reciter NAME=DIR ... --out data/harness_open
python -m downstream.asr train conf/ctc.yaml [key=value ...]
torchrun --nproc_per_node 2 -m downstream.asr train conf/ctc.yaml
python -m downstream.asr cut --model DIR --head DIR --audio STORE --text FILE --out PREFIX
python -m downstream.asr average --model DIR --head DIR --start-model DIR --start-head DIR --out DIR
python -m downstream.asr calibrate --head DIR --audio STORE --text FILE --texts LIST
python -m downstream.asr score --model DIR --head DIR --audio STORE --text FILE [--condition mp3]
python -m downstream.asr ship --model DIR --head DIR --facts card.yaml --scores scores.md --out models/NAME
python -m downstream.asr export --model DIR --head DIR --out DIR
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from corpora.command import Parser, fail


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command. Returns 0 on success, or 2 after printing one line about the error."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)s: %(message)s", stream=sys.stderr)
    parser = Parser(
        prog="python -m downstream.asr", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    train = commands.add_parser("train", help="fine-tune an encoder with CTC; the same command resumes")
    train.add_argument("config", type=Path, help="YAML")
    train.add_argument("overrides", nargs="*", metavar="key=value")
    data = commands.add_parser("data", help="decode and pack the audio, write texts and splits; resumes")
    data.add_argument("--quran", type=Path, required=True, help="quran.json")
    data.add_argument("--reciter", action="append", required=True, metavar="NAME=DIR", help="folder of SSSAAA.mp3")
    data.add_argument("--unseen", action="append", default=[], metavar="NAME=DIR", help="a reciter for test only")
    data.add_argument("--keywords", type=Path, help="Arabic Speech Commands: a folder of WAV for each keyword")
    data.add_argument("--keyword-splits", type=Path, help="folder of train.csv, val.csv, test.csv and keywords.tsv")
    data.add_argument("--digits", type=Path, help="folder of N_name_NNNN.wav")
    data.add_argument("--out", type=Path, required=True)
    data.add_argument("--jobs", type=int, default=1, help="processes (default: 1)")
    cut = commands.add_parser("cut", help="cut long recordings at pauses between words; resumes")
    cut.add_argument("--model", type=Path, required=True, help="model directory of a recogniser's encoder")
    cut.add_argument("--head", type=Path, required=True, help="its head directory")
    cut.add_argument("--audio", type=Path, required=True, help="packed store")
    cut.add_argument("--text", type=Path, required=True, help="Kaldi text")
    cut.add_argument("--longest", type=float, default=10.0, help="seconds of the longest piece (default: 10)")
    cut.add_argument("--out", type=Path, required=True, help="writes OUT.text and OUT.segments")
    cut.add_argument("--jobs", type=int, default=1, help="processes (default: 1)")
    limits = commands.add_parser("calibrate", help="choose when nothing is written or found; into head.json")
    limits.add_argument("--head", type=Path, required=True, help="head directory of a recogniser")
    limits.add_argument("--model", type=Path, default=None, help="its encoder (default: searched beside the head)")
    limits.add_argument("--audio", type=Path, required=True, help="packed store")
    limits.add_argument("--text", type=Path, required=True, help="Kaldi text of held-out clips")
    limits.add_argument("--texts", type=Path, required=True, help="the list to search, Kaldi text")
    limits.add_argument("--clips", type=int, default=150, help="number of clips, evenly spread (default: 150)")
    limits.add_argument("--wrong", type=float, default=0.05, help="answers allowed where none is right (default: 0.05)")
    means = commands.add_parser("average", help="the mean of a fine-tuned recogniser and its start (then calibrate it)")
    means.add_argument("--model", type=Path, required=True, help="model directory of the fine-tuned encoder")
    means.add_argument("--head", type=Path, required=True, help="its head directory")
    means.add_argument("--start-model", type=Path, required=True, help="model directory that the training began with")
    means.add_argument("--start-head", type=Path, required=True, help="its head directory")
    means.add_argument("--share", type=float, default=0.5, help="of the fine-tuned weights (default: 0.5)")
    means.add_argument("--lower", type=int, default=0, metavar="N", help="the lowest N layers have their own share")
    means.add_argument("--lower-share", type=float, default=None, help="of the fine-tuned weights there (default: 0.5)")
    means.add_argument("--out", type=Path, required=True, help="writes OUT/model and OUT/head")
    score = commands.add_parser("score", help="error rates on clips with text")
    score.add_argument("--model", type=Path, required=True, help="model directory of the fine-tuned encoder")
    score.add_argument("--head", type=Path, required=True, help="head directory")
    score.add_argument("--audio", type=Path, required=True, help="packed store")
    score.add_argument("--text", type=Path, required=True, help="Kaldi text")
    score.add_argument("--clips", type=int, default=None, help="number of clips, evenly spread (None: all)")
    score.add_argument("--condition", choices=("noise", "telephone", "mp3"), help="change the clips (noise at 10 dB, "
                       "8 kHz with mu-law, MP3 at 16 kbit/s)")  # fmt: skip
    made = commands.add_parser("ship", help="16-bit weights, 8-bit ONNX, heads, card and SHA-256 sums in one directory")
    made.add_argument("--model", type=Path, required=True, help="model directory of the fine-tuned encoder")
    made.add_argument(
        "--head", action="append", required=True, metavar="[NAME=]DIR", help="head directory and the name of its "
        "folder (default: letters); repeat it for further heads",
    )  # fmt: skip
    made.add_argument("--facts", type=Path, required=True, help="YAML: summary, data, not_for, licence, licence_text")
    made.add_argument("--scores", type=Path, required=True, help="Markdown for the card: tables and their commands")
    made.add_argument("--out", type=Path, required=True, help="directory to write or to replace")
    made.add_argument("--no-onnx", dest="onnx", action="store_false", help="leave int8.onnx out")
    export = commands.add_parser("export", help="write encoder and head as one directory for Transformers' pipeline")
    export.add_argument("--model", type=Path, required=True, help="model directory of the fine-tuned encoder")
    export.add_argument("--head", type=Path, required=True, help="head directory")
    export.add_argument("--out", type=Path, required=True, help="directory to write")
    try:
        parsed = parser.parse_args(arguments)
        if parsed.command == "train":
            from downstream.asr.config import read_config
            from downstream.asr.train_ctc import train as run

            run(read_config(parsed.config, parsed.overrides))
        elif parsed.command == "data":
            _data(parsed)
        elif parsed.command == "calibrate":
            from downstream.asr.calibrate import calibrate

            files = (parsed.head, parsed.model, parsed.audio, parsed.text, parsed.texts)
            print(json.dumps(calibrate(*files, clips=parsed.clips, wrong=parsed.wrong)))
        elif parsed.command == "export":
            from downstream.asr.export import export_recogniser

            export_recogniser(parsed.model, parsed.head, parsed.out)
        elif parsed.command == "cut":
            from downstream.asr.cut import cut_store

            store = (parsed.audio, parsed.text, parsed.out)
            hours = cut_store(parsed.head, parsed.model, *store, longest=parsed.longest, jobs=parsed.jobs)
            print(" ".join(f"{name}: {value:.2f} h" for name, value in hours.items()))
        elif parsed.command == "average":
            from downstream.asr.average import Shares, average

            if parsed.lower_share is not None and not parsed.lower:
                raise ValueError("--lower-share: also give --lower N")
            shares = Shares(parsed.share, parsed.lower, 0.5 if parsed.lower_share is None else parsed.lower_share)
            average(parsed.model, parsed.head, parsed.start_model, parsed.start_head, parsed.out, shares)
        elif parsed.command == "ship":
            _ship(parsed)
        else:
            _score(parsed)
    except (ValueError, OSError) as error:
        return fail("downstream.asr", error)
    return 0


def _data(parsed: argparse.Namespace) -> None:
    from corpora.sets.recitation import named_folders, prepare

    hours = prepare(
        parsed.out,
        quran=parsed.quran,
        reciters=named_folders(parsed.reciter, "--reciter"),
        unseen=named_folders(parsed.unseen, "--unseen"),
        keywords=parsed.keywords,
        keyword_splits=parsed.keyword_splits,
        digits=parsed.digits,
        jobs=parsed.jobs,
    )
    for name, value in hours.items():
        print(f"{name}\t{value:.2f} h")


def _ship(parsed: argparse.Namespace) -> None:
    from corpora.files import only_writer
    from downstream.asr.ship import read_facts, ship

    heads: dict[str, Path] = {}
    for entry in parsed.head:
        name, given, folder = entry.partition("=")
        name, folder = (name, folder) if given else ("letters", entry)
        if name in heads or not folder:
            raise ValueError(f"--head {entry}: give [NAME=]DIR, each name once")
        heads[name] = Path(folder)
    with only_writer(parsed.out):
        facts, scores = read_facts(parsed.facts), parsed.scores.read_text(encoding="utf-8")
        print(ship(parsed.model, heads, parsed.out, facts=facts, scores=scores, onnx=parsed.onnx))


def _score(parsed: argparse.Namespace) -> None:
    from corpora.prepare.conditions import CONDITIONS
    from downstream.asr.evaluate import error_rates, intervals, read_dev
    from downstream.asr.recogniser import check_weights, load_head
    from downstream.asr.train_ctc import Source
    from upstream.model.modeldir import load_model, model_sha256

    check_weights(parsed.head, model_sha256(parsed.model), parsed.model, "--model")
    model = load_head(load_model(parsed.model), parsed.head)
    clips = read_dev(Source(str(parsed.audio), str(parsed.text)), parsed.clips)
    if not clips:
        raise ValueError(f"{parsed.text}: none of its ids is in the store {parsed.audio}")
    if parsed.condition:
        change = CONDITIONS[parsed.condition]
        clips = [(change(wav, number), text) for number, (wav, text) in enumerate(clips)]
    scores, pairs = error_rates(model, clips)
    shown = {key: round(100 * value, 3) for key, value in scores.items()}
    ends = {key: [round(100 * end, 3) for end in pair] for key, pair in intervals(pairs).items()}
    print(json.dumps(shown | {"clips": len(clips), "interval": ends}))


if __name__ == "__main__":
    sys.exit(main())

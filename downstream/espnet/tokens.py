"""The token list of an ASR model, and the shape files from which ESPnet makes its batches.

ESPnet's own `--collect_stats` reads all audio to learn lengths that `utt2num_samples` holds; its global mean and
variance are not needed, since every configuration here normalises by utterance.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from corpora.datadir import read_datadir
from corpora.files import CorpusError, atomic_dir, read_json, write_json, write_text

BLANK, UNKNOWN, SENTENCE = "<blank>", "<unk>", "<sos/eos>"
SPACE = "<space>"
MAX_LEFT_OUT = 0.05

log = logging.getLogger(__name__)


class TokenError(ValueError):
    """Text from which no token list can be made, or that does not fit the audio beside it."""


@dataclass(frozen=True)
class Tokens:
    """A token list on disk: `<dir>/tokens.txt`, and `<dir>/bpe.model` when it is of SentencePiece."""

    folder: Path
    kind: str

    @property
    def list_file(self) -> Path:
        return self.folder / "tokens.txt"

    @property
    def bpe_model(self) -> Path | None:
        return self.folder / "bpe.model" if self.kind == "bpe" else None

    def size(self) -> int:
        """How many tokens there are, the symbols of ESPnet among them."""
        return len(self.list_file.read_text(encoding="utf-8").splitlines())

    def tokenizer(self):
        """ESPnet's tokenizer (`espnet2.text`), of the class that training and decoding use."""
        # Not through espnet2's `build_tokenizer`: it imports every other kind, and one of them asks the network.
        if self.bpe_model is not None:
            from espnet2.text.sentencepiece_tokenizer import SentencepiecesTokenizer

            return SentencepiecesTokenizer(str(self.bpe_model))
        from espnet2.text.char_tokenizer import CharTokenizer

        return CharTokenizer(space_symbol=SPACE)


def make_tokens(data_dir: Path, out_dir: Path, kind: str, pieces: int = 500) -> Tokens:
    """Characters by frequency, or `pieces` SentencePiece units (unigram), learnt from `<data_dir>/text`.

    The list begins with blank and unknown and ends with the sentence symbol, as ESPnet wants it. Raises TokenError for
    a text that holds fewer distinct pieces than asked for, with what would work.
    """
    if kind not in ("char", "bpe"):
        raise TokenError(f"token type `{kind}` is unknown; choose char or bpe")
    lines = [u.text for u in read_datadir(data_dir) if u.text]
    if not lines:
        raise TokenError(f"{data_dir}: no text to make tokens from")
    with atomic_dir(out_dir) as folder:
        names = _characters(lines) if kind == "char" else _pieces(lines, folder / "bpe.model", pieces, data_dir)
        write_text(folder / "tokens.txt", "".join(f"{name}\n" for name in (BLANK, UNKNOWN, *names, SENTENCE)))
        write_json(folder / "tokens.json", {"type": kind, "tokens": len(names) + 3, "utterances": len(lines)})
    log.info("%s: %d tokens of type %s from %d utterances", out_dir, len(names) + 3, kind, len(lines))
    return Tokens(out_dir, kind)


def open_tokens(folder: Path) -> Tokens:
    """The token list that `make_tokens` wrote into a folder. Raises TokenError when there is none."""
    facts = folder / "tokens.json"
    if not facts.is_file():
        raise TokenError(f"{folder}: no token list there (tokens.json); stage 3 of run.sh makes it")
    return Tokens(folder, read_json(facts)["type"])


def _characters(lines: Sequence[str]) -> list[str]:
    from collections import Counter

    counts = Counter(SPACE if char == " " else char for line in lines for char in line)
    return sorted(counts, key=lambda char: (-counts[char], char))


def _pieces(lines: Sequence[str], model: Path, pieces: int, data_dir: Path) -> list[str]:
    import sentencepiece

    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(lines),
            model_prefix=str(model.with_suffix("")),
            vocab_size=pieces,
            model_type="unigram",
            character_coverage=1.0,
            # ESPnet adds symbols of its own, so that these would stand in the list twice.
            bos_id=-1,
            eos_id=-1,
            unk_id=0,
            minloglevel=2,
        )
    except RuntimeError as error:
        raise TokenError(
            f"{data_dir}: SentencePiece cannot make {pieces} pieces from {len(lines)} utterances: "
            f"{' '.join(str(error).split())}"
        ) from error
    model.with_suffix(".vocab").unlink()
    processor = sentencepiece.SentencePieceProcessor(model_file=str(model))
    return [processor.id_to_piece(i) for i in range(processor.get_piece_size()) if i != processor.unk_id()]


def write_shapes(data_dir: Path, out_dir: Path, tokens: Tokens, samples_per_frame: float, *, training: bool) -> Path:
    """`speech_shape` (samples) and `text_shape` (tokens, size of the list) of a data directory; returns `out_dir`.

    CTC has no path through an utterance with fewer encoder frames than tokens plus repeated neighbours, and its
    gradient is then not a number. In training such utterances are left out, listed in `left_out.tsv`; past 5 % this
    raises TokenError. `samples_per_frame` is what one encoder frame covers, subsampling included.
    """
    tokenizer = tokens.tokenizer()
    size = tokens.size()
    speech, text, left_out = [], [], []
    utterances = read_datadir(data_dir)
    for u in utterances:
        pieces = tokenizer.text2tokens(u.text or "")
        needed = len(pieces) + sum(a == b for a, b in zip(pieces, pieces[1:], strict=False))
        frames = int(u.samples / samples_per_frame)
        if training and (not pieces or frames < needed):
            left_out.append(f"{u.utt_id}\t{frames} encoder frames for {needed} tokens\n")
            continue
        speech.append(f"{u.utt_id} {u.samples}\n")
        text.append(f"{u.utt_id} {len(pieces)},{size}\n")
    if len(left_out) > MAX_LEFT_OUT * len(utterances):
        raise TokenError(
            f"{data_dir}: {len(left_out)} of {len(utterances)} utterances have too few frames for their text, the "
            f"first: {left_out[0].strip()}; subsample less, take larger pieces, or look at the transcripts"
        )
    if left_out:
        log.info("%s: %d utterances left out, too few frames for their text", data_dir, len(left_out))
    if not speech:
        raise CorpusError(f"{data_dir}: no utterance is left")
    _write(out_dir, {"speech_shape": speech, "text_shape": text, "left_out.tsv": left_out})
    return out_dir


def write_lm_text(data_dir: Path, out_dir: Path, tokens: Tokens) -> None:
    """`text` and `text_shape` of a data directory as ESPnet's language model takes them; empty lines are left out."""
    tokenizer, size = tokens.tokenizer(), tokens.size()
    texts = {u.utt_id: u.text for u in read_datadir(data_dir) if u.text}
    shapes = [f"{utt_id} {len(tokenizer.text2tokens(text))},{size}\n" for utt_id, text in texts.items()]
    _write(out_dir, {"text": [f"{utt_id} {text}\n" for utt_id, text in texts.items()], "text_shape": shapes})


def _write(folder: Path, files: dict[str, list[str]]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in files.items():
        write_text(folder / name, "".join(rows))

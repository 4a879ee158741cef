"""Write the inputs of ESPnet: data directories, token lists, shape files and text for language models.

`dump` writes <out>/{wav.scp,text,utt2spk,spk2utt,utt2num_samples} with one audio file per utterance, the text in one
profile and lengths within bounds; left_out.tsv lists (utterance, reason).

ESPnet's own `--collect_stats` reads all audio for lengths that `utt2num_samples` already holds; its global mean and
variance are not needed, since every configuration here normalises by utterance. `write_shapes` replaces it.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from corpora.audio import SAMPLE_RATE, audio_info, write_audio
from corpora.datadir import Utterance, read_datadir, read_utterance, write_datadir
from corpora.files import CorpusError, atomic_dir, atomic_file, read_json, write_json, write_text
from corpora.machine import parallel
from corpora.names import check_name
from corpora.sets.speed import check_factor, perturb
from downstream import DownstreamError
from downstream.score.metrics import tidy

BLANK, UNKNOWN, SENTENCE = "<blank>", "<unk>", "<sos/eos>"
SPACE = "<space>"
MAX_LEFT_OUT = 0.05  # largest share of training utterances that may be too short for their text

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class DumpConfig:
    """Bounds in seconds; `speeds` are factors of speed perturbation for training (1: unchanged).

    `scored`: a test set, of which every utterance is kept.
    """

    min_seconds: float = 0.1
    max_seconds: float = 30.0
    text_profile: str = "none"
    speeds: tuple[float, ...] = (1.0,)
    scored: bool = False

    def __post_init__(self) -> None:
        if not 0.025 <= self.min_seconds < self.max_seconds:
            raise DownstreamError(
                f"utterances of {self.min_seconds} to {self.max_seconds} s: the minimum must be at least 0.025 s "
                "(one frame) and below the maximum"
            )
        for speed in self.speeds:
            check_factor(speed)


def dump(data_dir: Path, out_dir: Path, config: DumpConfig, *, jobs: int = 1) -> Path:
    """Write `data_dir` in ESPnet's form; audio files are written only for segments and for other speeds.

    Utterances without text or outside the bounds are left out, counted by reason and listed. Raises CorpusError if
    none is usable. Files of an interrupted run are reused.
    """
    utterances = read_datadir(data_dir)
    if not config.scored:
        utterances = [_with_text(u, config.text_profile, data_dir) for u in utterances]
    audio_dir = out_dir.with_name(f"{out_dir.name}_audio")
    kept: list[Utterance] = []
    for speed in config.speeds:
        if speed == 1:
            kept += _whole_files(utterances, audio_dir / "segments", jobs)
        else:
            kept += perturb(utterances, speed, audio_dir / f"speed{speed:g}", jobs=jobs)
    reasons = {u.utt_id: reason for u in kept if (reason := _unusable(u, config))}
    usable = [u for u in kept if u.utt_id not in reasons]
    if not usable:
        raise CorpusError(
            f"{data_dir}: none of the {len(kept)} utterances is usable; the first: {next(iter(reasons.items()))}"
        )
    write_datadir(out_dir, usable)
    with atomic_file(out_dir / "left_out.tsv") as path:
        path.write_text("".join(f"{key}\t{why}\n" for key, why in reasons.items()), encoding="utf-8")
    for why, count in Counter(reasons.values()).most_common():
        log.info("%s: %d of %d utterances left out: %s", data_dir, count, len(kept), why)
    hours = sum(u.samples for u in usable) / SAMPLE_RATE / 3600
    log.info("%s: %d utterances, %.2f h", out_dir, len(usable), hours)
    return out_dir


def _with_text(utterance: Utterance, profile: str, data_dir: Path) -> Utterance:
    if utterance.text is None:
        raise CorpusError(f"{data_dir}: no `text`; ASR needs the words of every utterance")
    return replace(utterance, text=tidy(utterance.text, profile))


def _unusable(utterance: Utterance, config: DumpConfig) -> str:
    """Reason why an utterance cannot be used; empty if it can."""
    if config.scored:
        return ""
    if not utterance.text:
        return f"no text under the profile {config.text_profile}"
    if utterance.samples < config.min_seconds * SAMPLE_RATE:
        return f"shorter than {config.min_seconds:g} s"
    if utterance.samples > config.max_seconds * SAMPLE_RATE:
        return f"longer than {config.max_seconds:g} s"
    return ""


def _whole_files(utterances: Sequence[Utterance], folder: Path, jobs: int) -> list[Utterance]:
    """The utterances with one file each, because ESPnet's `sound` reads whole files and no segments."""
    cut = [u for u in utterances if u.start is not None or u.end is not None]
    if not cut:
        return list(utterances)
    files = {u.utt_id: folder / f"{check_name(u.utt_id, 'utterance id')}.wav" for u in cut}
    list(parallel(_cut, [(u, files[u.utt_id]) for u in cut], jobs=jobs, label="segments", unit="utt"))
    return [replace(u, audio=files[u.utt_id], start=None, end=None) if u.utt_id in files else u for u in utterances]


def _cut(task: tuple[Utterance, Path]) -> None:
    utterance, path = task
    if path.exists() and audio_info(path).samples == utterance.samples:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    write_audio(path, read_utterance(utterance))


@dataclass(frozen=True)
class Tokens:
    """A token list on disk: `<dir>/tokens.txt`, for SentencePiece also `<dir>/bpe.model`."""

    folder: Path
    kind: str

    @property
    def list_file(self) -> Path:
        return self.folder / "tokens.txt"

    @property
    def bpe_model(self) -> Path | None:
        return self.folder / "bpe.model" if self.kind == "bpe" else None

    def size(self) -> int:
        """Number of tokens, including ESPnet's symbols."""
        return len(self.list_file.read_text(encoding="utf-8").splitlines())

    def tokenizer(self):
        """ESPnet's tokenizer (`espnet2.text`), of the class that training and decoding use."""
        # espnet2's `build_tokenizer` imports every kind of tokenizer, and one of them uses the network.
        if self.bpe_model is not None:
            from espnet2.text.sentencepiece_tokenizer import SentencepiecesTokenizer

            return SentencepiecesTokenizer(str(self.bpe_model))
        from espnet2.text.char_tokenizer import CharTokenizer

        return CharTokenizer(space_symbol=SPACE)


def make_tokens(data_dir: Path, out_dir: Path, kind: str, pieces: int = 500) -> Tokens:
    """Characters by frequency, or `pieces` SentencePiece units (unigram), learnt from `<data_dir>/text`.

    The list begins with blank and unknown and ends with the sentence symbol, as ESPnet expects. Raises DownstreamError
    if the text has fewer distinct pieces than `pieces`, or a character that SentencePiece cannot give back.
    """
    if kind not in ("char", "bpe"):
        raise DownstreamError(f"token type `{kind}` is unknown; choose char or bpe")
    lines = [u.text for u in read_datadir(data_dir) if u.text]
    if not lines:
        raise DownstreamError(f"{data_dir}: no text for a token list")
    with atomic_dir(out_dir) as folder:
        names = _characters(lines) if kind == "char" else _pieces(lines, folder / "bpe.model", pieces, data_dir)
        write_text(folder / "tokens.txt", "".join(f"{name}\n" for name in (BLANK, UNKNOWN, *names, SENTENCE)))
        write_json(folder / "tokens.json", {"type": kind, "tokens": len(names) + 3, "utterances": len(lines)})
    log.info("%s: %d tokens of type %s from %d utterances", out_dir, len(names) + 3, kind, len(lines))
    return Tokens(out_dir, kind)


def open_tokens(folder: Path) -> Tokens:
    """The token list that `make_tokens` wrote into a folder. Raises DownstreamError without one."""
    facts = folder / "tokens.json"
    if not facts.is_file():
        raise DownstreamError(f"{folder}: no token list (tokens.json); run stage 3 of run.sh")
    return Tokens(folder, read_json(facts)["type"])


def _characters(lines: Sequence[str]) -> list[str]:
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
            # The default rule (NFKC) rewrites ligatures and digits, so hypotheses could not equal their references.
            normalization_rule_name="identity",
            # ESPnet adds its own symbols; these would be in the list twice.
            bos_id=-1,
            eos_id=-1,
            unk_id=0,
            minloglevel=2,
        )
    except RuntimeError as error:
        raise DownstreamError(
            f"{data_dir}: SentencePiece cannot make {pieces} pieces from {len(lines)} utterances: "
            f"{' '.join(str(error).split())}"
        ) from error
    model.with_suffix(".vocab").unlink()
    processor = sentencepiece.SentencePieceProcessor(model_file=str(model))
    for character in sorted(set("".join(lines)) - {" "}):
        if processor.decode(processor.encode(character)) != character:
            raise DownstreamError(
                f"{data_dir}: SentencePiece changes U+{ord(character):04X} ({character!r}) of the text; remove it from "
                "the corpus, or use --token_type char"
            )
    return [processor.id_to_piece(i) for i in range(processor.get_piece_size()) if i != processor.unk_id()]


def write_shapes(data_dir: Path, out_dir: Path, tokens: Tokens, samples_per_frame: float, *, training: bool) -> Path:
    """`speech_shape` (samples) and `text_shape` (tokens, size of the list) of a data directory; returns `out_dir`.

    CTC cannot align an utterance with fewer encoder frames than tokens plus repeated neighbours; its gradient is NaN.
    In training such utterances are left out and listed in `left_out.tsv`. Raises DownstreamError for more than 5 % of
    them. `samples_per_frame`: samples per encoder frame, including subsampling.
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
        raise DownstreamError(
            f"{data_dir}: {len(left_out)} of {len(utterances)} utterances have too few frames for their text, the "
            f"first: {left_out[0].strip()}; subsample less, use larger pieces, or check the transcripts"
        )
    if left_out:
        log.info("%s: %d utterances left out, too few frames for their text", data_dir, len(left_out))
    if not speech:
        raise CorpusError(f"{data_dir}: every utterance is left out")
    _write(out_dir, {"speech_shape": speech, "text_shape": text, "left_out.tsv": left_out})
    return out_dir


def write_lm_text(data_dir: Path, out_dir: Path, tokens: Tokens) -> None:
    """Write `text` and `text_shape` of a data directory for ESPnet's language model, without empty lines."""
    tokenizer, size = tokens.tokenizer(), tokens.size()
    texts = {u.utt_id: u.text for u in read_datadir(data_dir) if u.text}
    shapes = [f"{utt_id} {len(tokenizer.text2tokens(text))},{size}\n" for utt_id, text in texts.items()]
    _write(out_dir, {"text": [f"{utt_id} {text}\n" for utt_id, text in texts.items()], "text_shape": shapes})


def _write(folder: Path, files: dict[str, list[str]]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in files.items():
        write_text(folder / name, "".join(rows))

"""Small trees of the corpora that `download` can fetch; `datasets/conftest.py` holds those of all other corpora."""

from __future__ import annotations

import hashlib
import json
import os
import threading
import zlib
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile


def speech(seed: int, seconds: float, rate: int = 16000) -> np.ndarray:
    """A burst of harmonics between two stretches of faint noise; different seeds give different samples."""
    draw = np.random.default_rng(seed)
    n = int(seconds * rate)
    time = np.arange(n) / rate
    pitch = draw.uniform(90, 250)
    voice = sum(np.sin(2 * np.pi * pitch * k * time + draw.uniform(0, 6)) / k for k in range(1, 8))
    envelope = np.clip(1 - np.abs(np.linspace(-1.6, 1.6, n)), 0, None)
    return (0.15 * voice * envelope + 0.001 * draw.standard_normal(n)).astype(np.float32)


def _write(path: Path, samples: np.ndarray, rate: int = 16000, **options: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, samples, rate, **options)


COMMAND_SPEAKERS = {"train": (1, 5, 9), "dev": (2, 7), "test": (3, 4)}
COMMAND_WORDS = {"yes": "نعم", "zoom in": "تكبير", "up": "أعلى", "five": "خمسة"}


def arabic_speech_commands(root: Path, *, rounds: int = 3) -> Path:
    """The lists differ in form: CRLF with a header, no header at all, BOM with a header."""
    rows: dict[str, list[str]] = {}
    for split, speakers in COMMAND_SPEAKERS.items():
        rows[split] = []
        for speaker in speakers:
            for index, keyword in enumerate(COMMAND_WORDS):
                for number in range(1, rounds + 1):
                    name = f"dataset/{keyword}/{speaker:08d}_NO_{number:02d}.wav"
                    _write(root / name, speech(speaker * 1000 + index * 10 + number, 0.6))
                    rows[split].append(f"{name},{keyword}")
    header = ["file,class"]
    (root / "train.csv").write_bytes(("\r\n".join(header + rows["train"]) + "\r\n").encode())
    (root / "val.csv").write_bytes("\n".join(rows["dev"]).encode())
    (root / "test.csv").write_bytes(("\n".join(header + rows["test"]) + "\n").encode("utf-8-sig"))
    table = "".join(f"{keyword}\t{word}\r\n" for keyword, word in COMMAND_WORDS.items())
    (root / "keywords.tsv").write_bytes(table.encode())
    return root


def baved(root: Path, *, speakers: int = 16) -> Path:
    """Speakers of very different size; speaker 1 is speaker 0 again; one file in the folder of another word."""
    record = 0
    for speaker in range(speakers):
        words = (0, 1, 2) if speaker % 5 == 3 else (0,)
        for word in words:
            for emotion in range(3):
                seed = 5000 + (0 if speaker == 1 else speaker) * 100 + word * 10 + emotion
                name = f"{speaker}-{'mf'[speaker % 2]}-{20 + speaker}-{word}-{emotion}-{record}.wav"
                folder = "0" if (speaker, word, emotion) == (3, 2, 2) else str(word)
                _write(root / folder / name, speech(seed, 0.3))
                record += 1
    (root / "naming.txt").write_text("speaker_id - ...\n")
    return root


# Refrains (two spellings of one), Uthmani marks, a verse of one word
VERSES = [
    "بِسۡمِ ٱللَّهِ ٱلرَّحۡمَٰنِ ٱلرَّحِيمِ", "ٱلۡحَمۡدُ لِلَّهِ رَبِّ ٱلۡعَٰلَمِينَ", "ٱلرَّحۡمَٰنِ ٱلرَّحِيمِ", "مَٰلِكِ يَوۡمِ ٱلدِّينِ",
    "إِيَّاكَ نَعۡبُدُ وَإِيَّاكَ نَسۡتَعِينُ", "ٱهۡدِنَا ٱلصِّرَٰطَ ٱلۡمُسۡتَقِيمَ", "وَٱلۡعَصۡرِ", "إِنَّ ٱلۡإِنسَٰنَ لَفِي خُسۡرٍ",
    "فَبِأَيِّ ءَالَآءِ رَبِّكُمَا تُكَذِّبَانِ", "مُدۡهَآمَّتَانِ", "فَبِأَيِّ ءَالَآءِ رَبِّكُمَا تُكَذِّبَانِ", "فِيهِمَا عَيۡنَانِ نَضَّاخَتَانِ",
    "فَبِأَيِّ ءَالَآءِ رَبِّكُمَا تُكَذِّبَانِ", "وَٱلطُّورِ", "وَكِتَٰبٖ مَّسۡطُورٖ", "فِي رَقّٖ مَّنشُورٖ",
    "وَٱلۡبَيۡتِ ٱلۡمَعۡمُورِ", "وَٱلسَّقۡفِ ٱلۡمَرۡفُوعِ", "وَٱلۡبَحۡرِ ٱلۡمَسۡجُورِ", "إِنَّ عَذَابَ رَبِّكَ لَوَٰقِعٞ", "مَّا لَهُۥ مِن دَافِعٖ",
    "عَمَّ يَتَسَآءَلُونَ", "عَنِ ٱلنَّبَإِ ٱلۡعَظِيمِ", "كـَلَّا سَيَعۡلَمُونَ", "ثُمَّ كَلَّا سَيَعۡلَمُونَ", "وَجَعَلۡنَا نَوۡمَكُمۡ سُبَاتٗا",
    "۞وَٱلسَّمَآءِ ذَاتِ ٱلۡبُرُوجِ", "وَٱلۡيَوۡمِ ٱلۡمَوۡعُودِ", "وَشَاهِدٖ وَمَشۡهُودٖ", "قُتِلَ أَصۡحَٰبُ ٱلۡأُخۡدُودِ",
    "ٱلنَّارِ ذَاتِ ٱلۡوَقُودِ", "أَلۡهَىٰكُمُ ٱلتَّكَاثُرُ", "حَتَّىٰ زُرۡتُمُ ٱلۡمَقَابِرَ", "لَتَرَوُنَّ ٱلۡجَحِيمَ", "قُلۡ هُوَ ٱللَّهُ أَحَدٌ",
    "ٱللَّهُ ٱلصَّمَدُ", "لَمۡ يَلِدۡ وَلَمۡ يُولَدۡ", "يَـٰٓأَيُّهَا ٱلۡمُدَّثِّرُ", "قُمۡ فَأَنذِرۡ", "شَيۡـٔٗا نُّكۡرًا",
]  # fmt: skip


def everyayah(root: Path, *, reciters: tuple[str, ...] = ("a_reciter",)) -> Path:
    text = {
        str(surah): [
            {"chapter": surah, "verse": ayah + 1, "text": verse}
            for ayah, verse in enumerate(VERSES[10 * (surah - 1) : 10 * surah])
        ]
        for surah in range(1, 5)
    }
    root.mkdir(parents=True, exist_ok=True)
    (root / "quran.json").write_text(json.dumps(text, ensure_ascii=False), encoding="utf-8")
    for place, reciter in enumerate(reciters):
        for surah, verses in text.items():
            for verse in verses:
                seed = 20000 + 1000 * place + 100 * int(surah) + verse["verse"]
                name = f"{int(surah):03d}{verse['verse']:03d}.mp3"
                _write(root / reciter / name, speech(seed, 0.5, 22050), 22050, format="MP3")
    return root


def free_spoken_digits(root: Path) -> Path:
    """8 kHz, indices 0, 4 (test) and 5, 6 (training); the digit 6 is as short as 0.14 s."""
    for place, speaker in enumerate(("george", "theo")):
        for digit in range(10):
            for index in (0, 4, 5, 6):
                samples = speech(40000 + 1000 * place + 10 * digit + index, 0.14 if digit == 6 else 0.4, 8000)
                _write(root / "recordings" / f"{digit}_{speaker}_{index}.wav", samples, 8000)
    return root


class Server(ThreadingHTTPServer):
    """Serves `files`. cut: number of answers to break off half-way.  ranges: whether it can resume from a byte."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.cut = 0
        self.ranges = True
        self.status = 200
        self.asked: list[tuple[str, str | None]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        asked = self.headers.get("Range")
        self.server.asked.append((self.path, asked))
        content = self.server.files.get(self.path)
        if content is None or self.server.status != 200:
            self.send_error(404 if content is None else self.server.status)
            return
        tag = f'"{hashlib.sha256(content).hexdigest()[:16]}"'
        start = 0
        if asked and self.server.ranges and self.headers.get("If-Range", tag) == tag:
            start = int(asked.removeprefix("bytes=").rstrip("-"))
            if start >= len(content):
                self.send_error(416)
                return
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        else:
            self.send_response(200)
        self.send_header("ETag", tag)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        body = content[start:]
        if self.server.cut > 0:
            self.server.cut -= 1
            body = body[: len(body) // 2]
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="session")
def corpus_trees() -> SimpleNamespace:
    """Functions that write a small tree of a corpus into a folder and return the folder."""
    return SimpleNamespace(
        arabic_speech_commands=arabic_speech_commands,
        baved=baved,
        everyayah=everyayah,
        free_spoken_digits=free_spoken_digits,
        command_words=COMMAND_WORDS,
        command_speakers=COMMAND_SPEAKERS,
        verses=VERSES,
        speech=speech,
    )


@pytest.fixture(scope="session")
def noise() -> Callable[..., Path]:
    """Writes faint noise, another one for every path, and returns the path."""

    def write(path: Path, seconds: float = 0.2, rate: int = 16000, channels: int = 1, **options: str) -> Path:
        draw = np.random.default_rng(zlib.crc32(str(path).encode()))
        _write(path, 0.05 * draw.standard_normal((round(seconds * rate), channels)), rate, **options)
        return path

    return write


@pytest.fixture(scope="module")
def no_disk_sync() -> Iterator[None]:
    """Thousands of small files are not forced onto the disk one by one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: None)
        yield


@pytest.fixture(scope="session")
def write_clip():
    """A function that writes `seconds` of seeded sound to a path: equal seeds give equal audio."""

    def write(path: Path, seed: int, seconds: float = 0.2, rate: int = 16000) -> Path:
        _write(path, speech(seed, seconds, rate), rate)
        return path

    return write


def _sound(seed: int, seconds: float = 2.5) -> np.ndarray:
    """Pulses whose bands change every 100 ms, with a pause, as in speech."""
    rng = np.random.default_rng(seed)
    pieces = []
    for _ in range(round(seconds * 10)):
        source = 0.1 * rng.standard_normal(1600)
        source[:: int(rng.integers(80, 160))] += 10
        spectrum = np.fft.rfft(source)
        shape = np.interp(np.arange(801), np.linspace(0, 801, 12), rng.lognormal(0, 1.5, 12))
        pieces.append(np.fft.irfft(spectrum * shape, 1600))
    samples = np.concatenate(pieces)
    samples[len(samples) // 2 :][:4000] *= 0.01
    return (0.5 * samples / np.abs(samples).max()).astype(np.float32)


@pytest.fixture(scope="session")
def sound():
    """A function (seed, seconds) that gives samples whose spectrum changes as that of speech does."""
    return _sound

"""Synthesise Arabic and English speech with eSpeak NG: many voices, prosody in numbers, the same bytes in every run.

The library keeps state between utterances (flutter, gain control, noise), so its output depends on its earlier output.
Here every utterance is synthesised in a fork of a process in one fixed state:

    synthesise() --request (JSON line)--> python -m corpora.sets.espeak --fork--> speak, resample, write
                 <--reply (JSON line)----

The wheel `espeakng-loader` has the library and its voices. A voice is a text file in eSpeak's own format. Limits of
eSpeak: Arabic emphatics are hardly distinct, and zah sounds exactly like thal.
"""

from __future__ import annotations

import ctypes
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from queue import Empty, SimpleQueue

import numpy as np
import soxr
from tqdm import tqdm

from corpora.audio import SAMPLE_RATE, encode_audio
from corpora.files import CorpusError

SERVER = (sys.executable, "-m", "corpora.sets.espeak")
_SYNCHRONOUS = 2  # audio goes to the callback, in the calling thread
_RATE, _VOLUME, _PITCH, _RANGE = 1, 2, 3, 4
_UTF8, _PHONEMES = 1, 0x100

_MARK_BEFORE_SHADDA = re.compile("([\u064b-\u0650])\u0651")
_SUN_LETTER = re.compile("(\\bال.)\u0651")
_DOUBLED = re.compile("(.)\u0651")

_LANGUAGES = {
    "ar": ("language ar", "phonemes ar", "stressRule 4"),
    "en": ("language en", "tunes s1 c1 q1 e1"),
}


@dataclass(frozen=True)
class Voice:
    """One speaker.

    language: "ar" or "en"; pitch_hz and top_hz: lowest and highest fundamental frequency; formants: frequencies of
    formants 1-5 in percent of eSpeak's default (a vocal tract's length); rate: words per minute; breath: 0-9;
    flutter: irregularity of the pitch, 0-9; darkness: share of the previous sample added to each, -0.5 (bright) to
    0.5 (dark); gain_db: level; noise_db: level of the background noise, roughly, relative to full scale.
    """

    language: str
    pitch_hz: float
    top_hz: float
    formants: tuple[int, int, int, int, int]
    rate: float = 160.0
    breath: int = 0
    flutter: int = 2
    darkness: float = 0.0
    gain_db: float = 0.0
    noise_db: float = -70.0


@dataclass(frozen=True)
class Prosody:
    """Change of an utterance relative to its voice: factors of rate and pitch range, pitch in semitones, gain in dB."""

    rate: float = 1.0
    pitch: float = 0.0
    range: float = 1.0
    gain_db: float = 0.0


@dataclass(frozen=True)
class Request:
    """One utterance to synthesise into the file `path`.

    sounds: pairs of a regular expression and its replacement, applied in turn to eSpeak's phonemes of the text (for
    instance ("q", "?") for qaf as a glottal stop); seed: of the noise and of the pauses before and after.
    """

    path: Path
    text: str
    voice: Voice
    prosody: Prosody = field(default_factory=Prosody)
    sounds: tuple[tuple[str, str], ...] = ()
    seed: int = 0


def synthesise(
    requests: Sequence[Request], *, jobs: int = 1, title: str = "speech", server: Sequence[str] = SERVER
) -> None:
    """Write every request as a 16 kHz 16-bit WAV, in `jobs` processes. The bytes do not depend on order or `jobs`.

    server: command of one such process. Raises CorpusError with the first utterance that failed.
    """
    pending: SimpleQueue[Request] = SimpleQueue()
    for request in requests:
        pending.put(request)
    failures: list[str] = []

    def drive(bar: tqdm) -> None:
        with _start(server) as process:
            while not failures:
                try:
                    request = pending.get_nowait()
                except Empty:
                    break
                problem = _ask(process, request)
                if problem:
                    failures.append(f"{request.path.name}: {problem}")
                bar.update()
            process.stdin.close()

    workers = max(1, min(jobs, len(requests)))
    with (
        ThreadPoolExecutor(workers) as pool,
        tqdm(total=len(requests), desc=title, unit="utt", mininterval=1.0) as bar,
    ):
        for future in [pool.submit(drive, bar) for _ in range(workers)]:
            future.result()
    if failures:
        raise CorpusError(failures[0])


def _ask(server: subprocess.Popen, request: Request) -> str:
    """Send one request and wait for the reply; return an empty string or the error."""
    try:
        server.stdin.write(_to_json(request) + "\n")
        server.stdin.flush()
        reply = server.stdout.readline()
    except OSError:
        reply = ""
    return json.loads(reply)["error"] if reply else "the speech process died"


def _start(command: Sequence[str]) -> subprocess.Popen:
    root = Path(__file__).resolve().parents[2]
    path = os.pathsep.join(filter(None, [str(root), os.environ.get("PYTHONPATH")]))
    # A fork is safe only in a process without threads, which numerical libraries would start.
    environment = {**os.environ, "PYTHONPATH": path, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment,
        encoding="utf-8",
    )


def _to_json(request: Request) -> str:
    return json.dumps({**asdict(request), "path": str(request.path.absolute())}, ensure_ascii=True)


def _from_json(line: str) -> Request:
    row = json.loads(line)
    row["path"] = Path(row["path"])
    row["voice"] = Voice(**{**row["voice"], "formants": tuple(row["voice"]["formants"])})
    row["prosody"] = Prosody(**row["prosody"])
    row["sounds"] = tuple((pattern, sound) for pattern, sound in row["sounds"])
    return Request(**row)


def serve() -> None:
    """Answer requests from standard input, one JSON line each, until its end."""
    with tempfile.TemporaryDirectory(prefix="harness-speech-") as folder:
        # eSpeak cuts paths at about 160 characters; short relative ones always fit.
        os.chdir(folder)
        try:
            espeak = Espeak()
            # The same first words in every process: then every fork starts from one state, with all libraries loaded.
            encode_audio(render(espeak, Request(Path(), "مرحبا", Voice("ar", 100, 150, (100,) * 5))))
            for line in sys.stdin:
                print(json.dumps({"error": _render_in_fork(espeak, _from_json(line))}), flush=True)
        except CorpusError as error:
            print(json.dumps({"error": str(error)}), flush=True)
        finally:
            os.chdir("/")


def _render_in_fork(espeak: Espeak, request: Request) -> str:
    """Render one request in a child process; return an empty string or the error."""
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        problem = ""
        try:
            request.path.write_bytes(encode_audio(render(espeak, request)))
        except Exception as error:
            problem = f"{type(error).__name__}: {error}"
        finally:
            os.write(write_end, problem.encode("utf-8")[:60000])
            os._exit(0 if not problem else 1)
    os.close(write_end)
    with open(read_end, "rb") as pipe:
        problem = pipe.read().decode("utf-8", errors="replace")
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return problem or ("" if status == 0 else f"the speech process ended with status {status}")


class Espeak:
    """The eSpeak NG library of this process, which allows one instance and writes `voice` into the current folder."""

    def __init__(self) -> None:
        try:
            import espeakng_loader

            self._library = ctypes.CDLL(espeakng_loader.get_library_path())
            data = Path(espeakng_loader.get_data_path())
        except (ImportError, OSError) as error:
            raise CorpusError(f"eSpeak NG cannot be loaded ({error}): pip install espeakng-loader") from error
        if not Path("espeak-ng-data").exists():
            Path("espeak-ng-data").symlink_to(data, target_is_directory=True)
        self.sample_rate = self._library.espeak_Initialize(_SYNCHRONOUS, 0, b".", 0)
        if self.sample_rate <= 0:
            raise CorpusError(f"eSpeak NG does not accept its data folder {data}")
        self._library.espeak_TextToPhonemes.restype = ctypes.c_char_p
        self._library.espeak_ng_SetRandSeed.argtypes = [ctypes.c_long]
        self._blocks: list[np.ndarray] = []
        signature = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)
        self._callback = signature(self._collect)  # kept: the library holds only a pointer to it
        self._library.espeak_SetSynthCallback(self._callback)

    def _collect(self, samples: ctypes._Pointer, count: int, _events: int | None) -> int:
        if samples and count > 0:
            self._blocks.append(np.ctypeslib.as_array(samples, (count,)).copy())
        return 0

    def set_voice(self, voice: Voice, prosody: Prosody) -> None:
        """Set the speaker and the prosody of the next utterances."""
        Path("voice").write_text(_voice_file(voice, prosody), encoding="ascii")
        if self._library.espeak_ng_SetVoiceByFile(b"./voice") != 0:
            raise CorpusError(f"eSpeak NG does not accept the voice {voice}")
        rate = min(450, max(80, round(voice.rate * prosody.rate)))
        span = min(99, max(0, round(50 * prosody.range)))
        for parameter, value in ((_RATE, rate), (_VOLUME, 100), (_PITCH, 50), (_RANGE, span)):
            self._library.espeak_SetParameter(parameter, value, 0)

    def phonemes(self, text: str) -> str:
        """eSpeak's phoneme mnemonics of a text in the language of the voice, with spaces between words."""
        rest = ctypes.c_char_p(spelling(text).encode("utf-8"))
        clauses = []
        while rest.value:
            clauses.append(self._library.espeak_TextToPhonemes(ctypes.byref(rest), _UTF8, 0).decode("utf-8"))
        return " ".join(clauses).strip()

    def speak(self, text: str, sounds: Sequence[tuple[str, str]] = ()) -> np.ndarray:
        """Samples (n,) of a text in [-1, 1] at `sample_rate`. sounds: replacements of phonemes, as in Request."""
        text, flags = spelling(text), _UTF8
        if sounds:
            spoken = self.phonemes(text)
            for pattern, sound in sounds:
                spoken = re.sub(pattern, sound, spoken)
            text, flags = f"[[{spoken}]]", _UTF8 | _PHONEMES
        self._blocks.clear()
        self._library.espeak_ng_SetRandSeed(1)
        encoded = text.encode("utf-8")
        status = self._library.espeak_Synth(encoded, len(encoded) + 1, 0, 1, 0, flags, None, None)
        self._library.espeak_Synchronize()
        samples = np.concatenate([*self._blocks, np.zeros(1, np.int16)]).astype(np.float32) / 32768.0
        if status != 0 or np.abs(samples).max() < 0.01:
            raise CorpusError(f"eSpeak NG gives no sound for {text!r} (status {status})")
        return samples


def spelling(text: str) -> str:
    """Arabic text in a form that eSpeak 1.52 reads correctly.

    In Unicode's canonical order a vowel mark precedes a shadda, and eSpeak drops such a mark. So a doubled letter is
    written twice here, and once after the article.
    """
    text = _MARK_BEFORE_SHADDA.sub("\u0651\\1", text)
    text = _SUN_LETTER.sub("\\1", text)
    return _DOUBLED.sub("\\1\u0652\\1", text)


def _voice_file(voice: Voice, prosody: Prosody) -> str:
    if voice.language not in _LANGUAGES:
        raise CorpusError(f"language {voice.language!r} is not one of {', '.join(_LANGUAGES)}")
    shift = 2.0 ** (prosody.pitch / 12.0)
    lines = [
        f"name {voice.language}",
        *_LANGUAGES[voice.language],
        f"pitch {voice.pitch_hz * shift:.0f} {voice.top_hz * shift:.0f}",
        f"flutter {voice.flutter}",
    ]
    lines += [f"formant {number} {scale} 100 100" for number, scale in enumerate(voice.formants, start=1)]
    if voice.breath:
        lines.append("breath 0" + f" {voice.breath}" * 7)
    return "\n".join(lines) + "\n"


def render(espeak: Espeak, request: Request) -> np.ndarray:
    """Speak a request: float32 (n,) at 16 kHz with pauses around it and background noise, clipped to [-1, 1]."""
    voice, prosody = request.voice, request.prosody
    espeak.set_voice(voice, prosody)
    speech = espeak.speak(request.text, request.sounds)
    speech = soxr.resample(speech, espeak.sample_rate, SAMPLE_RATE, quality="HQ")
    # A filter of two taps makes the voice darker or brighter.
    speech[1:] += voice.darkness * speech[:-1]
    speech *= 10.0 ** ((voice.gain_db + prosody.gain_db) / 20.0) / (1.0 + abs(voice.darkness))
    random = np.random.default_rng(request.seed)
    before, after = random.integers(round(0.05 * SAMPLE_RATE), round(0.2 * SAMPLE_RATE), size=2)
    samples = random.standard_normal(before + len(speech) + after, dtype=np.float32)
    # Room noise is low-frequency, so neighbouring samples are correlated.
    samples[1:] += 0.7 * samples[:-1]
    samples *= 10.0 ** (voice.noise_db / 20.0)
    samples[before : before + len(speech)] += speech
    return np.clip(samples, -1.0, 1.0)


if __name__ == "__main__":
    serve()

"""Decode an audio file completely: libsndfile where it reads what the file holds, else FFmpeg (PyAV).

    with AudioFile(path) as file:
        file.sample_rate, file.channels, file.frames
        for block in file.blocks(60): ...         # float32 (n, channels), as stored

The container is recognised by its content. FFmpeg gets its name, since its own guess also tries play lists, which open
other files. `AudioError` names the file in every message.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from corpora.containers import Content, Incomplete, Part, kind_of, layout, stated_frames
from corpora.files import CorpusError

LOWEST_RATE, HIGHEST_RATE = 4_000, 384_000  # Hz; a header that states another one is wrong
_SNDFILE = {"wav", "flac", "aiff", "au", "w64", "caf", "sph", "ogg", "mp3"}
_FFMPEG = {"mp4": "mov", "wav": "wav", "flac": "flac", "mp3": "mp3", "ogg": "ogg", "aac": "aac", "caf": "caf",
           "au": "au", "matroska": "matroska", "asf": "asf", "amr": "amr"}  # fmt: skip
_FLOATING = ("FLOAT", "DOUBLE")
_BAD_SHARE = 0.02  # of the packets of an MP3, which may begin in the middle of a stream


class AudioError(CorpusError):
    """An audio file that cannot be read, or has another rate or several channels. Callers count and skip it."""


class AudioFile:
    """An open audio file. Raises AudioError for a file that is no audio, empty, broken, or states an impossible rate.

    sample_rate: in Hz.  channels: their number.  floating: its samples are stored as floating-point numbers.  joined:
    it holds several recordings.  notes: remarks on the file.
    """

    def __init__(self, source: Path | bytes, name: str | Path, *, quick: bool = False, tolerant: bool = False):
        """name: for messages.  quick: trust the header instead of searching the file for more than it states.

        tolerant: read a broken download as far as it goes, with a note; otherwise it is refused.
        """
        self.name = name
        self.notes: list[str] = []
        self.source, self._tolerant = source, tolerant
        self._file = io.BytesIO(source) if isinstance(source, bytes) else _open(source)
        self._pieces: list[_Piece] = []
        try:
            self.content = Content(self._file)
            if self.content.size == 0:
                raise AudioError(f"{name}: the file is empty (0 bytes)")
            self.kind = kind_of(self.content) or "other"
            self._add_pieces(quick)
            self.sample_rate, self.channels = self._pieces[0].sample_rate, self._pieces[0].channels
            self.floating = any(piece.floating for piece in self._pieces)
            self.joined = len(self._pieces) > 1
            self._check()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> AudioFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        for piece in self._pieces:
            piece.close()
        self._file.close()

    @property
    def frames(self) -> int:
        """Samples per channel. Without a stated length the file is decoded to count them."""
        return sum(sum(map(len, p.stream(p.sample_rate * 60))) if p.frames is None else p.frames for p in self._pieces)

    @property
    def stated(self) -> int | None:
        """Samples per channel by the headers, None where one states none; nothing is decoded."""
        counts = [piece.frames for piece in self._pieces]
        return None if None in counts else sum(counts)

    def blocks(self, seconds: float) -> Iterator[np.ndarray]:
        """All samples in blocks of about `seconds`, float32 (n, channels)."""
        size = max(1, round(seconds * self.sample_rate))
        for piece in self._pieces:
            yield from self._stream(piece, size)

    def read(self, start: int, stop: int) -> np.ndarray:
        """Samples start:stop, float32 (n, channels); fewer where the file ends before."""
        if len(self._pieces) == 1 and isinstance(self._pieces[0], _Sndfile):
            return self._pieces[0].read(start, stop)
        found, place = [], 0
        for block in self.blocks(60):
            found.append(block[max(0, start - place) : max(0, stop - place)])
            place += len(block)
            if place >= stop:
                break
        return np.concatenate(found) if found else np.zeros((0, self.channels), np.float32)

    def _stream(self, piece: _Piece, size: int) -> Iterator[np.ndarray]:
        given = 0
        try:
            for block in piece.stream(size):
                given += len(block)
                yield block
        except AudioError as error:
            if not self._tolerant:
                raise
            self._note(str(error).removeprefix(f"{self.name}: "))
            if isinstance(piece, _Sndfile) and self.kind in _FFMPEG:
                # libsndfile drops a whole block for one bad frame.
                yield from self._stream_after(given, _Ffmpeg(self, piece.part), size)

    def _stream_after(self, given: int, piece: _Piece, size: int) -> Iterator[np.ndarray]:
        try:
            for block in piece.stream(size):
                if len(block) > given:
                    yield block[given:]
                given = max(0, given - len(block))
        except AudioError as error:
            self._note(str(error))

    def _note(self, problem: str) -> None:
        """Note that the file is incomplete, for the first reason only."""
        if not any(note.startswith("incomplete: ") for note in self.notes):
            self.notes.append(f"incomplete: {problem}")

    def _add_pieces(self, quick: bool) -> None:
        try:
            parts = layout(self.content, self.kind, quick=quick)
        except Incomplete as error:
            raise AudioError(f"{self.name}: {error}") from None
        for part in parts:
            if part.missing:
                held = part.stop - part.start
                problem = f"truncated, it has {held} of {held + part.missing} bytes"
                if not self._tolerant:
                    raise AudioError(f"{self.name}: {problem}")
                self._note(problem)
            self._pieces.append(self._piece(part, quick))

    def _piece(self, part: Part, quick: bool) -> _Piece:
        kind, whole = self.kind, part.start == 0 and part.stop == self.content.size
        if kind == "sph" and b"shorten" in self.content.at(part.start, 1024).partition(b"end_head")[0]:
            raise AudioError(
                f"{self.name}: a SPHERE file packed with shorten, which cannot be read here; convert it with: "
                f"sph2pipe -f wav IN.sph OUT.wav (keep both channels), and put OUT.wav next to it or in its place"
            )
        if part.length == "short" and kind in ("aiff", "w64", "caf", "sph"):
            raise AudioError(
                f"{self.name}: more content follows the end that its header states; convert it with: "
                f"sox --ignore-length IN OUT.wav"
            )
        ours = kind in _SNDFILE or kind == "other"
        if (part.length == "unknown" and kind in ("wav", "flac", "caf", "mp3")) or part.length == "short":
            ours = False
        if ours and kind == "mp3" and not quick:
            ours = self._holds_stated_frames(part)
        if ours:
            try:
                piece = _Sndfile(self, part, whole)
                # The length of MP3 in WAV counts samples that the encoder added, and libsndfile does not give them.
                if kind != "wav" or not piece.is_mpeg:
                    return piece
                piece.close()
            except (soundfile.LibsndfileError, TypeError) as error:
                # TypeError: for a suffix such as .raw, soundfile needs a rate
                reason = getattr(error, "error_string", str(error)).strip()
                reason = "no known audio format" if kind == "other" else reason
                if kind not in _FFMPEG:
                    raise AudioError(f"{self.name}: cannot be read as audio ({reason})") from error
        return _Ffmpeg(self, part)

    def _holds_stated_frames(self, part: Part) -> bool:
        """Whether an MP3 holds the frames that its tag states. Raises AudioError, or notes, where it holds fewer."""
        stated = stated_frames(self.content, part) or 0
        held = _Ffmpeg(self, part).packets()
        if held < stated - 1:
            problem = f"truncated, it has {held} of {stated} frames"
            if not self._tolerant:
                raise AudioError(f"{self.name}: {problem}")
            self._note(problem)
        return held <= stated + 1

    def _check(self) -> None:
        rates = sorted({piece.sample_rate for piece in self._pieces})
        counts = sorted({piece.channels for piece in self._pieces})
        if len(rates) > 1 or len(counts) > 1:
            raise AudioError(
                f"{self.name}: its recordings have {', '.join(map(str, rates))} Hz and {', '.join(map(str, counts))} "
                "channels; cut it into one file each"
            )
        if not LOWEST_RATE <= rates[0] <= HIGHEST_RATE:
            raise AudioError(
                f"{self.name}: its header states {rates[0]} Hz, expected {LOWEST_RATE} to {HIGHEST_RATE} Hz; the "
                "header is wrong, or this is no speech"
            )


def _open(path: Path) -> Any:
    try:
        if not path.is_file():
            raise AudioError(f"{path}: no such file")
        return open(path, "rb")
    except OSError as error:
        raise AudioError(f"{path}: cannot be opened ({error.strerror or error})") from error


class _Window(io.RawIOBase):
    """The bytes of a part as a file of its own."""

    def __init__(self, content: Content, part: Part):
        self._content, self._start, self._stop, self._place = content, part.start, part.stop, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = (0, self._place, self._stop - self._start)[whence]
        self._place = max(0, base + offset)
        return self._place

    def tell(self) -> int:
        return self._place

    def read(self, size: int = -1) -> bytes:
        left = max(0, self._stop - self._start - self._place)
        found = self._content.at(self._start + self._place, left if size is None or size < 0 else min(size, left))
        self._place += len(found)
        return found

    def readinto(self, target: Any) -> int:
        found = self.read(len(target))
        target[: len(found)] = found
        return len(found)


class _Piece:
    """A decoder of one part."""

    sample_rate: int
    channels: int
    floating: bool
    frames: int | None  # None: not known before decoding

    def stream(self, size: int) -> Iterator[np.ndarray]:
        raise NotImplementedError

    def close(self) -> None:
        raise NotImplementedError


class _Sndfile(_Piece):
    def __init__(self, owner: AudioFile, part: Part, whole: bool):
        self._owner, self.part = owner, part
        self._whole = whole
        self._file = self._reopen()
        self._used = False
        self.sample_rate, self.channels, self.frames = self._file.samplerate, self._file.channels, self._file.frames
        self.floating = self._file.subtype in _FLOATING
        self.is_mpeg = self._file.subtype.startswith("MPEG_")

    def _reopen(self) -> soundfile.SoundFile:
        source = self._owner.source
        if not self._whole:
            return soundfile.SoundFile(_Window(self._owner.content, self.part))
        # Bytes in place of a path, since a name need not be UTF-8.
        return soundfile.SoundFile(io.BytesIO(source) if isinstance(source, bytes) else os.fsencode(source))

    def close(self) -> None:
        self._file.close()

    def stream(self, size: int) -> Iterator[np.ndarray]:
        if self._used:
            self._file.close()
            self._file = self._reopen()
        self._used = True
        # soundfile seeks to its current position after every read; in MP3 and Opus libsndfile then continues elsewhere.
        self._file.seekable = lambda: False
        for start in range(0, self.frames, size):
            wanted = min(size, self.frames - start)
            block = self._read(wanted)
            if len(block):
                yield block
            if len(block) < wanted:
                raise AudioError(
                    f"{self._owner.name}: truncated, {start + len(block)} of {self.frames} samples could be read"
                )

    def read(self, start: int, stop: int) -> np.ndarray:
        if self._used:
            self._file.close()
            self._file = self._reopen()
        self._used = True
        if start:
            try:
                self._file.seek(start)
            except soundfile.LibsndfileError as error:
                raise self._error(error) from error
        return self._read(min(stop, self.frames) - start)

    def _read(self, count: int) -> np.ndarray:
        try:
            return self._file.read(max(0, count), dtype="float32", always_2d=True)
        except soundfile.LibsndfileError as error:
            raise self._error(error) from error

    def _error(self, error: soundfile.LibsndfileError) -> AudioError:
        reason = error.error_string.strip()
        return AudioError(f"{self._owner.name}: cannot be decoded, probably truncated ({reason})")


class _Ffmpeg(_Piece):
    def __init__(self, owner: AudioFile, part: Part):
        self._owner, self.part = owner, part
        self.frames = None
        with self._container() as container:
            # The decoder knows better than the header: HE-AAC states half its rate.
            first = next((frame for frames in self._decoded(container) for frame in frames or ()), None)
            if first is None:
                raise AudioError(f"{owner.name}: no samples")
            self.sample_rate, self.channels = first.sample_rate, first.layout.nb_channels
            self.floating = self._stream_of(container).codec_context.name.startswith(("pcm_f32", "pcm_f64"))
            tracks = len(container.streams.audio)
        if tracks > 1:
            owner.notes.append(f"it holds {tracks} audio tracks, of which the first was read")

    def close(self) -> None:
        pass

    def packets(self) -> int:
        """The number of packets with content."""
        with self._container() as container:
            return sum(1 for packet in container.demux(self._stream_of(container)) if packet.size)

    def stream(self, size: int) -> Iterator[np.ndarray]:
        waiting: list[np.ndarray] = []
        count = bad = packets = 0
        last_bad = False
        with self._container() as container:
            for frames in self._decoded(container):
                packets += 1
                last_bad = frames is None
                bad += last_bad
                for frame in frames or ():
                    if frame.sample_rate != self.sample_rate or frame.layout.nb_channels != self.channels:
                        raise AudioError(
                            f"{self._owner.name}: after {count} samples its rate or channels change to "
                            f"{frame.sample_rate} Hz and {frame.layout.nb_channels}; cut it there"
                        )
                    waiting.append(_as_float(frame))
                    count += frame.samples
                if sum(map(len, waiting)) >= size:
                    yield np.concatenate(waiting)
                    waiting = []
        if waiting:
            yield np.concatenate(waiting)
        if bad and (last_bad or self._owner.kind != "mp3" or bad > max(1, _BAD_SHARE * packets)):
            what = "truncated" if last_bad else "damaged"
            raise AudioError(f"{self._owner.name}: {what}, {bad} of {packets} packets cannot be decoded")

    def _decoded(self, container: Any) -> Iterator[list[Any] | None]:
        """The frames of every packet; None for a packet that cannot be decoded."""
        import av

        packets = container.demux(self._stream_of(container))
        while True:
            try:
                packet = next(packets)
            except StopIteration:
                return
            except av.FFmpegError as error:
                raise AudioError(f"{self._owner.name}: truncated or damaged ({error.strerror})") from error
            try:
                frames = packet.decode()
            except av.FFmpegError:
                yield None
                continue
            if packet.size or frames:
                yield frames

    def _container(self) -> Any:
        import av  # takes 0.1 s to import

        form = _FFMPEG.get(self._owner.kind)
        options = {"ignore_length": "1"} if form == "wav" and self.part.length != "stated" else {}
        try:
            if form is None:
                raise ValueError("no known audio format")
            return av.open(_Window(self._owner.content, self.part), format=form, options=options)
        except (av.FFmpegError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise AudioError(f"{self._owner.name}: cannot be read as audio ({reason})") from error

    def _stream_of(self, container: Any) -> Any:
        if not container.streams.audio:
            raise AudioError(f"{self._owner.name}: cannot be read as audio (it holds no audio stream)")
        return container.streams.audio[0]


def _as_float(frame: Any) -> np.ndarray:
    """The samples of a decoded frame as float32 (n, channels)."""
    array = frame.to_ndarray()
    array = array.T if frame.format.is_planar else array.reshape(-1, frame.layout.nb_channels)
    if array.dtype.kind == "u":
        return (array.astype(np.float32) - 128) / 128
    if array.dtype.kind == "i":
        return (array / float(1 << 8 * array.dtype.itemsize - 1)).astype(np.float32)
    return array.astype(np.float32)

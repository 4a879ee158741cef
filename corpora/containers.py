"""Recognise audio files by their content, and find the recordings that a file holds, whatever length its header states.

    kind_of(content)        "wav", "mp3", "mp4", ...; None for content that is no known audio
    layout(content, kind)   its recordings, one after the other

A file holds several recordings after `cat a.mp3 b.mp3`, or as chained Ogg. Programs that write to a pipe do not know
the length beforehand and state 0 or the largest number, which is no length. A broken download holds less than stated.
"""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import BinaryIO

from corpora.files import CorpusError

# Programs that write to a pipe state a length of about 2 or 4 GiB, or 0.
_UNKNOWN_32 = 0x7FFFF000
_UNKNOWN_64 = 0x7FFFFFFFFFFFF000
_LONGEST_OGG_PAGE = 27 + 255 + 255 * 255
_STEP = 1 << 20  # bytes that are searched at a time
_LONGEST_MATCH = 64

_W64_HEADER = bytes.fromhex("726966662e91cf11a5d628db04c10000")
_W64_TAIL = bytes.fromhex("f3acd3118cd100c04f8edb8a")  # of the GUIDs of its chunks
_ASF_HEADER = bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c")
_ASF_DATA, _ASF_EMPTY = bytes.fromhex("3626b2758e66cf11a6d900aa0062ce6c"), 50  # bytes of its header
_SEGMENT = 0x18538067  # of Matroska
_LEFTOVERS = (b"TAG", b"ID3", b"APETAGEX", b"LIST", b"LYRICS")  # tags that programs append to any file
_MAGIC = (
    (b"fLaC", "flac"),
    (b"OggS", "ogg"),
    (b".snd", "au"),
    (b"NIST_1A", "sph"),
    (_W64_HEADER, "w64"),
    (b"caff", "caf"),
    (b"\x1a\x45\xdf\xa3", "matroska"),
    (_ASF_HEADER, "asf"),
    (b"#!AMR\n", "amr"),
    (b"#!AMR-WB\n", "amr"),
)
# How the next recording begins, where the length of the one before is not stated.
_NEXT = {
    "wav": re.compile(rb"(?:RIFF|RF64|BW64)[\s\S]{4}WAVE"),
    "aiff": re.compile(rb"FORM[\s\S]{4}AIF[FC]"),
    "au": re.compile(rb"\.snd\x00\x00[\s\S]{6}\x00\x00\x00[\s\S]\x00"),
    "caf": re.compile(rb"caff\x00\x01\x00\x00desc"),
    "sph": re.compile(rb"NIST_1A\n"),
    "matroska": re.compile(rb"\x1a\x45\xdf\xa3(?:[\x80-\xff]|\x01[\s\S]{7})\x42"),
    "asf": re.compile(re.escape(_ASF_HEADER)),
    "amr": re.compile(rb"#!AMR(?:-WB)?\n"),
    "flac": re.compile(rb"fLaC[\x00\x80]\x00\x00\x22"),
    "ogg": re.compile(rb"OggS\x00[\x02\x06]"),
}
_ENCODER_TAG = re.compile(rb"Xing|Info")


class Incomplete(CorpusError):
    """A file that ends before its first sample, holds recordings of several kinds, or has samples in several chunks."""


class Content:
    """The bytes of an open file. Unlike a memory map, it survives a file that becomes shorter."""

    def __init__(self, file: BinaryIO):
        self._file = file
        self.size = file.seek(0, os.SEEK_END)

    def at(self, start: int, length: int) -> bytes:
        """The bytes from `start` on, at most `length`."""
        self._file.seek(start)
        return self._file.read(length)

    def search(self, pattern: re.Pattern[bytes], start: int) -> int | None:
        """The first place from `start` on where the pattern matches; its matches are at most 64 bytes long."""
        while start < self.size:
            match = pattern.search(self.at(start, _STEP + _LONGEST_MATCH))
            if match:
                return start + match.start()
            start += _STEP
        return None


@dataclass(frozen=True)
class Part:
    """One recording in a file: the bytes `start` to `stop`.

    length: of its samples in its header: "stated", "unknown", or "short" where more follows than is stated.  missing:
    bytes that the header states and the file does not hold.
    """

    start: int
    stop: int
    length: str = "stated"
    missing: int = 0


def kind_of(content: Content) -> str | None:
    """The container of an audio file, by its first bytes; None for content of another kind."""
    return _kind(content, 0)


def _kind(content: Content, start: int) -> str | None:
    head = content.at(start, 64)
    if head[:4] in (b"RIFF", b"RF64", b"BW64"):
        return "wav" if head[8:12] == b"WAVE" else None
    if head[:4] == b"FORM":
        return "aiff" if head[8:12] in (b"AIFF", b"AIFC") else None
    for magic, kind in _MAGIC:
        if head.startswith(magic):
            return kind
    if head[4:8] == b"ftyp":
        return "mp4"
    if head[:3] == b"ID3":
        inner = content.at(_after_id3(content, start), 4)
        return "flac" if inner == b"fLaC" else "aac" if _is_adts(inner) else "mp3"
    if _is_adts(head):
        return "aac"
    return "mp3" if _is_mpeg_frame(head) else None


def layout(content: Content, kind: str, *, quick: bool = False) -> list[Part]:
    """The recordings of a file. `quick` reads headers only, and so finds a single one where the next must be searched.

    Raises Incomplete where the file ends before its first sample, and where recordings of two kinds are joined.
    """
    if kind not in _WALKS:
        return [Part(0, content.size)]
    parts: list[Part] = []
    start = 0
    while True:
        parts.append(_WALKS[kind](content, start, quick))
        start = parts[-1].stop
        if start >= content.size or _kind(content, start) != kind:
            break
    rest = content.at(start, 4096)
    if len(rest) > 16 and any(rest) and not rest.startswith(_LEFTOVERS):
        other = _kind(content, start)
        if other not in (None, "mp3", "aac"):
            raise Incomplete(f"{kind} with {other} after it; cut it into one file each")
        parts[-1] = Part(parts[-1].start, content.size, "short")
    return parts


def stated_frames(content: Content, part: Part) -> int | None:
    """The number of frames that the tag of an MP3 part states (Xing, Info); None without such a tag."""
    begin = _after_id3(content, part.start)
    head = content.at(begin, 256)
    match = _ENCODER_TAG.search(head)
    if not match or len(head) < match.end() + 8 or not head[match.end() + 3] & 1:
        return None
    return struct.unpack_from(">I", head, match.end() + 4)[0] or None


def _unpack(form: str, content: Content, start: int) -> tuple[int, ...]:
    found = content.at(start, struct.calcsize(form))
    if len(found) < struct.calcsize(form):
        raise Incomplete("truncated, no samples follow the header")
    return struct.unpack(form, found)


def _bounded(content: Content, start: int, end: int) -> Part:
    """A recording whose header states that it ends at `end`."""
    return Part(start, min(end, content.size), missing=max(0, end - content.size))


def _unbounded(content: Content, start: int, begin: int, kind: str, quick: bool, length: str = "unknown") -> Part:
    """A recording that ends where the next one begins; its samples begin at `begin`."""
    found = None if quick else content.search(_NEXT[kind], begin)
    return Part(start, content.size if found is None else found, length)


def _wav(content: Content, start: int, quick: bool) -> Part:
    place, long_data, width = start + 12, None, 1
    while place + 8 <= content.size:
        name, length = _unpack("<4sI", content, place)
        begin = place + 8
        if name == b"fmt ":
            width = max(1, _unpack("<12xH", content, begin)[0])
        if name == b"ds64":
            long_data = _unpack("<QQ", content, begin)[1]
        if name == b"data":
            unknown = length >= _UNKNOWN_32
            if long_data is not None and length == 0xFFFFFFFF:
                length, unknown = long_data, long_data == 0 or long_data >= _UNKNOWN_64
            end = _after_chunks(content, begin + length + (length & 1))
            if unknown or (length == 0 and end < content.size and _kind(content, end) != "wav"):
                part = _unbounded(content, start, begin, "wav", quick)
                left = (content.size - begin) % width  # half a sample, where the writer was stopped
                return replace(part, stop=content.size - left) if part.stop == content.size else part
            return _bounded(content, start, begin + length if begin + length > content.size else min(end, content.size))
        place = begin + length + (length & 1)
    raise Incomplete("truncated, no samples follow the header")


def _after_chunks(content: Content, place: int) -> int:
    """The end of the chunks (name, 32-bit length) that begin at `place`, behind the samples.

    Raises Incomplete for further samples: decoders read the last chunk of them only.
    """
    while place + 8 <= content.size:
        name, length = _unpack("<4sI", content, place)
        end = place + 8 + length
        if name in (b"RIFF", b"RF64", b"BW64") or not re.fullmatch(rb"[\w ]{4}", name) or end > content.size:
            break
        if name == b"data":
            raise Incomplete("its samples are in several chunks, of which decoders read one; write it as one WAV file")
        place = end + (length & 1)
    return place


def _aiff(content: Content, start: int, quick: bool) -> Part:
    (length,) = _unpack(">I", content, start + 4)
    if length < 46 or length >= _UNKNOWN_32:
        return _unbounded(content, start, start + 12, "aiff", quick)
    return _bounded(content, start, start + 8 + length)


def _au(content: Content, start: int, quick: bool) -> Part:
    header, length = _unpack(">II", content, start + 4)
    if length >= _UNKNOWN_32 or (length == 0 and content.size > start + header):
        return _unbounded(content, start, start + header, "au", quick)
    return _bounded(content, start, start + header + length)


def _w64(content: Content, start: int, quick: bool) -> Part:
    place = start + 40
    while place + 24 <= content.size:
        name, tail, length = _unpack("<4s12sQ", content, place)
        if length < 24 or tail != _W64_TAIL or length >= _UNKNOWN_64:
            break
        place += (length + 7) // 8 * 8
    # The last chunk may lack the bytes that fill it up to a multiple of 8.
    return _bounded(content, start, content.size if content.size < place < content.size + 8 else place)


def _caf(content: Content, start: int, quick: bool) -> Part:
    place = start + 8
    while place + 12 <= content.size:
        name, length = _unpack(">4sq", content, place)
        if name == b"data" and length < 0:
            return _unbounded(content, start, place + 12, "caf", quick)
        if name == b"caff" or length < 0 or not re.fullmatch(rb"[\w ]{4}", name):
            break
        place += 12 + length
    return _bounded(content, start, place)


def _sph(content: Content, start: int, quick: bool) -> Part:
    head = content.at(start, 4096).partition(b"end_head")[0]
    fields = dict(re.findall(rb"(\w+) -(?:i|s\d+) (\d+)", head))  # libsndfile writes a width of 1 as text
    size = re.match(rb"NIST_1A\n\s*(\d+)", head)
    if size is None or b"sample_count" not in fields or b"shorten" in head:
        return _unbounded(content, start, start + 16, "sph", quick)
    width = int(fields.get(b"channel_count", 1)) * int(fields.get(b"sample_n_bytes", 2))
    return _bounded(content, start, start + int(size[1]) + int(fields[b"sample_count"]) * width)


def _mp4(content: Content, start: int, quick: bool) -> Part:
    place, found = start, set()
    while place + 8 <= content.size:
        length, name = _unpack(">I4s", content, place)
        if (name == b"ftyp" and {b"ftyp", b"moov"} <= found) or not re.fullmatch(rb"[\x20-\x7e\xa9]{4}", name):
            break
        found.add(name)
        if length == 1:
            (length,) = _unpack(">Q", content, place + 8)
        elif length == 0:  # up to the end of the file
            length = content.size - place
        if length < 8:
            break
        place += length
    return _bounded(content, start, place)


def _matroska(content: Content, start: int, quick: bool) -> Part:
    place, name = start, 0
    while name != _SEGMENT:
        name, width = _number(content, place, keep_mark=True)
        length, more = _number(content, place + width)
        begin = place + width + more
        if length == (1 << 7 * more) - 1:
            return _unbounded(content, start, begin, "matroska", quick)
        place = begin + length
    return _bounded(content, start, place)


def _number(content: Content, place: int, *, keep_mark: bool = False) -> tuple[int, int]:
    """A number of Matroska and its width in bytes; the leading zero bits of its first byte and a 1 mark the width."""
    (first,) = _unpack("B", content, place)
    width = 9 - first.bit_length()
    found = content.at(place, width)
    if width > 8 or len(found) < width:
        raise Incomplete("truncated or damaged in its header")
    number = int.from_bytes(found, "big")
    return (number if keep_mark else number & ((1 << 7 * width) - 1)), width


def _asf(content: Content, start: int, quick: bool) -> Part:
    place = start
    while place + 24 <= content.size:
        name, length = _unpack("<16sQ", content, place)
        if name == _ASF_DATA and length <= _ASF_EMPTY:
            return _unbounded(content, start, place, "asf", quick)
        if (place > start and name == _ASF_HEADER) or length < 24:
            break
        place += length
    return _bounded(content, start, place)


def _amr(content: Content, start: int, quick: bool) -> Part:
    return _unbounded(content, start, start + 6, "amr", quick)


def _flac(content: Content, start: int, quick: bool) -> Part:
    begin = _after_id3(content, start)
    total = int.from_bytes(content.at(begin + 21, 5), "big") & ((1 << 36) - 1)
    return _unbounded(content, start, begin + 4, "flac", quick, "stated" if total else "unknown")


def _mp3(content: Content, start: int, quick: bool) -> Part:
    """A recording ends where a frame with the tag of an encoder begins the next one."""
    place = _after_id3(content, start) + 256
    stop = content.size
    while not quick and (found := content.search(_ENCODER_TAG, place)) is not None:
        frame = _tagged_frame(content, found)
        if frame is not None:
            stop = frame
            break
        place = found + 4
    part = Part(start, stop)
    return part if stated_frames(content, part) else Part(start, stop, "unknown")


def _tagged_frame(content: Content, place: int) -> int | None:
    """The begin of the frame of MPEG layer III that holds a tag at `place`, after side information of zeros."""
    for side in (9, 17, 32):
        head = content.at(place - 4 - side, 4 + side)
        if _is_mpeg_frame(head) and not any(head[4:]):
            return place - 4 - side
    return None


def _ogg(content: Content, start: int, quick: bool) -> Part:
    """A chain link: its first pages carry the mark of a beginning, and the next such page begins the next link."""
    place = start
    while (head := content.at(place, 27 + 255))[:4] == b"OggS" and len(head) > 27 and head[5] & 2:
        place += 27 + head[26] + sum(head[27 : 27 + head[26]])
    part = _unbounded(content, start, place, "ogg", quick, "stated")
    tail = content.at(max(start, part.stop - _LONGEST_OGG_PAGE), part.stop)
    page = tail[tail.rfind(b"OggS") :] if part.stop == content.size else b""
    lengths = page[27 : 27 + page[26]] if len(page) > 26 else b""
    if page and (len(page) < 27 or len(lengths) < page[26] or len(page) < 27 + len(lengths) + sum(lengths)):
        return Part(start, part.stop, missing=max(1, 27 + len(lengths) + sum(lengths) - len(page)))
    return part


def _is_mpeg_frame(head: bytes) -> bool:
    """Whether a header of an MPEG audio frame begins here, of layer II or III: the mark of UTF-16 text is layer I."""
    if len(head) < 4 or head[0] != 0xFF or head[1] & 0xE0 != 0xE0:
        return False
    version, layer, bits, rate = head[1] >> 3 & 3, head[1] >> 1 & 3, head[2] >> 4, head[2] >> 2 & 3
    return version != 1 and layer in (1, 2) and bits != 15 and rate != 3


def _is_adts(head: bytes) -> bool:
    return len(head) > 2 and head[0] == 0xFF and head[1] & 0xF6 == 0xF0 and head[2] >> 2 & 15 < 13


def _after_id3(content: Content, start: int) -> int:
    """The first byte after the ID3v2 tags that begin at `start`."""
    while (head := content.at(start, 10))[:3] == b"ID3" and len(head) == 10:
        length = 0
        for byte in head[6:]:
            length = length << 7 | byte & 0x7F
        start += 10 + length + (10 if head[5] & 0x10 else 0)
    return start


_WALKS: dict[str, Callable[[Content, int, bool], Part]] = {
    "wav": _wav,
    "aiff": _aiff,
    "au": _au,
    "w64": _w64,
    "caf": _caf,
    "sph": _sph,
    "mp4": _mp4,
    "matroska": _matroska,
    "asf": _asf,
    "amr": _amr,
    "flac": _flac,
    "mp3": _mp3,
    "ogg": _ogg,
}

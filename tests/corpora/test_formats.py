"""Files as people have them: every container is read whole, whatever its header states, and by the same rules."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from corpora.audio import (
    SAMPLE_RATE,
    AudioError,
    audio_info,
    convert_audio,
    find_audio,
    hash_audio,
    header_info,
    load_any,
    read_audio,
    stream_any,
)

SECONDS = 2.0
# Container: suffix, codec, FFmpeg's name of the container, rate, bits per second, further options of the muxer.
CONTAINERS = {
    "wav": (".wav", "pcm_s16le", "wav", 16000, 0, {}),
    "rf64": (".wav", "pcm_s16le", "wav", 16000, 0, {"rf64": "always"}),
    "adpcm": (".wav", "adpcm_ima_wav", "wav", 16000, 0, {}),
    "aiff": (".aiff", "pcm_s16be", "aiff", 16000, 0, {}),
    "au": (".au", "pcm_s16be", "au", 16000, 0, {}),
    "w64": (".w64", "pcm_s16le", "w64", 16000, 0, {}),
    "caf": (".caf", "pcm_s16le", "caf", 16000, 0, {}),
    "flac": (".flac", "flac", "flac", 16000, 0, {}),
    "mp3": (".mp3", "libmp3lame", "mp3", 16000, 32000, {}),
    "mp3 without tag": (".mp3", "libmp3lame", "mp3", 16000, 32000, {"write_xing": 0, "id3v2_version": 0}),
    "opus": (".opus", "libopus", "ogg", 48000, 0, {}),
    "aac": (".aac", "aac", "adts", 16000, 0, {}),
    "m4a": (".m4a", "aac", "ipod", 16000, 0, {"movflags": "faststart"}),
    "mp4": (".mp4", "aac", "mp4", 44100, 0, {"movflags": "frag_keyframe+empty_moov"}),
    "3gp": (".3gp", "libopencore_amrnb", "3gp", 8000, 12200, {}),
    "amr": (".amr", "libopencore_amrnb", "amr", 8000, 12200, {}),
    "webm": (".webm", "libopus", "webm", 48000, 0, {}),
    "mka": (".mka", "aac", "matroska", 16000, 0, {}),
    "wma": (".wma", "wmav2", "asf", 44100, 64000, {}),
}
# What a codec adds at the ends of a recording, in seconds; WMA loses some samples.
PADDING = {"adpcm": 0.05, "aac": 0.15, "m4a": 0.15, "mp4": 0.1, "mka": 0.15, "mp3 without tag": 0.12, "3gp": 0.05,
           "amr": 0.05, "wma": 0.1}  # fmt: skip


def speech(rate: int, seconds: float = SECONDS, seed: int = 0) -> np.ndarray:
    noise = np.random.default_rng(seed).standard_normal(round(seconds * rate))
    tone = np.sin(2 * np.pi * 440 * np.arange(len(noise)) / rate)
    return (0.3 * tone + 0.01 * noise).astype(np.float32)


@pytest.fixture
def make(tmp_path: Path, encode) -> Callable[..., Path]:
    """A function that writes two seconds in a container of the table, and returns the path."""

    def write(kind: str, stem: str = "a", **more) -> Path:
        suffix, codec, form, rate, bits, options = CONTAINERS[kind]
        path = tmp_path / f"{stem}{suffix}"
        encode(path, speech(rate), rate, codec, form, bits=bits, **options, **more)
        return path

    return write


def is_long(path: Path, seconds: float, kind: str) -> None:
    """Every way of reading gives `seconds` of sound."""
    slack = PADDING.get(kind, 0.0) * round(seconds / SECONDS) + 1e-3
    lost = 0.01 if kind == "wma" else 1e-3
    notes: list[str] = []
    samples = load_any(path, notes=notes)
    assert notes == []
    assert seconds - lost <= len(samples) / SAMPLE_RATE <= seconds + slack
    info = audio_info(path)
    assert info.samples / info.sample_rate == pytest.approx(len(samples) / SAMPLE_RATE, abs=1e-3)
    assert convert_audio(path, path.with_name("converted.wav")) == len(samples)
    for end in (round(SAMPLE_RATE * seconds), SAMPLE_RATE):
        assert np.sqrt((samples[end - 8000 : end - 2000] ** 2).mean()) == pytest.approx(0.212, rel=0.1)


@pytest.mark.parametrize("kind", CONTAINERS)
def test_a_file_is_read_whole(make, kind: str) -> None:
    is_long(make(kind), SECONDS, kind)


def test_mp3_in_wav_is_read_whole(tmp_path: Path, encode) -> None:
    """Old recorders write it; libsndfile gives fewer samples than the header states."""
    encode(tmp_path / "a.wav", speech(22050), 22050, "libmp3lame", "wav", bits=64000)
    is_long(tmp_path / "a.wav", SECONDS, "mp3 without tag")


def test_samples_in_two_chunks_are_refused(tmp_path: Path) -> None:
    """FFmpeg would read the second chunk only."""
    soundfile.write(tmp_path / "a.wav", speech(16000), 16000, subtype="PCM_16")
    head, samples = (content := (tmp_path / "a.wav").read_bytes())[:36], content[44:]
    chunks = [b"data" + len(own).to_bytes(4, "little") + own for own in (samples[:16000], samples[16000:])]
    (tmp_path / "a.wav").write_bytes(head + b"".join(chunks))
    for notes in (None, []):
        with pytest.raises(AudioError, match="a.wav: its samples are in several chunks"):
            load_any(tmp_path / "a.wav", notes=notes)


def test_a_page_of_a_server_is_no_audio(tmp_path: Path) -> None:
    (tmp_path / "a.mp3").write_text("<html><body>404 Not Found</body></html>")
    with pytest.raises(AudioError, match="a.mp3: cannot be read as audio .no known audio format"):
        load_any(tmp_path / "a.mp3")


@pytest.mark.parametrize("kind", CONTAINERS)
def test_joined_files_are_read_to_the_end(make, kind: str) -> None:
    path = make(kind)
    path.write_bytes(path.read_bytes() * 3)
    is_long(path, 3 * SECONDS, kind)


@pytest.mark.parametrize("kind", sorted(CONTAINERS.keys() - {"w64", "m4a", "3gp"}))
def test_a_file_from_a_pipe_states_no_length(make, kind: str) -> None:
    path = make(kind, pipe=True)
    kind = "mp3 without tag" if kind == "mp3" else kind
    is_long(path, SECONDS, kind)
    path.write_bytes(path.read_bytes() * 2)
    is_long(path, 2 * SECONDS, kind)


@pytest.mark.parametrize("kind", sorted(CONTAINERS.keys() - {"mp3 without tag", "aac", "3gp"}))
def test_a_broken_download_is_refused_or_read_with_a_note(make, kind: str) -> None:
    path = make(kind)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * 7 // 10])
    for read in (read_audio, load_any, hash_audio, lambda path: convert_audio(path, path.with_name("out.wav"))):
        with pytest.raises(AudioError, match=rf"{path.name}: "):
            read(path)
    assert not path.with_name("out.wav").exists()
    if kind == "caf":  # neither decoder opens it
        return
    notes: list[str] = []
    samples = load_any(path, notes=notes)
    assert 0.8 < len(samples) / SAMPLE_RATE < 1.9
    assert len(notes) == 1 and notes[0].startswith("incomplete: "), notes


@pytest.mark.parametrize("subtype", ["PCM_16", "ULAW"])
def test_sphere_files_are_read_whole_or_refused(tmp_path: Path, subtype: str) -> None:
    path = tmp_path / "a.sph"
    soundfile.write(path, np.stack([speech(8000)] * 2, axis=1), 8000, format="NIST", subtype=subtype)
    content = path.read_bytes()
    is_long(path, SECONDS, "sph")
    path.write_bytes(content * 2)
    is_long(path, 2 * SECONDS, "sph")
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(AudioError, match=r"a\.sph: truncated"):
        load_any(path)


@pytest.mark.parametrize("kind", ["aiff", "w64", "caf", "sph"])
def test_more_than_a_header_states_is_refused_by_name(make, tmp_path: Path, kind: str) -> None:
    """No decoder reads the samples after the stated end."""
    path = tmp_path / "a.sph" if kind == "sph" else make(kind)
    if kind == "sph":
        soundfile.write(path, speech(16000), 16000, format="NIST", subtype="PCM_16")
    path.write_bytes(path.read_bytes() + b"\x05\x01" * 4000)
    for notes in (None, []):
        with pytest.raises(AudioError, match=rf"{path.name}: more content follows the end that its header states"):
            load_any(path, notes=notes)


def test_an_mp3_with_a_tag_before_one_without(make) -> None:
    """The tag states the frames of the first one only."""
    path, other = make("mp3"), make("mp3 without tag", "b")
    path.write_bytes(path.read_bytes() + other.read_bytes())
    is_long(path, 2 * SECONDS, "mp3 without tag")


@pytest.mark.parametrize("stated", [0, 1000, 0x7FFFF000, 0xFFFFFFFF])
def test_a_wav_that_states_less_than_it_holds(tmp_path: Path, stated: int) -> None:
    path = tmp_path / "a.wav"
    soundfile.write(path, speech(16000), 16000)
    whole = read_audio(path)
    content = bytearray(path.read_bytes())
    assert content[36:40] == b"data"
    content[40:44] = struct.pack("<I", stated)
    path.write_bytes(content)
    assert np.array_equal(read_audio(path), whole) and audio_info(path).samples == len(whole)
    path.write_bytes(content[:-1])
    assert stated in (0, 1000) or len(load_any(path)) == len(whole) - 1


def test_chunks_after_the_samples_are_no_sound(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    soundfile.write(path, speech(16000), 16000)
    content = path.read_bytes()
    for tail in (b"LIST\x04\0\0\0INFO", b"TAG" + bytes(125), bytes(512), b"id3 \x03\0\0\0abc\0"):
        path.write_bytes(content + tail)
        assert len(load_any(path)) == audio_info(path).samples == 32000


@pytest.mark.parametrize("first", ["silence", "noise"])
def test_a_variable_bit_rate_without_a_tag(tmp_path: Path, encode, first: str) -> None:
    """libsndfile estimates the length from the first frames: 23 s where they are silent and small, else 3 s."""
    silence = np.zeros(16000 * 4, np.float32)
    noise = 0.3 * np.random.default_rng(0).standard_normal(16000 * 4).astype(np.float32)
    parts = [silence, noise] if first == "silence" else [noise, silence]
    path = tmp_path / "a.mp3"
    encode(path, np.concatenate(parts), 16000, "libmp3lame", "mp3", write_xing=0, id3v2_version=0, quality=236)
    assert abs(soundfile.info(path).duration - 8) > 3
    assert len(load_any(path)) / SAMPLE_RATE == pytest.approx(8, abs=0.15)


def test_a_second_audio_track_is_named(tmp_path: Path) -> None:
    """Recorders of calls and screens write one track for each side."""
    import av

    with av.open(str(tmp_path / "a.mka"), "w", format="matroska") as out:
        tracks = [out.add_stream("pcm_s16le", rate=16000, layout="mono") for _ in range(2)]
        for number, track in enumerate(tracks):
            samples = (32767 * speech(16000, seed=number)).astype(np.int16)[None]
            frame = av.AudioFrame.from_ndarray(samples, format="s16", layout="mono")
            frame.sample_rate = 16000
            for packet in [*track.encode(frame), *track.encode(None)]:
                out.mux(packet)
    notes: list[str] = []
    assert len(load_any(tmp_path / "a.mka", notes=notes)) == 32000
    assert notes == ["it holds 2 audio tracks, of which the first was read"]


def test_two_kinds_in_one_file_are_refused(make, tmp_path: Path) -> None:
    for first, second in (("wav", "flac"), ("m4a", "wav"), ("webm", "m4a")):
        path = make(first)
        path.write_bytes(path.read_bytes() + make(second, "b").read_bytes())
        with pytest.raises(AudioError, match="after it; cut it"):
            load_any(path)


def test_parts_of_different_rates_are_refused(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", speech(16000), 16000)
    soundfile.write(tmp_path / "b.wav", speech(8000), 8000)
    (tmp_path / "c.wav").write_bytes((tmp_path / "a.wav").read_bytes() + (tmp_path / "b.wav").read_bytes())
    with pytest.raises(AudioError, match=r"c\.wav: .*8000, 16000 Hz"):
        load_any(tmp_path / "c.wav")


@pytest.mark.parametrize("kind", ["webm", "m4a", "amr", "mp3", "flac", "wma"])
def test_content_decides_not_the_suffix(make, kind: str) -> None:
    path = make(kind)
    wrong = path.rename(path.with_name("wrong.wav"))
    is_long(wrong, SECONDS, kind)


def test_a_play_list_opens_no_other_file(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "secret.wav", speech(16000), 16000)
    for text in ("#EXTM3U\n#EXTINF:2,\nsecret.wav\n", "ffconcat version 1.0\nfile secret.wav\n"):
        (tmp_path / "list.wav").write_text(text)
        with pytest.raises(AudioError, match=r"list\.wav: cannot be read as audio"):
            load_any(tmp_path / "list.wav")


def test_opposite_phase_takes_the_louder_channel_and_says_so(tmp_path: Path) -> None:
    one = speech(44100)
    soundfile.write(tmp_path / "a.wav", np.stack([0.5 * one, -one], axis=1), 44100)
    notes: list[str] = []
    assert np.sqrt((load_any(tmp_path / "a.wav", notes=notes) ** 2).mean()) == pytest.approx(0.212, rel=0.05)
    assert len(notes) == 1 and "opposite phase" in notes[0] and "channel 1" in notes[0]
    convert_audio(tmp_path / "a.wav", tmp_path / "out.wav", notes=notes)
    assert len(notes) == 2
    assert np.abs(read_audio(tmp_path / "out.wav")).max() > 0.25
    quiet = load_any(tmp_path / "a.wav", channel=0)
    assert np.sqrt((quiet**2).mean()) == pytest.approx(0.106, rel=0.05)


def test_opposite_phase_in_a_part_of_the_file(tmp_path: Path) -> None:
    same, opposite = speech(16000, 6), speech(16000, 3, seed=1)
    stereo = np.stack([np.append(same, opposite), np.append(same, -opposite)], axis=1)
    soundfile.write(tmp_path / "a.wav", stereo, 16000)
    assert np.sqrt((load_any(tmp_path / "a.wav")[-16000:] ** 2).mean()) > 0.2


@pytest.mark.parametrize("second", [1.0, 0.0, None])
def test_other_channels_are_averaged(tmp_path: Path, second: float | None) -> None:
    """Equal channels, one silent channel, and two speakers in turn, as in a telephone call."""
    one = speech(16000)
    other = np.roll(np.random.default_rng(3).permutation(one), 5) if second is None else second * one
    soundfile.write(tmp_path / "a.wav", np.stack([one, other], axis=1), 16000, subtype="FLOAT")
    notes: list[str] = []
    assert np.allclose(load_any(tmp_path / "a.wav", notes=notes), (one + other) / 2, atol=1e-6) and notes == []


def test_a_channel_that_is_not_there(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", speech(16000), 16000)
    with pytest.raises(AudioError, match=r"a\.wav: channel 1 was requested, the file has 1"):
        load_any(tmp_path / "a.wav", channel=1)


@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_24", "PCM_32", "FLOAT", "DOUBLE", "ULAW"])
def test_every_width_has_the_same_scale(tmp_path: Path, subtype: str) -> None:
    one = speech(16000)
    soundfile.write(tmp_path / "a.wav", one, 16000, subtype=subtype)
    for samples in (load_any(tmp_path / "a.wav"), read_audio(tmp_path / "a.wav")):
        assert np.abs(samples - one).max() < (0.02 if subtype in ("PCM_U8", "ULAW") else 1e-6)


def every_way(path: Path) -> list[Callable[[], object]]:
    return [
        lambda: read_audio(path),
        lambda: read_audio(path, 0, 16000),
        lambda: load_any(path),
        lambda: load_any(path, notes=[]),
        lambda: list(stream_any(path, 0.5)),
        lambda: hash_audio(path),
        lambda: convert_audio(path, path.with_name("out.wav")),
    ]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda x: np.rint(x * 32768), "reach .*whole numbers"),
        (lambda x: x * 10, "reach "),
        (lambda x: x * 0.1 + 0.8, "constant offset of 0.80"),
        (lambda x: np.ones_like(x), "constant offset of 1.00"),
        (lambda x: np.where(np.arange(len(x)) == 900, np.nan, x), "NaN"),
    ],
)
def test_samples_that_break_a_rule_are_refused_in_every_room(tmp_path: Path, change, expected: str) -> None:
    path = tmp_path / "a.wav"
    soundfile.write(path, change(speech(16000)).astype(np.float32), 16000, subtype="FLOAT")
    for read in every_way(path):
        with pytest.raises(AudioError, match=rf"a\.wav: .*{expected}"):
            read()
    assert not path.with_name("out.wav").exists()


def test_samples_a_little_outside_are_clipped_in_every_room(tmp_path: Path) -> None:
    path, loud = tmp_path / "a.wav", 5 * speech(16000)
    soundfile.write(path, loud, 16000, subtype="FLOAT")
    assert 1.2 < np.abs(loud).max() < 2
    expected = np.clip(loud, -1, 1)
    assert np.array_equal(load_any(path), expected) and np.array_equal(read_audio(path), expected)
    assert np.array_equal(read_audio(path, 4000, 20000), expected[4000:20000])
    convert_audio(path, tmp_path / "out.wav")
    assert np.abs(read_audio(tmp_path / "out.wav") - expected).max() < 1e-4


@pytest.mark.parametrize("rate", [1, 100, 3999, 400_000, 2**31 - 1])
def test_an_impossible_rate_is_refused(tmp_path: Path, rate: int) -> None:
    path = tmp_path / "a.wav"
    soundfile.write(path, speech(16000), 16000)
    content = bytearray(path.read_bytes())
    content[24:28] = struct.pack("<I", rate)
    path.write_bytes(content)
    for read in [*every_way(path), lambda: audio_info(path), lambda: header_info(path)]:
        with pytest.raises(AudioError, match=rf"a\.wav: .*{rate} Hz"):
            read()


def test_a_name_that_is_not_utf8(tmp_path: Path) -> None:
    path = tmp_path / "caf\udce9.wav"
    soundfile.write(tmp_path / "a.wav", speech(16000), 16000)
    (tmp_path / "a.wav").rename(path)
    assert len(load_any(path)) == audio_info(path).samples == 32000
    assert find_audio(tmp_path) == ([path], [])


def test_a_folder_is_searched_by_content_and_the_rest_is_named(make, tmp_path: Path, monkeypatch) -> None:
    for kind in ("m4a", "webm", "amr", "wma", "3gp", "opus"):
        make(kind)
    make("mp3").rename(tmp_path / "no suffix")
    (tmp_path / "notes.txt").write_text("text")
    (tmp_path / "utf16.txt").write_text("text", encoding="utf-16")
    (tmp_path / "empty.wav").touch()
    (tmp_path / "._a.m4a").write_bytes(b"\0\5\x16\7")
    found, others = find_audio(tmp_path)
    expected = ["a.3gp", "a.amr", "a.m4a", "a.opus", "a.webm", "a.wma", "empty.wav", "no suffix"]
    assert [path.name for path in found] == expected
    assert [Path(other).name for other in others] == ["._a.m4a (hidden)", "notes.txt", "utf16.txt"]


def test_links_to_folders_elsewhere_are_searched_once(tmp_path: Path) -> None:
    for name in ("here/own/a.wav", "elsewhere/b.wav"):
        (tmp_path / name).parent.mkdir(parents=True)
        soundfile.write(tmp_path / name, speech(16000), 16000)
    for link, target in {"data": "elsewhere", "again": "elsewhere", "own/up": "here", "same": "here/own"}.items():
        (tmp_path / "here" / link).symlink_to(tmp_path / target, target_is_directory=True)
    (tmp_path / "elsewhere/back").symlink_to(tmp_path, target_is_directory=True)
    found, others = find_audio(tmp_path / "here")
    assert [path.relative_to(tmp_path).as_posix() for path in found] == ["here/again/b.wav", "here/own/a.wav"]
    assert others == []


def test_an_unreadable_folder_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    soundfile.write(tmp_path / "a.wav", speech(16000), 16000)
    (tmp_path / "closed").mkdir()
    scan = os.scandir

    def closed(path):
        if Path(path).name == "closed":
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", closed)
    found, others = find_audio(tmp_path)
    assert [path.name for path in found] == ["a.wav"] and others == [f"{tmp_path}/closed (folder: Permission denied)"]

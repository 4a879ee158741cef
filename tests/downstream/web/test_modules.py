"""The page's modules without a browser, in Node.js: the same numbers as their counterparts in Python."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soxr
import torch
from rapidfuzz.distance import Levenshtein
from torch.nn.functional import ctc_loss

from corpora.text import normalise
from downstream.asr.reading import NOBODY, letter_probability, windowing
from downstream.asr.recogniser import CHARACTERS, best_path
from downstream.find import Finder, Limits, TextList, read_texts
from downstream.web.site import PAGE
from upstream.model.chunked import windows

LETTERS = CHARACTERS[2:]


def node(body: str, given: Any) -> Any:
    """What a script makes of `given`; `body` sees the modules of the page and ends in `return`."""
    if shutil.which("node") is None:
        pytest.skip("no node: apt-get install nodejs")
    names = [
        path.stem for path in PAGE.glob("*.js") if path.stem in ("ctc", "find", "text", "windows", "audio", "resample")
    ]
    imports = "".join(
        f"import * as {name} from {json.dumps((PAGE / f'{name}.js').resolve().as_uri())};\n" for name in names
    )
    script = (
        f"{imports}import {{ readFileSync }} from 'node:fs';\n"
        "const given = JSON.parse(readFileSync(0, 'utf8'));\n"
        f"const answer = (() => {{ {body} }})();\n"
        "process.stdout.write(JSON.stringify(answer));"
    )
    done = subprocess.run(
        ["node", "--input-type=module", "--eval", script],
        input=json.dumps(given), capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("frames", [1, 2])
@pytest.mark.parametrize("seconds", [0.01, 10.0, 16.0, 16.01, 16.1, 30.0, 55.0, 95.5])
def test_windows_are_those_of_python(frames: int, seconds: float) -> None:
    samples = torch.arange(int(seconds * 16000), dtype=torch.float32)
    expected = [
        [len(w.samples), float(w.samples[0]), w.skip, w.keep] for w in windows(samples.split(7000), windowing(frames))
    ]
    found = node(
        "const cutter = new windows.Cutter(windows.windowing(given.frames));"
        "const samples = Float32Array.from({ length: given.n }, (_, i) => i);"
        "const all = [];"
        "for (let at = 0; at < given.n; at += 9100) all.push(...cutter.push(samples.subarray(at, at + 9100)));"
        "all.push(cutter.rest());"
        "return all.map((w) => [w.samples.length, w.samples[0], w.skip, w.keep]);",
        {"frames": frames, "n": len(samples)},
    )
    assert found == expected


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("samples", [400, 16.0 * 16000, 55.01 * 16000, 55.03 * 16000])
def test_kept_parts_of_windows_are_those_of_one_pass(stride: int, samples: float) -> None:
    found = node(
        "const cutter = new windows.Cutter(windows.windowing(given.stride));"
        "const every = given.stride * windows.HOP;"
        "const rows = (w) => {"  # two values for each frame of the head: its first sample, and that divided by two
        " const count = Math.ceil(windows.frameCount(w.samples.length) / given.stride);"
        " const starts = Array.from({ length: count }, (_, i) => w.samples[i * every]);"
        " return Float32Array.from(starts.flatMap((first) => [first, first / 2]));"
        "};"
        "const all = cutter.push(Float32Array.from({ length: given.n }, (_, i) => i));"
        "all.push(cutter.rest());"
        "return all.flatMap((w) => Array.from(windows.kept(rows(w), w, 2, given.stride)));",
        {"stride": stride, "n": int(samples)},
    )
    starts = np.arange(0, int(samples) - 400 + 1, 320)[::stride]
    assert found == np.stack([starts, starts / 2], 1).ravel().tolist()


@pytest.mark.parametrize("stride", [1, 2])
def test_the_linear_layer_reads_every_frame_or_every_second_one(stride: int) -> None:
    rng = np.random.default_rng(0)
    states, weight, bias = rng.standard_normal((7, 4)), rng.standard_normal((3, 4)), rng.standard_normal(3)
    found = node(
        "const head = { weight: given.weight, bias: given.bias, width: 4, stride: given.stride };"
        "return Array.from(ctc.project(Float64Array.from(given.states), 7, head));",
        {"states": states.ravel().tolist(), "weight": weight.ravel().tolist(), "bias": bias.tolist(), "stride": stride},
    )
    np.testing.assert_allclose(found, (states[::stride] @ weight.T + bias).ravel(), atol=1e-5)


def test_text_of_the_best_path() -> None:
    rng = np.random.default_rng(0)
    rows = [rng.choice([0, 1, 1, 2, 3, 4], size=rng.integers(0, 30)).tolist() for _ in range(50)]
    found = node(
        "return given.rows.map((row) => [ctc.bestPath(row, given.characters),"
        " ...Array.from({ length: row.length + 1 }, (_, n) => ctc.parts(row, given.characters, n).join(''))]);",
        {"rows": rows, "characters": CHARACTERS},
    )
    for row, answers in zip(rows, found, strict=True):
        assert set(answers) == {best_path(row, CHARACTERS)}  # wherever the text is divided


def log_probs(frames: int, seed: int, sharp: float = 3.0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return torch.from_numpy(sharp * rng.standard_normal((frames, len(CHARACTERS)))).float().log_softmax(-1).numpy()


def test_a_window_of_noise_gives_no_letters() -> None:
    values = [log_probs(frames, frames) for frames in (1, 12, 80)] + [np.zeros((3, len(CHARACTERS)), np.float32)]
    for value in values:
        sure = letter_probability(torch.from_numpy(value))
        for least in (0.0, 1.0) if sure is None else (sure - 1e-4, sure + 1e-4):
            found = node(
                "return Array.from(ctc.heard(Float32Array.from(given.value), given.characters, given.least));",
                {"value": value.ravel().tolist(), "characters": len(CHARACTERS), "least": least},
            )
            expected = value.copy()
            if sure is not None and sure < least:
                expected[:], expected[:, 0] = 0, NOBODY
            np.testing.assert_allclose(found, expected.ravel(), atol=1e-6)


@pytest.mark.parametrize("frames", [1, 12, 80])
def test_likelihoods_are_those_of_pytorch(frames: int) -> None:
    rng = np.random.default_rng(frames)
    values = log_probs(frames, frames)
    targets = [rng.integers(1, 5, size).tolist() for size in (1, 2, 3, 5, 8, 13)]
    found = node(
        "return given.targets.map((t) => ctc.likelihood(Float32Array.from(given.values), given.characters, t));",
        {"values": values.ravel().tolist(), "targets": targets, "characters": len(CHARACTERS)},
    )
    for target, value in zip(targets, found, strict=True):
        loss = ctc_loss(
            torch.from_numpy(values)[:, None].double(), torch.tensor([target]), torch.tensor([frames]),
            torch.tensor([len(target)]), reduction="none",
        )  # fmt: skip
        if torch.isinf(loss):
            assert value is None  # JSON has no infinity
        else:
            assert value == pytest.approx(-float(loss), abs=1e-3)


def texts(seed: int, count: int = 40) -> TextList:
    rng = np.random.default_rng(seed)
    lines = [
        " ".join("".join(rng.choice(LETTERS[:9], size=rng.integers(1, 9))) for _ in range(rng.integers(1, 9)))
        for _ in range(count)
    ]
    lines[7] = lines[3]  # equal lines: the first one is found
    return TextList([f"v{i}" for i in range(count)], lines, [line.replace(" ", "") for line in lines])


def test_edit_distances_of_spans() -> None:
    listed = texts(1)
    heard = "".join(np.random.default_rng(2).choice(LETTERS[:9], size=75))
    found = node(
        "const finder = new find.Finder(given.texts, given.characters, { spans: 3 });"
        "const all = finder.starts.map((_, j) => j);"
        "return { strings: all.map((j) => finder._string(j)), lengths: finder.lengths,"
        " distances: finder.distances(given.heard, all) };",
        {"texts": vars(listed), "characters": CHARACTERS, "heard": heard},
    )
    assert len(found["strings"]) == 40 + 39 + 38
    assert found["lengths"] == [len(text) for text in found["strings"]]
    assert found["distances"] == [Levenshtein.distance(heard, text) for text in found["strings"]]


@pytest.mark.parametrize("limits", [Limits(), Limits(likelihood=-2.2), Limits(likelihood=-0.5, bonus=2.0)])
@pytest.mark.parametrize("spans", [1, 3])
def test_the_entry_that_python_finds(limits: Limits, spans: int) -> None:
    listed, others = texts(3), texts(5)
    rng = np.random.default_rng(4)
    cases = []
    for start in range(0, 36, 3):
        said = " ".join((listed if start % 4 else others).texts[start : start + 1 + start % spans])
        pause = [0] * (20 if start % 2 else 1)  # long pauses are merged
        classes = [c for letter in said for c in (CHARACTERS.index(letter), *pause)]
        values = rng.standard_normal((len(classes), len(CHARACTERS)))
        values[np.array(classes) == 0, 0] += 8.0 if start % 2 else 0.0
        values[np.arange(len(classes)), classes] += rng.uniform(1, 5)  # some are misheard, some hardly heard
        rows = torch.from_numpy(values).float().log_softmax(-1).numpy()
        cases.append((rows, best_path(rows.argmax(-1).tolist(), CHARACTERS)))
    finder = Finder(listed, CHARACTERS, spans=spans, limits=limits)
    expected = [finder.find(rows, text) for rows, text in cases]
    found = node(
        "const finder = new find.Finder(given.texts, given.characters, { spans: given.spans, limits: given.limits });"
        "return given.cases.map(([rows, text]) => finder.find(Float32Array.from(rows), text));",
        {
            "texts": vars(listed), "characters": CHARACTERS, "spans": spans, "limits": vars(limits),
            "cases": [(rows.ravel().tolist(), text) for rows, text in cases],
        },
    )  # fmt: skip
    assert {bool(answer.ids) for answer in expected} == {True, False}
    for wanted, answer in zip(expected, found, strict=True):
        assert answer["ids"] == wanted.ids
        for name in ("score", "margin"):
            value = -np.inf if answer[name] is None and wanted.score == -np.inf else answer[name]  # null in JSON
            assert value == pytest.approx(getattr(wanted, name), abs=2e-4)


LINES = (
    "v1 بِسْمِ اللَّهِ، الرَّحْمَٰنِ!",
    "v2 الـحـمد\u200f لله «رب» العالمين ٣",
    "v3 \tآمنوا  إلى أُولئك ؤئء",
)


def test_lists_are_read_as_in_python(tmp_path: Path) -> None:
    path = tmp_path / "list.text"
    path.write_text("\ufeff" + "\n\n".join(LINES) + "\r\n", encoding="utf-8")
    expected = read_texts(path, CHARACTERS)
    found = node(
        "return text.readTexts(given.content, given.characters);",
        {"content": path.read_bytes().decode(), "characters": CHARACTERS},
    )
    assert (found["ids"], found["texts"]) == (expected.ids, expected.texts)
    assert found["lines"] == [line.partition(" ")[2].strip() for line in LINES]


def test_normalisation_of_every_arabic_letter_and_mark() -> None:
    some = [
        chr(code) for code in (*range(0x20, 0x250), *range(0x600, 0x700), *range(0x8A0, 0x900), *range(0x2000, 0x2070))
    ]
    given = [f"ب{letter}ت" for letter in some]
    found = node("return given.map((line) => text.normalise(line));", given)
    assert found == [normalise(line, "modern") for line in given]


QURAN = (
    "ٱلصَّلَوٰةَ هَٰذَا ءَامَنُواْ يَـٰٓأَيُّهَا مَسۡـُٔولٗا",
    "وَيَٰٓـَٔادَمُ ٱسۡكُنۡ أَنتَ وَزَوۡجُكَ ٱلۡجَنَّةَ",
    "وَسۡـَٔلۡهُمۡ عَنِ ٱلۡقَرۡيَةِ ٱلَّتِي",
)


@pytest.mark.slow
def test_quran_spelling_is_converted_as_in_python() -> None:
    """Every verse where HARNESS_REAL_SPEECH has the text, else a few words."""
    path = Path(os.environ.get("HARNESS_REAL_SPEECH", "")) / "everyayah" / "quran.json"
    verses = list(QURAN)
    if path.is_file():
        verses += [verse["text"] for chapter in json.loads(path.read_text("utf-8")).values() for verse in chapter]
    content = "\n".join(f"v{number} {verse}" for number, verse in enumerate(verses))
    found = node(
        "return text.readTexts(given.content, given.characters).texts;",
        {"content": content, "characters": CHARACTERS},
    )
    assert found == [normalise(verse, "modern", quran=True) for verse in verses]


@pytest.mark.parametrize(
    ("content", "code"),
    [
        ("", "listEmpty"), (" \n\n", "listEmpty"), ("a بسم\na الله", "listRepeated"), ("v1 hello", "listNoText"),
    ],
)  # fmt: skip
def test_bad_lists_are_refused(content: str, code: str) -> None:
    found = node(
        "try { text.readTexts(given.content, given.characters); return null; } catch (error) { return error.code; }",
        {"content": content, "characters": CHARACTERS},
    )
    assert found == code


def test_lines_without_names_are_numbered() -> None:
    found = node(
        "return text.readTexts(given.content, given.characters);",
        {"content": "بسم الله\n\nالحمد لله", "characters": CHARACTERS},
    )
    assert found["ids"] == ["1", "3"] and found["texts"] == ["بسم الله", "الحمد لله"]


@pytest.mark.parametrize("rate", [44100, 48000, 8000])
def test_resampling_equals_soxr(rate: int) -> None:
    rng = np.random.default_rng(0)
    time_s = np.arange(rate) / rate
    wave = sum(0.2 * np.sin(2 * np.pi * f * time_s + rng.uniform(0, 6)) for f in (90, 430, 1500, 3100)).astype(
        np.float32
    )
    found = np.array(
        node(
            "const resampler = new resample.Resampler(given.rate); const wave = Float32Array.from(given.wave);"
            "const all = [];"
            "for (let at = 0; at < wave.length; at += 777) all.push(...resampler.push(wave.subarray(at, at + 777)));"
            "return all;",
            {"rate": rate, "wave": wave.tolist()},
        )
    )
    expected = soxr.resample(wave, rate, 16000)
    count = len(found)
    assert 16000 - 200 < count <= 16000
    assert np.abs(found[400 : count - 400] - expected[400 : count - 400]).max() < 2e-3


def test_channels_that_cancel_are_not_averaged() -> None:
    rng = np.random.default_rng(0)
    left = rng.standard_normal(20000).round(3)
    found = node(
        "return given.map((channels) => Array.from(audio.mono(channels.map((c) => Float32Array.from(c)))));",
        [[left.tolist(), (-0.5 * left).tolist()], [left.tolist(), (0.5 * left).tolist()]],
    )
    assert np.allclose(found[0], left) and np.allclose(found[1], 0.75 * left)


def test_both_languages_have_every_text() -> None:
    """The same keys and the same braces; every key that is used exists."""
    if shutil.which("node") is None:
        pytest.skip("no node: apt-get install nodejs")
    uri = (PAGE / "strings.js").resolve().as_uri()
    script = f"import {{ STRINGS }} from '{uri}'; process.stdout.write(JSON.stringify(STRINGS))"
    done = subprocess.run(["node", "--input-type=module", "--eval", script], capture_output=True, text=True, check=True)
    strings = json.loads(done.stdout)
    braces = {
        name: {key: sorted(re.findall(r"\{\w+\}", text)) for key, text in strings[name].items()} for name in strings
    }
    assert set(strings) == {"en", "ar"} and braces["en"] == braces["ar"]
    page = (PAGE / "index.html").read_text("utf-8")
    code = "".join(path.read_text("utf-8") for path in PAGE.glob("*.js") if path.stem != "strings")
    used = set(re.findall(r'data-(?:t|label)="(\w+)"', page))
    used |= set(re.findall(r'(?:\bt|showStatus|showAlarm|InputError|ListError|filled)\(\s*"(\w+)"', code))
    used |= set(re.findall(r'rows\.push\(\["(\w+)"', code)) | set(re.findall(r'"((?:status|mic|wave)[A-Z]\w+)"', code))
    assert used - set(strings["en"]) == set()
    written = page + code
    assert [key for key in strings["en"] if not re.search(rf'"{key}"', written)] == []

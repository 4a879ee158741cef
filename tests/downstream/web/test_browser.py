"""The page in Chromium as a person uses it: the same numbers as Python, the microphone, errors, languages, themes."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
import torch
from selenium.webdriver import ActionChains
from selenium.webdriver.common.keys import Keys

from bench.web import open_chromium, open_page, read_samples, reader_of, serve
from corpora.audio import load_any, write_audio
from corpora.files import read_json, write_json
from downstream.asr.reading import Reader, Reading, named_head
from downstream.find import Finder, limits_of, read_texts
from downstream.web.server import Server
from downstream.web.site import PRECISIONS, assemble, exported

pytestmark = pytest.mark.slow

# Largest difference of a logit with 32-bit weights. With 8-bit ones a difference of 1e-7 before a product may round to
# another of 255 steps, so single logits differ by up to 1.2, in Python too where its graph is optimised less; there the
# root mean square is compared, relative to that of the logits.
LARGEST, ROOT_MEAN_SQUARE = 1e-3, 3e-2
OTHERS = ("o1 هذا سطر آخر في القائمة", "o2 كلام لا يشبه غيره أبدا", "o3 قفوا هنا حتى الصباح")


@pytest.fixture(scope="module")
def browser(start: Callable[..., Any], installed: Path) -> Any:
    """One Chromium for the tests that need no special options; it has a microphone, and asks before it gives it."""
    return start("--use-fake-device-for-media-stream")


@dataclass(frozen=True)
class Expected:
    """Samples, and what Python makes of them: logits (T, characters) of one window, and the reading."""

    samples: np.ndarray
    logits: np.ndarray | None
    reading: Reading


@pytest.fixture(scope="module")
def readings(clips: list[Path], long_clip: np.ndarray, installed: Path) -> dict[str, list[Expected]]:
    """For each precision, every clip; with 32 bits also one that needs two windows."""
    found: dict[str, list[Expected]] = {}
    for precision in PRECISIONS:
        reader = reader_of(named_head(), exported(named_head().parent, precision).path)
        short = [load_any(clip) for clip in clips]
        found[precision] = [
            Expected(
                samples,
                reader.forward(torch.from_numpy(samples)).numpy(),
                reader.read_blocks([torch.from_numpy(samples)]),
            )
            for samples in short
        ]
        if precision == "fp32":
            found[precision].append(Expected(long_clip, None, reader.read_blocks([torch.from_numpy(long_clip)])))
    return found


@pytest.fixture(scope="module")
def said(readings: dict[str, list[Expected]]) -> list[str]:
    """The text that Python reads in each clip."""
    return [expected.reading.text for expected in readings["int8"]]


@pytest.fixture(scope="module")
def texts(said: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A list that holds the text of each clip among others."""
    path = tmp_path_factory.mktemp("texts") / "list.text"
    lines = [f"c{number} {text}" for number, text in enumerate(said) if text] + list(OTHERS)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def files(installed: Path, texts: Path) -> dict[str, bytes | Path]:
    return assemble(named_head(), texts=texts)


@pytest.fixture(scope="module")
def url(files: dict[str, bytes | Path]) -> Iterator[str]:
    with serve(files) as found:
        yield found


@pytest.fixture(scope="module")
def tiny(installed: Path, recogniser: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> dict:
    """The page of a tiny recogniser with random weights, for tests whose text does not matter."""
    return assemble(recogniser(tmp_path_factory.mktemp("model") / "tiny"), precision="fp32")


@pytest.fixture(scope="module")
def tiny_url(tiny: dict[str, bytes | Path]) -> Iterator[str]:
    with serve(tiny) as found:
        yield found


@pytest.fixture
def page(browser: Any, url: str) -> Any:
    """The page of harness_open, freshly loaded in English at 1280 pixels, with its model."""
    return fresh(browser, url)


@pytest.fixture
def tiny_page(browser: Any, tiny_url: str) -> Any:
    """The same for the tiny recogniser."""
    return fresh(browser, tiny_url)


def fresh(browser: Any, url: str) -> Any:
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "", "features": []})
    browser.get_log("browser")
    open_page(browser, f"{url}?lang=en&threads=1")
    return browser


def text_of(page: Any, name: str) -> str:
    return page.execute_script("return document.getElementById(arguments[0]).textContent", name)


def wait(page: Any, until: Callable[[], Any], seconds: float = 120) -> Any:
    """The first true value of `until`; fails with what the page shows."""
    end = time.monotonic() + seconds
    while not (value := until()):
        assert time.monotonic() < end, (text_of(page, "status"), text_of(page, "alarm"), page.get_log("browser"))
        time.sleep(0.05)
    return value


def done(page: Any) -> bool:
    return text_of(page, "status").startswith("Done")


def alarm(page: Any) -> str:
    """The message that the page shows, once it is visible."""
    field = page.find_element("id", "alarm")
    return wait(page, lambda: field.is_displayed() and field.text, 60)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_numbers_are_those_of_python(browser, installed, readings, precision):
    with serve(assemble(named_head(), precision=precision)) as address:
        open_page(browser, f"{address}?threads=1")
        for expected in readings[precision]:
            answer = read_samples(browser, expected.samples)
            assert answer["text"] == expected.reading.text
            assert answer["figures"]["audio"] == pytest.approx(len(expected.samples) / 16000)
            logits = answer["logits"].reshape(expected.reading.log_probs.shape)
            if expected.logits is None:
                found = torch.from_numpy(logits.copy()).log_softmax(-1).numpy()
                assert np.abs(found - expected.reading.log_probs).max() < 2 * LARGEST
            elif precision == "fp32":
                assert np.abs(logits - expected.logits).max() < LARGEST
            else:
                assert relative(logits, expected.logits) < ROOT_MEAN_SQUARE
    assert any(expected.reading.text for expected in readings[precision])


def test_a_window_in_which_nobody_speaks_gives_no_text(browser, installed, recogniser, tmp_path):
    head = recogniser(tmp_path / "tiny")
    written = read_json(head / "head.json")
    samples = np.random.default_rng(0).uniform(-0.3, 0.3, 32000).astype(np.float32)
    for least in (0.0, 1.0):
        write_json(head / "head.json", {**written, "least_probability": least})
        with serve(assemble(head, precision="fp32")) as address:
            open_page(browser, f"{address}?threads=1")
            text = read_samples(browser, samples)["text"]
        assert text == Reader(head).read_blocks([torch.from_numpy(samples)]).text
        assert bool(text) == (least == 0.0)


def relative(found: np.ndarray, expected: np.ndarray) -> float:
    """Root mean square of the difference, relative to that of the expected values."""
    return float(np.sqrt(np.square(found - expected).mean() / np.square(expected).mean()))


def test_threads_share_memory_and_change_nothing(browser, url, readings):
    open_page(browser, f"{url}?lang=en&threads=2")
    assert browser.execute_script("return crossOriginIsolated")
    expected = readings["int8"][0]
    answer = read_samples(browser, expected.samples)
    assert answer["text"] == expected.reading.text
    assert relative(answer["logits"].reshape(expected.logits.shape), expected.logits) < ROOT_MEAN_SQUARE
    assert "2 threads" in text_of(browser, "figures")


def test_a_file_is_opened_read_and_found_in_the_list(page, clips, readings, texts):
    reader = Reader(named_head(), engine="onnx")
    finder = Finder(read_texts(texts, reader.characters), reader.characters, limits=limits_of(reader.description))
    for number, (clip, python) in enumerate(zip(clips, readings["int8"], strict=True)):
        reading = python.reading
        page.find_element("id", "file").send_keys(str(clip))
        wait(page, lambda clip=clip: done(page) and clip.name in text_of(page, "status"))
        assert text_of(page, "text") == reading.text
        expected = finder.find(reading.log_probs, reading.text)
        ids = page.execute_script("return [...document.querySelectorAll('#match bdi')].map(e => e.textContent)")
        note = text_of(page, "match-note")
        if expected.ids:
            assert ids == expected.ids == [f"c{number}"] and note.startswith("Found")
        else:
            assert note.startswith("None of the list")
        figures = dict(
            page.execute_script(
                "return [...document.querySelectorAll('#figures > div')].map(d => [d.dataset.figure, d.textContent])"
            )
        )
        assert "harness_open, head letters" in figures["model"] and "8 bits, 22.5 MB" in figures["weights"]
        assert "RTF" in figures["speed"] and "to the first text" in figures["latency"]
        assert page.execute_script("const p = document.getElementById('player'); return !p.hidden && p.src") != ""
    assert page.get_log("browser") == []


def test_a_list_is_typed_replaced_and_removed(page, said, clips):
    text = max(said, key=len)
    page.execute_script("document.getElementById('list-panel').open = true")
    field = page.find_element("id", "list")

    def use(content: str) -> None:
        page.execute_script("arguments[0].value = arguments[1]", field, content)
        page.find_element("id", "list-use").click()

    use(f"{OTHERS[0]}\nmine {text}")
    wait(page, lambda: text_of(page, "list-count") == "2 lines")
    assert text_of(page, "match-note") == "2 lines are searched when there is text."
    page.find_element("id", "file").send_keys(str(clips[said.index(text)]))
    wait(page, lambda: done(page))
    assert text_of(page, "match-note").startswith("Found") and text_of(page, "match") == f"mine{text}"
    use("\n".join(OTHERS))  # another list for the recording that is there
    wait(page, lambda: text_of(page, "match-note").startswith("None of the list"))
    use(f"{OTHERS[0]}\nmine {text}")
    wait(page, lambda: text_of(page, "match-note").startswith("Found"))
    use("a بسم\na الله")
    assert alarm(page) == "Line 2: the name a is also in line 1. Names must differ."
    use("v1 hello")
    wait(page, lambda: "Line 1 has no text" in alarm(page))
    assert text_of(page, "list-count") == "2 lines"  # the list before is still in use
    page.find_element("id", "list-remove").click()
    wait(page, lambda: text_of(page, "list-count") == "none")
    assert text_of(page, "match-note").startswith("Give a list of texts")


def test_bad_files_are_named(tiny_page, tmp_path, clips):
    page = tiny_page
    bad = {"bad.mp3": b"this is no audio at all" * 99, "empty.wav": b""}
    for name, content in bad.items():
        (tmp_path / name).write_bytes(content)
        page.find_element("id", "file").send_keys(str(tmp_path / name))
        message = wait(page, lambda name=name: name in alarm(page) and alarm(page))
        assert ("cannot be decoded" in message) == (name == "bad.mp3") and ("no sound" in message) == (
            name == "empty.wav"
        )
    page.find_element("id", "file").send_keys(str(clips[0]))  # the page works on
    wait(page, lambda: done(page))
    assert not page.find_element("id", "alarm").is_displayed()


def test_reading_can_be_stopped(tiny_page, tmp_path, long_clip):
    page = tiny_page
    write_audio(tmp_path / "long.wav", np.tile(long_clip, 20))
    page.find_element("id", "file").send_keys(str(tmp_path / "long.wav"))
    stop = page.find_element("id", "stop")
    wait(page, stop.is_displayed)
    wait(page, lambda: text_of(page, "text"))
    stop.click()
    assert text_of(page, "status") == "Stopped." and not stop.is_displayed()
    time.sleep(1)
    assert text_of(page, "status") == "Stopped."


def head_of_another_model(files: dict[str, bytes | Path], **changes: Any) -> dict[str, bytes | Path]:
    name = next(name for name in files if name.endswith("page.json"))
    return {**files, name: json.dumps({**json.loads(files[name]), **changes}).encode()}


def test_a_head_of_another_model_is_refused(browser, tiny):
    files = tiny
    for changes in ({"headKey": "0" * 64}, {"width": 256}):
        with serve(head_of_another_model(files, **changes)) as address:
            with pytest.raises(RuntimeError, match="trained on another encoder than tiny.*--model"):
                open_page(browser, f"{address}?lang=en")
    wrong = {name: b"no model" if name.endswith(".onnx") else content for name, content in files.items()}
    with serve(wrong) as address, pytest.raises(RuntimeError, match="The model .tiny. cannot be loaded"):
        open_page(browser, f"{address}?lang=en")
    missing = {name: content for name, content in files.items() if not name.endswith(".onnx")}
    with serve(missing) as address, pytest.raises(RuntimeError, match="status 404.*python -m downstream web"):
        open_page(browser, f"{address}?lang=en")


def test_a_browser_without_simd_is_told(browser, tiny_url):
    script = "WebAssembly.validate = () => false"
    added = browser.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": script})
    try:
        for language, words in (("en", "lacks WebAssembly SIMD"), ("ar", "ينقص هذا المتصفح")):
            with pytest.raises(RuntimeError, match=words):
                open_page(browser, f"{tiny_url}?lang={language}")
    finally:
        browser.execute_cdp_cmd("Page.removeScriptToEvaluateOnNewDocument", added)


def test_it_works_offline_after_the_first_load(browser, tiny, clips):
    samples = load_any(clips[0])
    server = Server(tiny, 0)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        open_page(browser, f"{server.url}?lang=en")
        wait(browser, lambda: browser.execute_script("return harness.isSaved()"))
        assert "works" in text_of(browser, "figures")
        before = read_samples(browser, samples)["logits"]
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
    browser.execute_cdp_cmd("Network.clearBrowserCache", {})
    open_page(browser, f"{server.url}?lang=en")  # no server, and nothing in the HTTP cache
    assert browser.execute_script("return crossOriginIsolated")
    assert np.array_equal(read_samples(browser, samples)["logits"], before)


def test_a_new_version_replaces_the_old_one(browser, tiny, recogniser, tmp_path):
    """The same port with a list: the first load shows it, and the old files go."""
    texts = tmp_path / "list.text"
    texts.write_text("\n".join(OTHERS), encoding="utf-8")
    server = Server(tiny, 0)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        open_page(browser, server.url)
        wait(browser, lambda: browser.execute_script("return harness.isSaved()"))
        server.files = assemble(recogniser(tmp_path / "tiny"), precision="fp32", texts=texts)
        open_page(browser, f"{server.url}?lang=en")
        assert text_of(browser, "list-count") == "3 lines"
        names = "caches.keys().then(arguments[0])"
        (name,) = wait(
            browser, lambda: [n for n in browser.execute_async_script(names) if n[8:] in str(list(server.files))]
        )
        wait(browser, lambda: browser.execute_async_script(names) == [name])
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture(scope="module")
def spoken(clips: list[Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Reading]:
    """A WAV of the clips one after the other, for the microphone, and what Python reads in it."""
    pause = np.zeros(8000, np.float32)
    whole = np.concatenate([part for clip in clips for part in (load_any(clip)[: 6 * 16000], pause)])
    path = tmp_path_factory.mktemp("spoken") / "spoken.wav"
    write_audio(path, whole)
    return path, Reader(named_head(), engine="onnx").read(path)


def test_the_microphone_is_read_live(start, url, spoken):
    path, reading = spoken
    browser = start(
        "--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream",
        f"--use-file-for-fake-audio-capture={path}%noloop",
    )  # fmt: skip
    open_page(browser, f"{url}?lang=en&threads=1")
    browser.find_element("id", "microphone").click()
    started = time.monotonic()
    wait(browser, lambda: text_of(browser, "text"), 60)
    assert text_of(browser, "status").startswith("Listening")
    assert text_of(browser, "text-note") == "The grey text comes from the last window and may still change."
    figures = wait(browser, lambda: "behind the voice" in (found := text_of(browser, "figures")) and found)
    assert "RTF" in figures
    letters = len(reading.text)
    wait(browser, lambda: len(text_of(browser, "text")) > 0.6 * letters, reading.seconds + 60)
    time.sleep(max(1, started + reading.seconds + 2 - time.monotonic()))  # the end of the file is silence
    browser.find_element("id", "stop").click()
    wait(browser, lambda: done(browser))
    # The browser resamples twice on the way, so a letter may differ.
    from rapidfuzz.distance import Levenshtein

    found = text_of(browser, "text")
    assert Levenshtein.normalized_similarity(found, reading.text) > 0.7, (found, reading.text)
    assert text_of(browser, "tail") == "" and browser.get_log("browser") == []
    assert browser.find_element("id", "microphone").is_displayed()


def test_a_refused_microphone_is_explained(tiny_page, tiny_url):
    page = tiny_page
    origin = tiny_url.rstrip("/")
    refuse = {"origin": origin, "permission": {"name": "microphone"}, "setting": "denied"}
    page.execute_cdp_cmd("Browser.setPermission", refuse)
    try:
        page.find_element("id", "microphone").click()
        assert alarm(page).startswith("The microphone was refused. Allow it in the settings of this page")
        assert page.find_element("id", "microphone").is_enabled() and not page.find_element("id", "stop").is_displayed()
    finally:
        page.execute_cdp_cmd("Browser.resetPermissions", {})


def test_a_missing_microphone_is_explained(tiny_page):
    page = tiny_page
    page.execute_script(
        "navigator.mediaDevices.getUserMedia = () => Promise.reject(new DOMException('x', 'NotFoundError'))"
    )
    page.find_element("id", "microphone").click()
    assert alarm(page) == "No microphone was found. Connect one, then try again."


def test_nothing_but_the_loopback_address_is_contacted(start, tiny_url, clips, tmp_path):
    """The log of the whole browser: what the page, its workers or its service worker ask for names them as initiator,
    unlike the browser's own services (updates, autofill)."""
    url = tiny_url
    log = tmp_path / "net.json"
    with open_chromium(tmp_path / "profile", (f"--log-net-log={log}", "--net-log-capture-mode=Everything")) as browser:
        open_page(browser, f"{url}?lang=en")
        browser.find_element("id", "file").send_keys(str(clips[0]))
        wait(browser, lambda: done(browser))
        wait(browser, lambda: browser.execute_script("return harness.isSaved()"))
        other = (
            "const [done] = arguments; fetch('https://example.org/').then(() => done('sent'), () => done('refused'))"
        )
        assert browser.execute_async_script(other) == "refused"  # by the content security policy
    content = json.loads(log.read_text("utf-8"))
    kinds = {number: name for name, number in content["constants"]["logEventTypes"].items()}
    started = [e["params"] for e in content["events"] if kinds[e["type"]] == "URL_REQUEST_START_JOB" and "params" in e]
    asked = [request["url"] for request in started if request.get("initiator", "").startswith("http")]
    assert len([address for address in asked if address.startswith(url)]) > 20  # scripts, model, ONNX Runtime
    assert {urlsplit(address).hostname for address in asked} == {"127.0.0.1"}


def test_the_interface_is_english_or_arabic(browser, tiny_url):
    open_page(browser, f"{tiny_url}?lang=ar&threads=1")
    root = browser.find_element("tag name", "html")
    assert (root.get_attribute("lang"), root.get_attribute("dir")) == ("ar", "rtl")
    visible = browser.find_element("tag name", "body").text
    assert "افتح تسجيلًا" in visible and "Open a recording" not in visible
    browser.find_element("css selector", "[data-language=en]").send_keys(Keys.ENTER)
    assert (root.get_attribute("lang"), root.get_attribute("dir")) == ("en", "ltr")
    assert "Open a recording" in browser.find_element("tag name", "body").text
    direction = "return getComputedStyle(document.getElementById('text')).direction"
    assert browser.execute_script(direction) == "rtl"  # the text is Arabic in either language
    open_page(browser, tiny_url)
    assert browser.find_element("tag name", "html").get_attribute("lang") == "en"  # remembered


def test_everything_is_reached_by_keyboard_and_has_a_name(tiny_page):
    page = tiny_page
    page.execute_script("document.getElementById('list-panel').open = true; document.activeElement.blur()")
    reached = []
    for _ in range(30):
        ActionChains(page).send_keys(Keys.TAB).perform()
        found = page.execute_script(
            "const e = document.activeElement; return e.id || e.dataset.language || e.className || e.tagName"
        )
        if found in reached or found == "BODY":
            break
        reached.append(found)
    wanted = ["skip", "en", "ar", "file", "microphone", "text", "SUMMARY", "list", "list-use", "list-file"]
    assert [name for name in reached if name in wanted] == wanted
    tree = page.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]
    controls = ("button", "textbox", "spinbutton", "image", "progressbar", "link")
    nameless = [
        node for node in tree
        if not node["ignored"] and node["role"]["value"] in controls
        and not node.get("name", {}).get("value")
    ]  # fmt: skip
    assert nameless == []
    roles = {node["role"]["value"] for node in tree if not node["ignored"]}
    assert {"main", "banner", "contentinfo", "heading", "status"} <= roles


CONTRAST = """
  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const rgba = (css) => {
    canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = css; canvas.fillRect(0, 0, 1, 1);
    return canvas.getImageData(0, 0, 1, 1).data;
  };
  const light = (c) => [0.2126, 0.7152, 0.0722].reduce((sum, w, i) => {
    const v = c[i] / 255; return sum + w * (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
  }, 0);
  const ground = (e) => {
    for (; e; e = e.parentElement) {
      const c = rgba(getComputedStyle(e).backgroundColor); if (c[3] === 255) return c;
    }
    return rgba("Canvas");
  };
  const poor = []; let count = 0;
  for (const e of document.querySelectorAll("body *")) {
    const own = [...e.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim());
    if (!own || !e.checkVisibility() || e.tagName === "NOSCRIPT" || e.closest("button:disabled")) continue;
    const a = light(rgba(getComputedStyle(e).color)), b = light(ground(e));
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    count += 1;
    if (ratio < 4.5) poor.push([e.tagName, e.id, e.textContent.trim(), ratio]);
  }
  return [count, poor, getComputedStyle(document.body).color];
"""


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_text_stands_out_from_its_ground(tiny_page, theme):
    """WCAG 2 AA: 4.5 to 1 for text, in both themes."""
    page = tiny_page
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": theme}]})
    page.execute_script(
        "document.getElementById('list-panel').open = true; document.getElementById('alarm').hidden = false;"
        "document.getElementById('alarm').textContent = 'x'; document.getElementById('tail').textContent = 'y'"
    )
    count, poor, ink = page.execute_script(CONTRAST)
    assert count > 25 and poor == []
    assert (ink == "rgb(27, 36, 48)") == (theme == "light")


@pytest.mark.parametrize("language", ["en", "ar"])
def test_a_phone_needs_no_sideways_scrolling(browser, tiny_url, language):
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", {"width": 360, "height": 800, "deviceScaleFactor": 2, "mobile": True}
    )
    open_page(browser, f"{tiny_url}?lang={language}&threads=1")
    browser.execute_script("document.getElementById('list-panel').open = true")
    width, wide = browser.execute_script(
        "return [document.documentElement.scrollWidth, [...document.querySelectorAll('body *')].filter(e => {"
        " const r = e.getBoundingClientRect(); return (r.right > 361 || r.left < -1) && !e.closest('.skip, .away'); })"
        ".map(e => e.outerHTML)]"
    )
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    assert width <= 360 and wide == []

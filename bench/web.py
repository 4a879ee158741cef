"""Time the page in Chromium beside Python, and compare their outputs: one recogniser, one thread each.

    python -m bench.web                         # hst_fast and harness_open, 10 s and 60 s of noise, 8-bit weights
    python -m bench.web --models hst_tiny --seconds 30 --precision fp32

RTF is the median time of computing logits and text, divided by the seconds of audio; decoding is not counted. With
`--clock cpu` it is the processor time of all Chromium processes, and of Python, for a machine with other work (Linux
only); then the hand-over of the samples and the drawing are counted too. A name of the family table stands for this
geometry with random weights, `harness_open` for the recogniser that ships. The difference is the root mean square over
log-probabilities, relative to them. The last line is the RTF of the first model at the first length in the browser.
"""

from __future__ import annotations

import argparse
import base64
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from bench.common import alternate, hardware, medians, print_table
from corpora.audio import SAMPLE_RATE
from downstream.asr.reading import DEFAULT_HEAD, Reader
from downstream.asr.recogniser import Recogniser, save_head
from downstream.web.packages import PACKAGE, runtime, wanted_version
from downstream.web.server import Server
from downstream.web.site import PAGE, assemble, exported
from upstream.harness.locate import CACHE_VARIABLE
from upstream.model.encoder import build_encoder
from upstream.model.family import FAMILY
from upstream.model.modeldir import model_sha256, save_model
from upstream.names import SHIPPED
from upstream.shipped import shipped

_WAIT = 180.0  # s for loading a model

# Chromium's own services are off, and no name but the loopback address is resolved.
ARGUMENTS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-dev-shm-usage",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-default-apps",
    "--disable-domain-reliability", "--disable-client-side-phishing-detection", "--no-default-browser-check",
    "--no-pings", "--disable-features=OptimizationHints,MediaRouter,Translate",
    "--autoplay-policy=no-user-gesture-required", "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
)  # fmt: skip


def find_chromium() -> tuple[str, str] | None:
    """The programs Chromium and chromedriver, or None where one is missing."""
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    driver = shutil.which("chromedriver")
    return (chromium, driver) if chromium and driver else None


@contextmanager
def open_chromium(profile: Path, arguments: Sequence[str] = ()) -> Iterator[Any]:
    """Headless Chromium under selenium, with further arguments; it ends with the block."""
    from selenium import webdriver

    found = find_chromium()
    if found is None:
        raise SystemExit("no chromium or no chromedriver: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = found[0]
    for argument in (*ARGUMENTS, "--window-size=1280,1000", f"--user-data-dir={profile}", *arguments):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    browser = webdriver.Chrome(options=options, service=webdriver.ChromeService(found[1]))
    browser.set_script_timeout(600)
    try:
        yield browser
    finally:
        browser.quit()


def use_cache(folder: Path) -> None:
    """Make `folder` the cache of this process: the installed ONNX Runtime is linked there, exports do not stay."""
    link = folder / "web" / f"{PACKAGE}-{wanted_version(PAGE)}"
    link.parent.mkdir(parents=True)
    link.symlink_to(runtime(PAGE).resolve())
    os.environ[CACHE_VARIABLE] = str(folder)


@contextmanager
def serve(files: dict[str, bytes | Path]) -> Iterator[str]:
    """Serve an assembled page while the block runs; yields its address."""
    with Server(files, 0) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server.url
        server.shutdown()
        thread.join()


def open_page(browser: Any, url: str) -> None:
    """Load the page and wait for its model. Raises RuntimeError with the message that the page shows instead."""
    browser.get(url)
    end = time.monotonic() + _WAIT
    while not browser.execute_script("return globalThis.harness?.isReady()"):
        alarm = browser.execute_script(
            "const a = document.getElementById('alarm'); return a.hidden ? '' : a.textContent"
        )
        if alarm or time.monotonic() > end:
            raise RuntimeError(alarm or f"the page was not ready after {_WAIT:.0f} s")
        time.sleep(0.05)


def read_samples(browser: Any, samples: np.ndarray) -> dict[str, Any]:
    """What the page makes of 16 kHz samples: `text`, `match`, `figures` (seconds), `logits` (T, characters)."""
    script = """
        const [content, done] = arguments;
        const bytes = Uint8Array.from(atob(content), (letter) => letter.charCodeAt(0));
        harness.read(new Float32Array(bytes.buffer)).then(
          ({ logits, ...rest }) => {
            const raw = new Uint8Array(logits.buffer, logits.byteOffset, logits.byteLength);
            let text = "";
            for (let i = 0; i < raw.length; i += 32768) text += String.fromCharCode(...raw.subarray(i, i + 32768));
            done({ ...rest, logits: btoa(text) });
          },
          (error) => done({ error: error.code + " " + JSON.stringify(error.values) }),
        );
    """
    content = base64.b64encode(np.ascontiguousarray(samples, "<f4").tobytes()).decode()
    answer = browser.execute_async_script(script, content)
    if "error" in answer:
        raise RuntimeError(answer["error"])
    return answer | {"logits": np.frombuffer(base64.b64decode(answer["logits"]), "<f4")}


def random_head(name: str, folder: Path) -> Path:
    """The head directory of a recogniser with random weights, in a geometry of the family, beside its encoder."""
    torch.manual_seed(0)
    encoder = build_encoder(FAMILY[name]).eval()
    save_model(encoder, folder / name, {"name": name})
    key = model_sha256(folder / name)
    save_head(Recogniser(encoder), folder / name / "letters", {"upstream": name, "upstream_key": key})
    return folder / name / "letters"


def reader_of(head: Path, encoder: Path) -> Reader:
    """A reader with one thread that runs this ONNX file, whatever its precision."""
    with TemporaryDirectory() as scratch:
        folder = Path(scratch)
        (folder / "int8.onnx").symlink_to(encoder.resolve())
        return Reader(head, folder, engine="onnx", threads=1)


def main() -> None:
    """Run the benchmark and print its table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default="hst_fast,harness_open", help="names, comma-separated")
    parser.add_argument("--seconds", default="10,60", help="lengths of audio, comma-separated")
    parser.add_argument("--precision", choices=("int8", "fp32"), default="int8")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall")
    parsed = parser.parse_args()
    torch.set_num_threads(1)
    rows, first = [], None
    with TemporaryDirectory() as scratch:
        use_cache(Path(scratch) / "cache")
        with open_chromium(Path(scratch) / "profile") as browser:
            version = browser.capabilities["browserVersion"]
            for name in parsed.models.split(","):
                head = shipped(name) / DEFAULT_HEAD if name in SHIPPED else random_head(name, Path(scratch))
                reader = reader_of(head, exported(head.parent, parsed.precision).path)
                with serve(assemble(head, precision=parsed.precision)) as url:
                    open_page(browser, f"{url}?threads=1")
                    for seconds in map(float, parsed.seconds.split(",")):
                        wave = _noise(seconds)
                        taken, difference = _measure(browser, reader, wave, parsed.runs, parsed.clock)
                        middle = medians(taken)
                        first = first if first is not None else middle["browser"] / seconds
                        spread = f"{min(taken['browser']) / seconds:.4f} to {max(taken['browser']) / seconds:.4f}"
                        rows.append(
                            (name, f"{seconds:g}", f"{middle['browser'] / seconds:.4f}", spread,
                             f"{middle['python'] / seconds:.4f}", f"{middle['browser'] / middle['python']:.2f}",
                             f"{difference:.1e}")
                        )  # fmt: skip
    print(
        f"{hardware()}; Chromium {version}, {parsed.precision}, one thread, {parsed.clock} time, {parsed.runs} runs\n"
    )
    print_table(("model", "seconds", "RTF browser", "spread", "RTF Python", "browser / Python", "difference"), rows)
    print(f"\nratio web_rtf {first:.4f}")


def _noise(seconds: float) -> np.ndarray:
    """Soft noise whose loudness changes four times a second, (n,) float32."""
    rng = np.random.default_rng(0)
    time_s = np.arange(int(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    return (0.1 * np.sin(2 * np.pi * 2 * time_s) ** 2 * rng.standard_normal(len(time_s))).astype(np.float32)


def _measure(
    browser: Any, reader: Reader, wave: np.ndarray, runs: int, clock: str
) -> tuple[dict[str, list[float]], float]:
    """Seconds of each run in alternating rounds, and the relative difference of their log-probabilities."""
    answers: dict[str, Any] = {}
    taken: dict[str, list[float]] = {"browser": [], "python": []}

    def in_browser() -> None:
        before = _cpu_seconds(browser.service.process.pid) if clock == "cpu" else 0.0
        answers["browser"] = read_samples(browser, wave)
        # The page's own clock does not count what selenium needs to hand over samples and logits.
        spent = answers["browser"]["figures"]["compute"]
        taken["browser"].append(_cpu_seconds(browser.service.process.pid) - before if clock == "cpu" else spent)

    def in_python() -> None:
        now = time.process_time if clock == "cpu" else time.perf_counter
        before = now()
        answers["python"] = reader.read_blocks([torch.from_numpy(wave)])
        taken["python"].append(now() - before)

    work: dict[str, Callable[[], object]] = {"browser": in_browser, "python": in_python}
    alternate(work, runs)
    expected = answers["python"].log_probs
    logits = torch.from_numpy(answers["browser"]["logits"].copy()).view(expected.shape)
    change = logits.log_softmax(-1).numpy() - expected
    difference = float(np.sqrt(np.square(change).mean() / np.square(expected).mean()))
    return {name: seconds[-runs:] for name, seconds in taken.items()}, difference


def _cpu_seconds(root: int) -> float:
    """Processor time of the processes below `root` (s), from /proc."""
    parents: dict[int, int] = {}
    ticks: dict[int, int] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:  # the process ended
            continue
        parents[int(path.parent.name)] = int(fields[1])
        ticks[int(path.parent.name)] = int(fields[11]) + int(fields[12])
    below, found = {root}, True
    while found:
        found = {pid for pid, parent in parents.items() if parent in below} - below
        below |= found
    return sum(ticks[pid] for pid in below - {root} if pid in ticks) / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    main()

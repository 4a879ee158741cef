"""The page in a browser: on a screen, a phone and paper."""

from __future__ import annotations

import base64
import contextlib
import io
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from downstream import report
from downstream.report.rows import read_rows
from downstream.score.results import Prediction, read_predictions, write_predictions

pytestmark = pytest.mark.slow

UPSTREAMS = ("fbank", "harness_l", "harness_s", "harness_st")
HOSTILE = '<img src="https://example.org/x.png" onerror="document.title=1">'


@pytest.fixture(scope="module")
def exp(tmp_path_factory: pytest.TempPathFactory, fake_results: Any) -> Path:
    """Two tasks, four upstreams, folds for SER, a label budget; speakers are named like a piece of HTML."""
    exp = tmp_path_factory.mktemp("root") / "exp" / "mini"
    for upstream in UPSTREAMS:
        for seed in (0, 1):
            run = fake_results.add(exp, "asr", upstream, seed=seed)
            fake_results.add_details(run, upstream, "cer")
            said = [
                Prediction(p.utt_id, HOSTILE + p.speaker, p.split, p.reference, p.hypothesis)
                for p in read_predictions(run / "predictions.csv")
            ]
            write_predictions(run / "predictions.csv", said)
        for fold in range(2):
            fake_results.add_details(fake_results.add(exp, "ser", upstream, fold=fold), upstream, "ua")
    fake_results.add(exp, "asr", "harness_l", budget="10min", error="0.5")
    fake_results.add_costs(exp)
    fake_results.add_training(exp)
    with contextlib.redirect_stdout(io.StringIO()):
        report.build(exp, "mini")
    return exp


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Headless Chromium; the tests are skipped where it is not installed (`.ci/run` installs it)."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    driver = shutil.which("chromedriver")
    if not chromium or not driver:
        pytest.skip("no chromium or no chromedriver: apt-get install chromium chromium-driver")
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for argument in (
        "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
        "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage",
        "--window-size=1280,900", f"--user-data-dir={tmp_path_factory.mktemp('chromium')}",
    ):  # fmt: skip
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    found = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    yield found
    found.quit()


@pytest.fixture
def page(browser: Any, exp: Path) -> Any:
    """The page, freshly loaded at 1280 pixels."""
    for kind in ("browser", "performance"):
        browser.get_log(kind)
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "", "features": []})
    browser.get((exp / "report" / "index.html").as_uri())
    return browser


def rows(page: Any, table: str) -> list[list[str]]:
    """Sort keys of the visible rows of a table."""
    script = (
        "return [...document.getElementById(arguments[0]).tBodies[0].rows].filter(r => r.offsetParent)"
        ".map(r => [...r.cells].map(c => c.dataset.key))"
    )
    return page.execute_script(script, table)


def header(page: Any, table: str, label: str) -> Any:
    """The header field of a column, and the place of it."""
    for place, field in enumerate(page.find_elements("css selector", f"#{table} thead th")):
        if field.text.startswith(label):
            return field, place
    raise AssertionError(f"no column {label}")


def type_filter(page: Any, table: str, text: str) -> None:
    field = page.find_element("id", f"{table}-filter")
    field.clear()
    field.send_keys(text)


def test_every_plot_is_drawn_and_nothing_leaves_the_page(page, exp):
    images = page.execute_script("return [...document.images].map(i => [i.src, i.naturalWidth])")
    assert all(width > 0 for _, width in images), images
    page.execute_script("document.querySelectorAll('input[name=cost]').forEach(i => i.checked = i.id === 'cost1')")
    drawn = page.execute_script(
        "return [...document.querySelectorAll('svg.plot')].filter(s => s.checkVisibility()).map(s => {"
        " const b = s.getBBox(), r = s.getBoundingClientRect();"
        " return [s.ariaLabel, b.width, b.height, r.width, s.querySelectorAll('text').length]})"
    )
    # quality: 2, compression, layers: 2, confusions: 4, learning: 2, budgets, training: 2
    assert len(drawn) == 14
    assert all(min(width, height, shown) > 100 and texts > 3 for _, width, height, shown, texts in drawn), drawn
    # ids of clip paths and markers must be unique, or one plot would be drawn with the parts of another
    ids = page.execute_script("return [...document.querySelectorAll('[id]')].map(e => e.id)")
    assert len(ids) == len(set(ids))
    wanted = page.execute_script(
        "return [...document.querySelectorAll('use')].map(u => u.href.baseVal).filter(h => !document.querySelector(h))"
    )
    assert wanted == []
    messages = [json.loads(entry["message"])["message"] for entry in page.get_log("performance")]
    asked = {m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"}
    own = (exp / "report" / "index.html").as_uri()
    assert own in asked and all(url == own or url.startswith("data:") for url in asked), asked
    assert page.get_log("browser") == []


def test_what_was_predicted_is_text_and_never_markup(page, exp):
    assert HOSTILE in page.execute_script("return document.body.textContent")
    assert page.find_elements("css selector", "img") == [] and page.title == "Results of mini (synthetic speech)"


def test_columns_sort_both_ways_by_mouse_and_keyboard(page):
    field, place = header(page, "leaderboard1", "ASR CER")
    before = [row[0] for row in rows(page, "leaderboard1")]
    assert field.get_attribute("aria-sort") == "none"
    field.find_element("tag name", "button").click()
    assert field.get_attribute("aria-sort") == "ascending"
    values = [float(row[place]) for row in rows(page, "leaderboard1")]
    assert values == sorted(values) and len(set(values)) > 2
    field.find_element("tag name", "button").send_keys("\ue007")  # Enter
    assert field.get_attribute("aria-sort") == "descending"
    assert [float(row[place]) for row in rows(page, "leaderboard1")] == values[::-1]
    # more is better in UA: the first click puts the best on top
    better, at = header(page, "leaderboard1", "SER UA")
    better.find_element("tag name", "button").click()
    assert better.get_attribute("aria-sort") == "descending" and field.get_attribute("aria-sort") == "none"
    values = [float(row[at]) for row in rows(page, "leaderboard1")]
    assert values == sorted(values, reverse=True)
    # fbank has no parameters and stays last in either direction
    size, at = header(page, "leaderboard1", "params")
    for _ in range(2):
        size.find_element("tag name", "button").click()
        assert [row[0] for row in rows(page, "leaderboard1")][-1] == "fbank"
    name, _ = header(page, "leaderboard1", "upstream")
    name.find_element("tag name", "button").click()
    assert [row[0] for row in rows(page, "leaderboard1")] == sorted(before)


def test_numbers_sort_as_numbers(page):
    """10 after 9, and -2 before -1."""
    field, place = header(page, "runs", "seed")
    script = (
        "const rows = document.getElementById('runs').tBodies[0].rows;"
        "['10', '9', '-1', '-2'].forEach((key, i) => { rows[i].cells[arguments[0]].dataset.key = key; })"
    )
    page.execute_script(script, place)
    field.find_element("tag name", "button").click()
    values = [float(row[place]) for row in rows(page, "runs")]
    assert values == sorted(values) and {10, 9, -1, -2} < set(values)


def test_a_filter_finds_words_and_exact_values(page):
    everything = rows(page, "leaderboard1")
    output = page.find_element("css selector", "#leaderboard1-grid output")
    type_filter(page, "leaderboard1", "HARNESS_S")
    assert {row[0] for row in rows(page, "leaderboard1")} == {"harness_s", "harness_st"}
    assert output.text == "2 of 4 rows" and output.get_attribute("aria-live") == "polite"
    type_filter(page, "leaderboard1", "upstream:harness_s")
    assert [row[0] for row in rows(page, "leaderboard1")] == ["harness_s"]
    type_filter(page, "leaderboard1", "nothing of the kind")
    assert rows(page, "leaderboard1") == [] and output.text == "0 of 4 rows"
    page.find_element("id", "leaderboard1-filter").clear()
    type_filter(page, "leaderboard1", " ")
    assert rows(page, "leaderboard1") == everything and output.text == "4 rows"


def test_a_number_leads_to_the_runs_that_it_is_made_of(page, exp):
    link = page.find_element("css selector", '#leaderboard1 a[data-query*="upstream:harness_l "]')
    page.execute_script("arguments[0].click()", link)
    shown = rows(page, "runs")
    stored = [
        r for r in read_rows(exp / "results.csv")
        if r.upstream == "harness_l" and r.setting.task == "asr" and r.split == "test" and not r.setting.budget
    ]  # fmt: skip
    assert {row[-1] for row in shown} == {r.run_dir for r in stored} and len(shown) == 2
    assert {row[1] for row in shown} == {"asr"} and {row[2] for row in shown} == {"0", "1"}
    assert "C1" in page.find_element("id", "runs").text
    command = page.find_element("css selector", ".commands li").text
    assert command == "downstream benchmark --recipe mini --tasks 'asr,ser'"
    results = next(row[4] for row in shown if row[2] == "0")
    cer = next(r.value for r in stored if r.metric == "cer" and r.seed == 0)
    assert f"CER {100 * cer:.1f}" in results


def test_arabic_runs_from_right_to_left_and_differences_are_marked(page, exp):
    found = page.execute_script(
        "return [...document.querySelectorAll('.hyp')].map(h => { const c = h.cloneNode(true);"
        " c.querySelectorAll('del').forEach(d => d.remove());"
        " return [getComputedStyle(h).direction, h.lang, c.textContent, h.querySelectorAll('mark,ins,del').length,"
        "  h.nextElementSibling.textContent, h.closest('.example').querySelector('.ref').textContent,"
        "  h.closest('.example').querySelector('.utt').textContent, h.previousElementSibling.textContent]})"
    )
    assert len(found) == 6 * len(UPSTREAMS)
    said = {}
    for upstream in UPSTREAMS:
        run = next((exp / "probes" / "asr" / upstream).glob("aaaa0000seed0"))
        said[upstream] = {p.utt_id: p for p in read_predictions(run / "predictions.csv")}
    for direction, language, text, marks, rate, reference, where, upstream in found:
        p = said[upstream][where.split(",")[0]]
        assert (direction, language) == ("rtl", "ar")
        assert text == p.hypothesis and reference == p.reference
        assert (marks > 0) == (p.hypothesis != p.reference) == (rate != "0")
    assert any(marks for _, _, _, marks, *_ in found)


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_text_stands_out_from_its_ground(page, theme):
    """WCAG 2 AA: 4.5 to 1 for text, in both themes."""
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": theme}]})
    poor = page.execute_script(
        """
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
          if (!own || !e.checkVisibility() || ["SCRIPT", "STYLE", "title"].includes(e.tagName)) continue;
          const style = getComputedStyle(e);
          const drawn = e instanceof SVGElement;
          // What is written on the fields of heat maps keeps its colour; the fields are no CSS background.
          if (drawn && ["rgb(254, 254, 254)", "rgb(16, 24, 34)"].includes(style.fill)) continue;
          const a = light(rgba(drawn ? style.fill : style.color)), b = light(ground(e));
          const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
          count += 1;
          if (ratio < 4.5) poor.push([e.tagName, e.className.baseVal ?? e.className, e.textContent.trim(), ratio]);
        }
        return [count, poor.slice(0, 9), getComputedStyle(document.body).color];
        """
    )
    assert poor[0] > 300 and poor[1] == [], poor
    assert (poor[2] == "rgb(27, 36, 48)") == (theme == "light")


def test_a_phone_needs_no_sideways_scrolling(page):
    page.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", {"width": 390, "height": 844, "deviceScaleFactor": 2, "mobile": True}
    )
    page.execute_script("document.querySelectorAll('details').forEach(d => d.open = true)")
    width, wide = page.execute_script(
        "return [document.documentElement.scrollWidth, [...document.querySelectorAll('body *')].filter(e =>"
        " e.getBoundingClientRect().right > 391 && !e.closest('.scroll, #toc, .skip')).map(e => e.outerHTML)]"
    )
    assert width <= 390 and wide == []
    # wide tables scroll inside, and the keyboard reaches them
    scrolled = page.execute_script(
        "return [...document.querySelectorAll('.scroll')].filter(s => s.scrollWidth > s.clientWidth + 1)"
        ".map(s => [s.tabIndex, s.ariaLabel])"
    )
    assert len(scrolled) > 2 and all(tab == 0 and label for tab, label in scrolled)


def test_paper_shows_everything_without_the_controls(page):
    pdf = base64.b64decode(page.execute_cdp_cmd("Page.printToPDF", {"preferCSSPageSize": True})["data"])
    assert pdf.startswith(b"%PDF") and len(pdf) > 50_000
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    page.execute_script(
        "const body = document.getElementById('runs').tBodies[0];"
        "for (let i = 0; i < 4; i++) body.append(...[...body.rows].map(row => row.cloneNode(true)));"
        "dispatchEvent(new Event('beforeprint'))"
    )
    hidden = page.execute_script(
        "return [...document.querySelectorAll('nav, .tools, .tab, details, #runs tbody tr')].map(e => "
        "[e.matches('nav, .tools'), e.checkVisibility() && (e.tagName !== 'DETAILS' || e.open)])"
    )
    assert all(visible != control for control, visible in hidden)
    clipped = page.execute_script(
        "return [...document.querySelectorAll('.scroll')].filter(s => s.scrollHeight > s.clientHeight + 1).length"
    )
    assert clipped == 0


def test_without_details_of_the_runs_the_page_has_less_and_works(page, tmp_path, fake_results):
    exp = tmp_path / "exp" / "open_arabic"
    for upstream, error in (("fbank", "0.5"), ("mine & <yours>", "0.3")):
        fake_results.add(exp, "did", upstream, error=error, corpus="adi", recipe="open_arabic")
    with contextlib.redirect_stdout(io.StringIO()):
        report.build(exp, "open_arabic")
    page.get((exp / "report" / "index.html").as_uri())
    shown = [section.get_attribute("id") for section in page.find_elements("css selector", "section")]
    assert shown == ["leaderboard", "metrics", "confusion", "times", "runs-section"]
    assert [row[0] for row in rows(page, "leaderboard1")] == ["fbank", "mine & <yours>"]
    assert page.find_elements("css selector", ".banner") == [] and page.get_log("browser") == []

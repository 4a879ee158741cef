"""Panels of the page."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from downstream.report.drawing import SERIES, Figure, Panel, save


@pytest.mark.slow
def test_a_panel_of_the_page_follows_its_theme_and_keeps_text(tmp_path: Path):
    drawn = []

    def draw(axes: Any) -> dict[str, str]:
        drawn.append(axes)
        axes.plot([0, 1], [0, 1], color=SERIES[3], gid="tip-1")
        axes.set_xlabel("كِتَاب <باب>")
        return {"tip-1": 'a "tip" <b>'}

    panels = [Panel("title", draw, "what & it shows"), Panel("other", draw, "another")]
    svg, other = save(Figure("key", "of both", "", panels, {"legend": 3}), tmp_path)
    assert len(drawn) == 2 and {path.name for path in tmp_path.iterdir()} == {"key.png", "key.svg"}
    assert ">title<" in svg and ">other<" not in svg and ">other<" in other and "of both" not in svg + other
    assert ">legend<" not in svg and 'aria-label="another"' in other
    ids = [set(re.findall(r' id="([^"]+)"', text)) for text in (svg, other)]
    assert ids[0] and ids[1] and not ids[0] & ids[1]
    left, top, width, height = (float(x) for x in re.search(r'viewBox="([^"]+)"', other)[1].split())
    assert left > 200 and 150 < width < 72 * 4.1 + 8 and 150 < height < 72 * (3.2 + 0.9) and top < 40
    assert 'aria-label="what &amp; it shows"' in svg and "كِتَاب &lt;باب&gt;" in svg
    assert "<title>a &quot;tip&quot; &lt;b&gt;</title>" in svg and 'class="tip"' in svg
    assert "var(--s3)" in svg and "var(--ink)" in svg and "<style" not in svg and "<metadata" not in svg
    assert re.findall(r"(?:fill|stroke): #\w+", svg) == [], "a colour that no theme changes"
    assert [svg, other] == save(Figure("key", "of both", "", panels, {"legend": 3}), tmp_path)


def test_names_with_dollars_and_backslashes_are_drawn_as_they_are(tmp_path: Path):
    names = ["$\\alpha$", r"C:\1\g<0>", "a$b$c_{", "$x"]

    def draw(axes: Any) -> dict[str, str]:
        axes.plot([1, 10], [0, 1], gid=f"tip-{names[0]}")
        axes.set_xscale("log")
        axes.set_yticks(range(len(names)), names)
        return {f"tip-{names[0]}": names[1]}

    figure = Figure("key", names[0], "", [Panel(names[2], draw, names[1])], {name: n for n, name in enumerate(names)})
    (svg,) = save(figure, tmp_path)
    assert all(f">{name}<" in svg.replace("&lt;", "<").replace("&gt;", ">") for name in names)
    assert f"<title>{names[1].replace('<', '&lt;').replace('>', '&gt;')}</title>" in svg
    assert "mathdefault" not in re.sub("<!--.*?-->", "", svg), "numbers of the logarithmic axis"

"""The LaTeX tables."""

from __future__ import annotations

import re
import shutil
import subprocess

import pytest

from downstream.report import latex
from downstream.report.contents import gather


def test_latex_characters_are_escaped():
    assert latex.escape("a_b & 50 % {x} #1 ~ ^ \\ $\n") == (
        r"a\_b \& 50 \% \{x\} \#1 \textasciitilde{} \textasciicircum{} \textbackslash{} \$"
    )


@pytest.mark.slow
def test_the_latex_tables_are_complete(real_exp, tmp_path):
    text = latex.render(gather(real_exp, "open_arabic", {}, "./run.sh --recipe open_arabic"))
    assert "SYNTHETIC" not in text and "% command: ./run.sh --recipe open_arabic" in text
    tables = re.findall(r"\\begin{tabular}{(\w+)}(.*?)\\end{tabular}", text, flags=re.DOTALL)
    assert len(tables) == 2
    for align, body in tables:
        lines = [line for line in body.splitlines() if line.endswith(r"\\")]
        assert all(len(re.findall(r"(?<!\\)&", line)) == len(align) - 1 for line in lines)
        for rule in (r"\toprule", r"\midrule", r"\bottomrule"):
            assert body.count(rule) == 1
    rows = {line.split("&")[0].strip(): line for line in tables[0][1].splitlines() if "&" in line}
    assert r"\textbf{" in rows[r"harness\_l"] and r"\textbf{" not in rows[r"harness\_st"]
    assert r"$^{\blacktriangle\dagger}$" in rows[r"harness\_st"] and "[" in rows["fbank"]
    if shutil.which("pdflatex"):
        page = rf"\documentclass{{article}}\usepackage{{booktabs,amssymb}}\begin{{document}}{text}\end{{document}}"
        (tmp_path / "page.tex").write_text(page, encoding="utf-8")
        done = subprocess.run(
            ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "page.tex"], cwd=tmp_path, capture_output=True
        )
        assert done.returncode == 0, done.stdout[-2000:]

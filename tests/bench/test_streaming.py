"""The streaming benchmark: rows for every chunk, flat memory, and the ratios on its last lines."""

from __future__ import annotations

import pytest

from bench import streaming


@pytest.mark.slow
def test_rows_and_ratios(capsys):
    options = ["--models", "mini_hst_stream", "--engines", "torch_fp32,onnx_int8", "--chunks", "160,320"]
    assert streaming.main([*options, "--seconds", "2", "--hour-seconds", "120"]) == 0
    lines = capsys.readouterr().out.splitlines()
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines if line.startswith("| mini_hst_stream")]
    costs, memory = rows[:4], rows[4:]
    assert [row[1:3] for row in costs] == [[e, c] for e in ("torch_fp32", "onnx_int8") for c in ("160", "320")]
    for row in costs:
        assert 0 < float(row[3]) < 1 and float(row[5]) >= int(row[2]) + 15
    assert len(memory) == 2 and all(float(cell) > 10 for row in memory for cell in row[2:])
    (rtf, growth) = (line.split() for line in lines[-2:])
    assert rtf[:2] == ["ratio", "streaming_rtf"] and float(rtf[2]) == min(float(row[3]) for row in costs[1::2])
    assert growth[:2] == ["ratio", "streaming_memory"] and 0.8 < float(growth[2]) < 1.5


def test_models_that_cannot_stream_and_unknown_engines_are_refused(capsys):
    for options in (["--models", "hst_fast"], ["--engines", "tpu"]):
        with pytest.raises(SystemExit):
            streaming.main(options)
        assert "known: " in capsys.readouterr().err

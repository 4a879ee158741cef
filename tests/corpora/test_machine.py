from __future__ import annotations

import os
from pathlib import Path

import pytest

from corpora import machine


@pytest.mark.parametrize(("quota", "expected"), [("max 100000", None), ("100000 100000", 1), ("1000 100000", 1)])
def test_cores_respect_the_quota_of_a_container(tmp_path: Path, quota: str, expected: int | None) -> None:
    (tmp_path / "cpu.max").write_text(quota + "\n")
    assert machine.cores(tmp_path) == (expected or machine.cores(tmp_path / "none"))


def test_cores_respect_affinity(tmp_path: Path) -> None:
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(before)})
        assert machine.cores(tmp_path) == 1
    finally:
        os.sched_setaffinity(0, before)


def test_memory_is_the_limit_of_the_container_where_it_is_lower(tmp_path: Path) -> None:
    whole = machine.memory_bytes(tmp_path)
    assert whole and whole > 2**20
    (tmp_path / "memory.max").write_text("1048576\n")
    assert machine.memory_bytes(tmp_path) == 2**20
    (tmp_path / "memory.max").write_text("max\n")
    assert machine.memory_bytes(tmp_path) == whole


def test_cpu_name(tmp_path: Path) -> None:
    (tmp_path / "cpuinfo").write_text("processor\t: 0\nmodel name\t: A Processor: fast\n")
    assert machine.cpu_name(tmp_path / "cpuinfo") == "A Processor: fast"
    assert machine.cpu_name(tmp_path / "none")


def test_versions_leave_out_packages_that_are_not_installed() -> None:
    assert list(machine.versions(["numpy", "no-such-package"])) == ["numpy"]

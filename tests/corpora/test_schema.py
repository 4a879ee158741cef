from dataclasses import dataclass, field

import pytest

from corpora.schema import RecordError, record


@dataclass(frozen=True)
class Example:
    steps: int
    lr: float = 1e-3
    layer: int | None = None
    pca: int | float | None = None
    fast: bool = False
    seeds: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"steps={self.steps} must be at least 1")


def test_values_take_the_annotated_types():
    made = record(Example, {"steps": 3, "lr": 1, "layer": None, "pca": 0.9, "seeds": [0, 1]}, "x.yaml")
    assert made == Example(3, 1.0, None, 0.9, False, [0, 1]) and isinstance(made.lr, float)


@pytest.mark.parametrize(
    "mapping, message",
    [
        ({"stesp": 3}, "x.yaml: unknown key `a.stesp`; the nearest known one is `steps`"),
        ({}, "x.yaml: `a.steps` is missing"),
        ({"steps": "3"}, "`a.steps` must be int, not `3` (str)"),
        ({"steps": True}, "`a.steps` must be int, not `True` (bool)"),
        ({"steps": 1, "fast": 1}, "`a.fast` must be bool"),
        ({"steps": 1, "seeds": [0, "x"]}, "`a.seeds[1]` must be int"),
        ({"steps": 0}, "x.yaml: `a`: steps=0 must be at least 1"),
        ([1], "`a` must be a mapping"),
    ],
)
def test_errors_name_file_and_key(mapping, message):
    with pytest.raises(RecordError) as error:
        record(Example, mapping, "x.yaml", "a")
    assert message in str(error.value)

from dataclasses import dataclass, field

import pydantic
import pytest

from corpora.files import CorpusError
from corpora.schema import Problems, convert, flatten, nearest, record


@dataclass(frozen=True)
class Example:
    steps: int
    lr: float = 1e-3
    layer: int | None = None
    pca: int | float | None = None
    fast: bool = False
    seeds: list[int] = field(default_factory=list)
    sizes: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"steps={self.steps} must be at least 1")


@pydantic.dataclasses.dataclass(frozen=True, config=pydantic.ConfigDict(extra="forbid"))
class Checked:
    """The same fields, declared with pydantic."""

    steps: int = pydantic.Field(ge=1)
    lr: float = 1e-3
    layer: int | None = None
    pca: int | float | None = None
    fast: bool = False
    seeds: list[int] = pydantic.Field(default_factory=list)
    sizes: tuple[int, ...] = ()


@pytest.mark.parametrize("cls", [Example, Checked])
def test_values_take_the_annotated_types(cls):
    given = {"steps": 3, "lr": 1, "layer": None, "pca": 0.9, "seeds": [0, 1], "sizes": [2, 3]}
    made = record(cls, given, "x.yaml")
    assert made == cls(3, 1.0, None, 0.9, False, [0, 1], (2, 3)) and isinstance(made.lr, float)
    assert record(cls, {"steps": 3, "lr": float("inf")}, "x.yaml").lr == float("inf")


@pytest.mark.parametrize("cls", [Example, Checked])
@pytest.mark.parametrize(
    "mapping, tokens",
    [
        ({"stesp": 3}, ["x.yaml", "`a.stesp`", "nearest known one is `steps`"]),
        ({}, ["x.yaml", "`a.steps` is missing"]),
        ({"steps": "3"}, ["`a.steps`", "integer", "`3` (str)"]),
        ({"steps": True}, ["`a.steps`", "`True` (bool)"]),
        ({"steps": 1.0}, ["`a.steps`", "`1.0` (float)"]),
        ({"steps": 1, "fast": 1}, ["`a.fast`", "boolean"]),
        ({"steps": 1, "seeds": [0, "x"]}, ["`a.seeds[1]`", "`x`"]),
        ({"steps": 1, "pca": "x"}, ["`a.pca`", "integer or a valid number", "`x`"]),
        ({"steps": 0}, ["x.yaml", "`a", "0", "1"]),
        ([1], ["`a` must be a mapping"]),
    ],
)
def test_errors_name_file_and_key(cls, mapping, tokens):
    with pytest.raises(CorpusError) as error:
        record(cls, mapping, "x.yaml", "a")
    assert all(token in str(error.value) for token in tokens), error.value


def test_all_errors_are_reported_at_once():
    @dataclass
    class Own:
        steps: int
        lr: float = 0.1

    problems = Problems("x.yaml")
    with problems.collect():
        record(Own, {"steps": "a", "lr": "b", "size": 1, "width": 2}, "x.yaml", "a")
    with problems.collect():
        record(Own, {}, "x.yaml", "b")
    with pytest.raises(CorpusError) as error:
        problems.check()
    text = str(error.value)
    assert all(f"`{token}`" in text for token in ("a.steps", "a.lr", "a.size", "a.width", "b.steps"))
    assert text.startswith("x.yaml: ") and text.count("x.yaml") == 1


def test_one_value():
    assert convert(list[str], ["a"], "x.yaml", "names") == ["a"]
    with pytest.raises(CorpusError, match=r"x.yaml: `names\[0\]`.* `1`"):
        convert(list[str], [1], "x.yaml", "names")


def test_nearest_compares_the_last_part_of_dotted_names():
    assert nearest("train.stesp", ["train.steps", "train.seed"], "--").endswith("`--train.steps`")
    assert nearest("train.colour", ["train.steps"]) == ""


def test_nested_keys_become_dotted():
    tree = {"a": {"b": 1, "c": {"d": [2, {"x": 3}]}}, "e": {}}
    assert flatten(tree) == {"a.b": 1, "a.c.d": [2, {"x": 3}], "e": {}}
    assert flatten(tree, lists=True) == {"a.b": 1, "a.c.d.0": 2, "a.c.d.1.x": 3, "e": {}}
    assert flatten({}) == {}

"""Objects from the JSON of a child: exact types, or none."""

import json
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any, Literal

import pytest

from node.children.messages import WrongType, of_type


class Colour(StrEnum):
    RED = "red"


@dataclass(frozen=True)
class Inner:
    name: str
    colour: Colour


@dataclass(frozen=True)
class Outer:
    count: int
    length: float
    state: Literal["on", "off"]
    pair: tuple[int, str]
    several: tuple[Inner, ...]
    note: str | None = None
    rows: tuple[tuple[float, ...], ...] | None = None


RIGHT = Outer(1, 2.5, "on", (3, "c"), (Inner("a", Colour.RED),), None, ((1.0, 2.0), ()))


def as_json(**changes: Any) -> Any:
    return json.loads(json.dumps(asdict(RIGHT) | changes))


def test_an_object_comes_back_as_it_was() -> None:
    found = of_type(Outer, as_json())
    assert found == RIGHT
    assert type(found.several[0].colour) is Colour
    assert of_type(Outer, as_json(length=2)).length == 2.0
    assert of_type(Outer, as_json(count=3.0)).count == 3
    shorter = as_json()
    del shorter["note"]
    assert of_type(Outer, shorter) == RIGHT


@pytest.mark.parametrize(
    "changes",
    [
        {"count": "1"},
        {"count": True},
        {"count": 1.5},
        {"count": float("nan")},
        {"count": float("inf")},
        {"count": 1e300},
        {"length": "2.5"},
        {"length": None},
        {"length": False},
        {"state": "perhaps"},
        {"state": ["on"]},
        {"pair": [1]},
        {"pair": [1, "c", 2]},
        {"pair": "1c"},
        {"pair": {"0": 1, "1": "c"}},
        {"several": {"name": "a", "colour": "red"}},
        {"several": [{"name": "a", "colour": "blue"}]},
        {"several": [{"name": "a", "colour": {}}]},
        {"several": [{"name": "a"}]},
        {"several": [None]},
        {"note": 1},
        {"rows": [1.0]},
        {"more": 1},
        {"__class__": "Inner"},
    ],
    ids=str,
)
def test_a_value_of_another_type_is_refused_without_being_quoted(changes: dict[str, Any]) -> None:
    with pytest.raises(WrongType) as refused:
        of_type(Outer, as_json(**changes))
    assert "blue" not in str(refused.value)


@pytest.mark.parametrize("answer", [None, [], "text", 1, {}, {"count": 1}])
def test_what_is_no_object_is_refused(answer: Any) -> None:
    with pytest.raises(WrongType):
        of_type(Outer, answer)

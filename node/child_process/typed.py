"""Values of given types from the JSON of a child: what has another type is refused, never made to fit.

pydantic does the same for the configuration and for HTTP. It takes longer to prepare than the conversion of one slice.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import MISSING, fields, is_dataclass
from enum import StrEnum
from functools import cache, partial
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from node.errors import VoxelnodeError


class WrongType(VoxelnodeError):
    """A value is not of its type; the message says where it is, and does not quote it."""


def of_type(kind: Any, value: Any) -> Any:
    """Return a value that `json.loads` gave as an object of a type.

    Parameters
    ----------
    kind : type
        A dataclass, a `StrEnum`, ``str``, ``int``, ``float``, a literal, an optional one of these, or a tuple of these.
        A list becomes a tuple, an object a dataclass, an integer a float where one is wanted, and a whole float an
        integer.

    Raises
    ------
    WrongType
    """
    return _reader(kind)(value, "")


@cache
def _reader(kind: Any) -> Callable[[Any, str], Any]:
    """Return what reads a value of a type that is at a place."""
    origin, arguments = get_origin(kind), get_args(kind)
    if is_dataclass(kind):
        return partial(_object, kind, _fields_of(kind))
    if origin is tuple and arguments[1:] == (...,):
        return partial(_list, _reader(arguments[0]))
    if origin is tuple:
        return partial(_tuple, tuple(map(_reader, arguments)))
    if origin in (Union, UnionType) and len(arguments) == 2 and arguments[1] is type(None):
        return partial(_optional, _reader(arguments[0]))
    if origin is Literal:
        return partial(_one_of, {name: name for name in arguments})
    if isinstance(kind, type) and issubclass(kind, StrEnum):
        return partial(_one_of, {member.value: member for member in kind})
    return {str: _text, int: _whole, float: _number}[kind]


def _fields_of(kind: Any) -> dict[str, tuple[Callable[[Any, str], Any], bool]]:
    """Return the reader of each field of a dataclass, and whether the field must be given."""
    hints = get_type_hints(kind)
    return {
        field.name: (_reader(hints[field.name]), field.default is MISSING and field.default_factory is MISSING)
        for field in fields(kind)
    }


def _object(kind: Any, known: dict[str, tuple[Callable[[Any, str], Any], bool]], value: Any, where: str) -> Any:
    if not isinstance(value, dict) or not value.keys() <= known.keys():
        raise WrongType(f"{where or 'the answer'} is not an object of its type")
    if lacking := [name for name, (_, needed) in known.items() if needed and name not in value]:
        raise WrongType(f"{where}.{lacking[0]} is missing".lstrip("."))
    return kind(**{name: known[name][0](own, f"{where}.{name}".lstrip(".")) for name, own in value.items()})


def _list(read: Callable[[Any, str], Any], value: Any, where: str) -> tuple[Any, ...]:
    if not isinstance(value, list):
        raise WrongType(f"{where} is not a list")
    return tuple([read(own, where) for own in value])


def _tuple(readers: tuple[Callable[[Any, str], Any], ...], value: Any, where: str) -> tuple[Any, ...]:
    if not isinstance(value, list) or len(value) != len(readers):
        raise WrongType(f"{where} is not a list of {len(readers)}")
    return tuple([read(own, where) for read, own in zip(readers, value, strict=True)])


def _optional(read: Callable[[Any, str], Any], value: Any, where: str) -> Any:
    return None if value is None else read(value, where)


def _one_of(values: dict[str, Any], value: Any, where: str) -> Any:
    if not isinstance(value, str) or value not in values:
        raise WrongType(f"{where} is none of its words")
    return values[value]


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str):
        raise WrongType(f"{where} is not a text")
    return value


def _whole(value: Any, where: str) -> int:
    is_whole = isinstance(value, int) or (isinstance(value, float) and value.is_integer() and abs(value) < 1 << 53)
    if isinstance(value, bool) or not is_whole:
        raise WrongType(f"{where} is not a whole number")
    return int(value)


def _number(value: Any, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise WrongType(f"{where} is not a number")
    return float(value)

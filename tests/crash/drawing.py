"""Operations whose arguments are drawn from a seed."""

from collections.abc import Callable, Sequence
from random import Random
from typing import Any, TypeVar

T = TypeVar("T")

Draw = Callable[[Random], Any]
"""Gives an argument of an operation."""


def operation(**arguments: Draw) -> Callable[[T], T]:
    """Mark a method as an operation of an order; its arguments are drawn."""

    def marked(method: T) -> T:
        method.draws = arguments  # type: ignore[attr-defined]
        return method

    return marked


def whole(least: int, most: int) -> Draw:
    return lambda random: random.randint(least, most)


def one_of(values: Sequence[Any]) -> Draw:
    return lambda random: random.choice(values)


def maybe(draw: Draw) -> Draw:
    return lambda random: draw(random) if random.random() < 0.5 else None


def some(draw: Draw, most: int) -> Draw:
    return lambda random: [draw(random) for _ in range(random.randint(1, most))]


PICK = whole(0, 1 << 16)
"""Which of those that there are: how many there are depends on when a node died, and must not change what is drawn."""


def picked(those: Sequence[T], pick: int) -> T:
    return those[pick % len(those)]


PICKS = some(PICK, 4)
MOMENTS = some(whole(0, 6), 2)
BOTH = one_of((False, True))

"""Interleavings: orders of operations of `tests.crash.operators` that are drawn from a seed."""

from collections import Counter
from collections.abc import Sequence
from random import Random
from signal import SIGKILL

from node.settings.core import OverwritePolicy
from tests.crash.journal import new_series
from tests.crash.operators import NAMES, Operators
from tests.crash.site import Site

STEPS = 8
"""Operations in one interleaving."""

POLICIES: tuple[OverwritePolicy, ...] = ("never", "keep_both", "replace")

ACTORS = tuple(name for name, value in vars(Operators).items() if hasattr(value, "draws"))
"""The names of the operations that an order is made of."""


def try_interleavings(
    orders: int,
    *,
    first: int = 0,
    actors: Sequence[str] = ACTORS,
    mutant: str | None = None,
    seed: int = 0,
    counts: Counter[str] | None = None,
) -> None:
    """Try so many interleavings, always the same ones for a seed.

    `first`: number of the first one: to repeat one that failed.
    `counts`: gets what was done.

    Raises AssertionError: the node lost something, or kept something that was deleted; the notes of the error list the
        operations.
    """
    for number in range(first, first + orders):
        name = f"seed {seed}, order {number}"
        _try_order(Random(f"{seed}/{number}"), name, actors, mutant, Counter() if counts is None else counts)


def _try_order(random: Random, name: str, actors: Sequence[str], mutant: str | None, counts: Counter[str]) -> None:
    site = Site(random.choice(NAMES), random.choice(POLICIES), mutant)
    operators, done = Operators(site, counts), [f"{name}: {site.policy}, {site.root.name}"]
    try:
        site.send(new_series(3))
        operators.backup()
        for _ in range(STEPS):
            method = getattr(operators, random.choice(actors))
            arguments = {argument: draw(random) for argument, draw in method.draws.items()}
            done.append(f"{method.__name__}({', '.join(f'{name}={value!r}' for name, value in arguments.items())})")
            method(**arguments)
        done.append("the end")
        operators.settle()
    except Exception as error:
        error.add_note("\n".join([*done, site.last_words()]))
        raise
    finally:
        counts["orders"] += 1
        counts["processes killed"] += site.ended.count(-SIGKILL)
        counts["instances acknowledged"] += site.model.statuses.count(0)
        site.close()


def caught(mutant: str, actors: Sequence[str], orders: int, seed: int) -> str | None:
    """Try a mutant; return what is wrong with it, or None if that was not found in so many interleavings."""
    try:
        try_interleavings(orders, actors=actors, mutant=mutant, seed=seed)
    except AssertionError as error:
        return str(error)
    return None

"""Processes as they are seen from outside of their PID namespace."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path


def children() -> set[int]:
    """Return the numbers of the children of this process, whichever thread started them."""
    threads = Path("/proc/self/task").iterdir()
    return {int(child) for thread in threads for child in (thread / "children").read_text().split()}


def descendants(process: int) -> list[int]:
    """Return the numbers of the children of a process, of their children, and so on."""

    def below(parent: int) -> Iterator[int]:
        for child in map(int, Path(f"/proc/{parent}/task/{parent}/children").read_text().split()):
            yield child
            yield from below(child)

    return list(below(process))


def known_outside_as(ancestor: int, number: int) -> int:
    """Return the number of the descendant that knows itself as `number`."""
    [found] = [process for process in descendants(ancestor) if _own_number(process) == number]
    return found


def _own_number(process: int) -> int:
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    [numbers] = [line for line in lines if line.startswith("NSpid:")]
    return int(numbers.split()[-1])

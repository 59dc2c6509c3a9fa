"""Processes as they are seen from outside of their PID namespace."""

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path


def children() -> set[int]:
    """Return the numbers of the children of this process, whichever thread started them."""
    return {number for number in map(int, filter(str.isdecimal, os.listdir("/proc"))) if _parent(number) == os.getpid()}


def _parent(process: int) -> int | None:
    with suppress(FileNotFoundError, ProcessLookupError):  # it has ended since
        return int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])
    return None


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

"""Processor time of processes, which other work on the machine changes less than the time that passes."""

from __future__ import annotations

import os
import time
from pathlib import Path

REST_SECONDS = 0.3
"""A process that uses less than a tenth of this time has nothing more to do."""


def user_and_system(process: int) -> tuple[float, float]:
    """Return the user and the system time of a process and of all processes that it started, ended ones included, in
    seconds."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    user, system, user_of_ended, system_of_ended = (int(ticks) / os.sysconf("SC_CLK_TCK") for ticks in fields[11:15])
    user, system = user + user_of_ended, system + system_of_ended
    for thread in Path(f"/proc/{process}/task").glob("*/children"):
        for child in thread.read_text().split():
            try:
                of_child = user_and_system(int(child))
            except (FileNotFoundError, ProcessLookupError):  # it has ended meanwhile
                continue
            user, system = user + of_child[0], system + of_child[1]
    return user, system


def seconds(process: int) -> float:
    """Return the user and system time of a process and of all processes that it started, ended ones included."""
    return sum(user_and_system(process))


def await_rest(process: int) -> None:
    """Return when a process has nothing more to do."""
    before, now = -1.0, seconds(process)
    while now - before > REST_SECONDS / 10:
        time.sleep(REST_SECONDS)
        before, now = now, seconds(process)

"""How long a series waits after an instance of a sender: as configured, or as learnt from the sender."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from time import monotonic

import structlog

from node.errors import VoxelnodeError
from node.settings.model import QuietTime

log = structlog.get_logger()

UNKNOWN_SECONDS = 60.0
"""Quiet time of a sender about which too little is known."""

REFRESH_SECONDS = 10.0


def quiet_seconds_of(
    default: QuietTime,
    by_calling_ae_title: Mapping[str, QuietTime],
    learnt: Callable[[str], float | None] = lambda calling_ae_title: None,
) -> Callable[[str], float]:
    """Return the function that gives the quiet time of a sender.

    Parameters
    ----------
    learnt : callable (calling AE title) -> float or None
        What is learnt of a sender, for those with ``auto``.
    """
    table = {title.strip(): time for title, time in by_calling_ae_title.items()}
    known = _Remembered(learnt)

    def seconds(calling_ae_title: str) -> float:
        time = table.get(calling_ae_title.strip(), default)
        return known(calling_ae_title) if time == "auto" else time

    return seconds


class _Remembered:
    """Ask for the quiet time of a sender once in `REFRESH_SECONDS`; receiving never waits for the index."""

    def __init__(self, learnt: Callable[[str], float | None]) -> None:
        self._learnt = learnt
        self._known: dict[str, tuple[float, float]] = {}

    def __call__(self, calling_ae_title: str) -> float:
        seconds, until = self._known.get(calling_ae_title, (UNKNOWN_SECONDS, 0.0))
        if monotonic() >= until:
            try:
                seconds = self._learnt(calling_ae_title) or UNKNOWN_SECONDS
            except VoxelnodeError as error:  # the last answer stands
                log.warning("quiet_time_not_read", reason=str(error))
            self._known[calling_ae_title] = seconds, monotonic() + REFRESH_SECONDS
        return seconds

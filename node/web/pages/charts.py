"""Small charts of the last hour, as numbers for SVG."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from node.metrics import Minute
from node.web.pages.filters import counted, grouped, sized

WIDTH, HEIGHT = 360, 56
"""Of a chart, in the units of its view box."""


@dataclass(frozen=True, slots=True)
class Bar:
    """A minute: its place and height in the view box, and what it says."""

    x: float
    y: float
    height: float
    title: str


@dataclass(frozen=True, slots=True)
class Chart:
    """A chart of bars; `summary` says in a sentence what it shows."""

    title: str
    figure: str
    summary: str
    bars: tuple[Bar, ...]
    width: float


def hour_charts(minutes: Sequence[Minute]) -> list[Chart]:
    """Return the charts of what was received and of what waited, the oldest minute at the left."""
    instances, bytes_ = sum(minute.instances for minute in minutes), sum(minute.bytes for minute in minutes)
    most = max((minute.instances for minute in minutes), default=0)
    known = [minute.series for minute in minutes if minute.series is not None]
    now = known[-1] if known else 0
    return [
        _chart(
            "Received",
            f"{counted(instances, 'instance')}, {sized(bytes_)}",
            f"{counted(instances, 'instance')} in the last hour, at most {grouped(most)} a minute",
            minutes,
            lambda minute: minute.instances,
            lambda minute: f"{counted(minute.instances, 'instance')}, {sized(minute.bytes)}",
        ),
        _chart(
            "Waiting or converting",
            counted(now, "series", "series"),
            f"{counted(now, 'series', 'series')} now, at most {grouped(max(known, default=0))} in the last hour",
            minutes,
            lambda minute: minute.series or 0,
            lambda minute: counted(minute.series, "series", "series"),
        ),
    ]


def _chart(
    title: str,
    figure: str,
    summary: str,
    minutes: Sequence[Minute],
    value: Callable[[Minute], int],
    words: Callable[[Minute], str],
) -> Chart:
    step, most = WIDTH / len(minutes), max(map(value, minutes)) or 1
    bars = []
    for number, minute in enumerate(minutes):
        if height := value(minute) / most * (HEIGHT - 2):
            height = max(height, 1.5)
            ago = len(minutes) - 1 - number
            when = "this minute" if ago == 0 else f"{counted(ago, 'minute')} ago"
            bars.append(
                Bar(round(number * step, 1), round(HEIGHT - height, 1), round(height, 1), f"{when}: {words(minute)}")
            )
    return Chart(title, figure, summary, tuple(bars), round(step - 1, 1))

"""The times of a volume, each as a volume of its own."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from node.volume.describe.emission import FRAME_FACTORS
from node.volume.model import Volume


def times_of(volume: Volume) -> Iterator[Volume]:
    """Yield one volume for each time of `volume`, with a suffix such as ``t01``, in as many digits as needed."""
    digits = len(str(volume.times))
    for time in range(volume.times):
        yield replace(
            volume,
            voxels=volume.voxels[time : time + 1],
            suffix="-".join(filter(None, (volume.suffix, f"t{time + 1:0{digits}}"))),
            sources=tuple(replace(one, time_index=0) for one in volume.sources if one.time_index == time),
            time_step_s=None,
            times_s=() if volume.times_s is None else volume.times_s[time : time + 1],
            durations_s=None if volume.durations_s is None else volume.durations_s[time : time + 1],
            diffusion=None if volume.diffusion is None else volume.diffusion[time : time + 1],
            attributes=_at(volume, time),
        )


def _at(volume: Volume, time: int) -> dict[str, Any]:
    """Return the attributes of one time: of those that vary in time, its own values."""
    attributes = dict(volume.attributes)
    for name, values in attributes.pop("of_each_time", {}).items():
        attributes[name] = values[time]
    for name, _, _ in FRAME_FACTORS:
        if name in attributes:
            attributes[name] = attributes[name][time : time + 1]
    return {name: value for name, value in attributes.items() if value is not None}

"""Find echoes and components of one series that lack slices or times which the others have."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from node.volume.model import Geometry, Kind, Volume
from node.volume.reasons import VolumeWarning, WarningKind

COMPONENTS = frozenset({"ph", "real", "imag", "fieldmap"})
"""Suffixes of volumes that hold a component other than the magnitude."""

WITHOUT_EXCITATION = "norf"
"""Suffix of volumes that were acquired without excitation."""


@dataclass(frozen=True, slots=True)
class Shortage:
    """Stacks that have fewer slices, or times, than others of their series.

    Attributes
    ----------
    stacks : frozenset of int
        The numbers of the stacks that have fewer.
    of_times : bool
        They lack times, not slices.
    detail : str
        The counts of all stacks, as a sentence.
    instances : int
        Number of instances that seem to be missing.
    """

    stacks: frozenset[int]
    of_times: bool
    detail: str
    instances: int


def find_shortages(volumes: Sequence[Volume]) -> Iterator[Shortage]:
    """Yield the shortages of a series: of slices of echoes and components, and of times of echoes.

    Components may have unequal numbers of times: a flow has one magnitude and three phases. If each stack is what one
    instance holds, it was received as a whole.
    """
    alike: dict[tuple[int, ...], list[Volume]] = defaultdict(list)
    for volume in volumes:
        placed = volume.kind is Kind.VOLUME and volume.geometry is not Geometry.NONE
        if placed and has_all_times(volume):
            alike[volume.voxels.shape[2:4]].append(volume)
    for stacks in alike.values():
        if all(len({source.sop_instance_uid for source in volume.sources}) == 1 for volume in stacks):
            continue
        slices = [volume.shape[2] for volume in stacks]
        if len(set(slices)) > 1:
            detail = f"echoes or components have unequal numbers of slices: {_listed(stacks, slices)}"
            missing = max(slices) * len(slices) - sum(slices)
            yield Shortage(_below_most(stacks, slices), False, detail, missing)
        of_component: dict[str, list[Volume]] = defaultdict(list)
        for volume in stacks:
            of_component["-".join(kind for kind in volume.suffix.split("-") if not _is_echo(kind))].append(volume)
        for own in of_component.values():
            times = [volume.times for volume in own]
            if len(set(times)) > 1:
                detail = f"echoes have unequal numbers of times: {_listed(own, times)}"
                missing = sum((max(times) - volume.times) * _instances_of_time(volume) for volume in own)
                yield Shortage(_below_most(own, times), True, detail, missing)


def with_shortages(volumes: Sequence[Volume]) -> tuple[Volume, ...]:
    """Return volumes that warn of their shortages.

    Without some of its times, a volume has no fixed step: nothing says where they were.
    """
    for shortage in list(find_shortages(volumes)):
        warning = VolumeWarning(WarningKind.UNEQUAL_STACKS, shortage.detail)
        volumes = [
            replace(
                volume,
                warnings=(*volume.warnings, warning),
                time_step_s=None if shortage.of_times else volume.time_step_s,
            )
            if volume.stack in shortage.stacks
            else volume
            for volume in volumes
        ]
    return tuple(volumes)


def has_all_times(volume: Volume) -> bool:
    """Return whether a volume should have every time, as echoes and components do: others may divide the times."""
    return all(_is_echo(kind) or kind in COMPONENTS for kind in volume.suffix.split("-") if kind)


def _is_echo(kind: str) -> bool:
    return kind[:1] == "e" and kind[1:].isdigit()


def _below_most(stacks: Sequence[Volume], counts: Sequence[int]) -> frozenset[int]:
    return frozenset(volume.stack for volume, count in zip(stacks, counts, strict=True) if count < max(counts))


def _instances_of_time(volume: Volume) -> int:
    return len({source.sop_instance_uid for source in volume.sources if source.time_index == 0})


def _listed(stacks: Sequence[Volume], counts: Sequence[int]) -> str:
    return ", ".join(f"{volume.suffix or 'magnitude'} {count}" for volume, count in zip(stacks, counts, strict=True))

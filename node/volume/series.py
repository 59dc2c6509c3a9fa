"""What is known of one series while it is being assembled, and the account of its slices.

Every frame of every instance is in a volume, in an exclusion or in a refusal; that is checked before anything is
returned.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from node.errors import VoxelnodeError
from node.volume.arrange.duplicates import is_copy
from node.volume.model import Assembly, Frame, Kind, Volume
from node.volume.reasons import Exclusion, Reason, Refusal, Warn, Warning
from node.volume.volumes import DatasetOf

LeftOut = tuple[Frame, Reason, str]


@dataclass(frozen=True, slots=True)
class Instance:
    """What one data set gave: frames, volumes if it is one by itself, or why neither."""

    order: tuple[float, str]  # does not depend on the order of arrival
    frames: Sequence[Frame] = ()
    volumes: tuple[Volume, ...] = ()
    exclusion: Exclusion | None = None
    concatenation: tuple[str, int, int] | None = None  # its UID, the number of this part, how many there are at least


@dataclass(slots=True)
class Series:
    """One series; `dataset_of` gives the data set of a SOP Instance UID."""

    dataset_of: DatasetOf
    uids: set[str] = field(default_factory=set)
    frames: list[Frame] = field(default_factory=list)
    volumes: list[Volume] = field(default_factory=list)
    refusals: list[Refusal] = field(default_factory=list)
    exclusions: list[Exclusion] = field(default_factory=list)
    concatenations: dict[str, list[tuple[int, int]]] = field(default_factory=lambda: defaultdict(list))
    refused_frames: int = 0
    stacks: int = 0

    def add(self, instance: Instance) -> None:
        """Add what one instance gave."""
        self.frames += instance.frames
        if instance.concatenation is not None:
            uid, *part = instance.concatenation
            self.concatenations[uid].append((part[0], part[1]))
        if instance.exclusion is not None:
            self.exclusions.append(instance.exclusion)
        if instance.volumes:
            self._add_object(instance.volumes)

    def _add_object(self, volumes: Sequence[Volume]) -> None:
        """Add the volumes of an instance that is one by itself, unless it came before under another UID."""
        uid = volumes[0].sources[0].sop_instance_uid
        for first in self.volumes:
            if np.array_equal(first.voxels, volumes[0].voxels) and is_copy(
                self.dataset_of(first.sources[0].sop_instance_uid), self.dataset_of(uid)
            ):
                detail = "the same object as another instance, under a SOP Instance UID of its own"
                self.exclusions.append(Exclusion(uid, 0, Reason.DUPLICATE_SLICE, detail))
                self._tell_of_copy(first.stack)
                return
        self.volumes += [replace(volume, stack=self.stacks) for volume in volumes]
        self.stacks += 1

    def _tell_of_copy(self, stack: int) -> None:
        told = Warning(Warn.DUPLICATE_SLICE, "an instance came again under another SOP Instance UID")
        self.volumes = [
            replace(volume, warnings=(*volume.warnings, told))
            if volume.stack == stack and told not in volume.warnings
            else volume
            for volume in self.volumes
        ]

    def exclude(self, left_out: Sequence[LeftOut]) -> None:
        """Record frames that are in no volume, one exclusion for each instance and reason."""
        counts = Counter((frame.sop_instance_uid, reason, detail) for frame, reason, detail in left_out)
        self.exclusions += [Exclusion(uid, count, reason, detail) for (uid, reason, detail), count in counts.items()]

    def refuse(self, reason: Reason, detail: str, frames: Sequence[Frame]) -> None:
        """Record that a stack gives no volume."""
        uids = tuple(dict.fromkeys(frame.sop_instance_uid for frame in frames))
        self.refusals.append(Refusal(reason, detail, uids, self.stacks))
        self.refused_frames += len(frames)
        self.stacks += 1

    def refuse_all(self) -> None:
        """Turn the exclusions of a series without any volume into refusals, one for each reason."""
        uids: dict[tuple[Reason, str], dict[str, None]] = defaultdict(dict)
        for exclusion in self.exclusions:
            uids[exclusion.reason, exclusion.detail][exclusion.sop_instance_uid] = None
            self.refused_frames += exclusion.frames
        self.exclusions.clear()
        self.refusals += [Refusal(reason, detail, tuple(own)) for (reason, detail), own in uids.items()]

    def told(self) -> tuple[Warning, ...]:
        """Warnings for the volumes of a series of which some instances are in none, or have not come."""
        return (*_told_of_exclusions(self.exclusions), *_told_of_parts(list(self.concatenations.values())))

    def assembly(self) -> Assembly:
        """Return what the series gave, once the account adds up.

        Raises
        ------
        VoxelnodeError
            A frame is nowhere, or twice.
        """
        assembly = Assembly(_with_unique_suffixes(self.volumes), tuple(self.refusals), tuple(self.exclusions))
        lost = assembly.unaccounted(self.uids)
        if lost:
            raise VoxelnodeError(f"{len(lost)} instances are in no volume, exclusion or refusal")
        known = {id(frame) for frame in self.frames}
        uids = {frame.sop_instance_uid for frame in self.frames}
        placed = sum(
            source.sop_instance_uid in uids
            for volume in self.volumes
            if volume.kind is Kind.VOLUME
            for source in volume.sources
        )
        excluded = sum(exclusion.frames for exclusion in self.exclusions)
        if placed + excluded + self.refused_frames != len(known):
            raise VoxelnodeError(
                f"{len(known)} frames, but {placed} in volumes, {excluded} excluded, {self.refused_frames} refused"
            )
        return assembly


def _told_of_exclusions(exclusions: Sequence[Exclusion]) -> tuple[Warning, ...]:
    """Warnings for the volumes of a series of which some instances are in none."""
    reasons = Counter(exclusion.reason for exclusion in exclusions)
    no_images = reasons.pop(Reason.NOT_AN_IMAGE, 0)
    twins = reasons.pop(Reason.SAME_POSITION_TWICE, 0)
    reasons.pop(Reason.DUPLICATE_SLICE, 0)  # told on the volume of which they are copies
    unread = sum(reasons.values())
    warnings = []
    if twins:
        warnings.append(Warning(Warn.SAME_POSITION_TWICE, f"{twins} instances came again with other pixels"))
    if no_images:
        warnings.append(Warning(Warn.PARTLY_NOT_AN_IMAGE, f"{no_images} instances of the series are no images"))
    if unread:
        warnings.append(Warning(Warn.INCOMPLETE_VOLUME, f"{unread} instances of the series are in no volume"))
    return tuple(warnings)


def _told_of_parts(concatenations: Sequence[Sequence[tuple[int, int]]]) -> tuple[Warning, ...]:
    """A warning where parts of concatenations have not come."""
    missing = sum(max(total for _, total in parts) - len({part for part, _ in parts}) for parts in concatenations)
    detail = f"{missing} instances of a concatenation (0020,9161) are missing"
    return (Warning(Warn.INCOMPLETE_VOLUME, detail),) if missing > 0 else ()


def _with_unique_suffixes(volumes: Sequence[Volume]) -> tuple[Volume, ...]:
    """Volumes of which no two stacks share a suffix."""
    stacks: dict[str, set[int]] = defaultdict(set)
    for volume in volumes:
        stacks[volume.suffix].add(volume.stack)
    return tuple(
        volume
        if len(stacks[volume.suffix]) == 1
        else replace(volume, suffix="-".join(filter(None, (volume.suffix, f"s{volume.stack + 1}"))))
        for volume in volumes
    )

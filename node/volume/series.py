"""A series during assembly, and the accounting of its frames.

Every frame of every instance is in a volume, in an exclusion or in a refusal. `SeriesUnderAssembly.assembly` checks
that before it returns anything. Echoes and components that lack slices or times which the others have are warned of.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from math import isfinite

import numpy as np

from node.errors import VoxelnodeError, counted
from node.volume.arrange.duplicates import COPY_DETAIL, is_copy
from node.volume.model import Assembly, Frame, Geometry, Volume, VolumeKind, grouped
from node.volume.reasons import Exclusion, Reason, Refusal, VolumeWarning, WarningKind
from node.volume.volumes import DatasetOf

ExcludedFrame = tuple[Frame, Reason, str]

WITHOUT_PIXELS = (Reason.NOT_AN_IMAGE, Reason.SURFACES)
"""Reasons of exclusions of instances that could not have been a slice."""

COPIES = frozenset((Reason.DUPLICATE_SLICE, Reason.SAME_POSITION_TWICE))
"""Reasons of exclusions that take no slice away: another frame has its place."""

COMPONENTS = frozenset({"ph", "real", "imag", "fieldmap"})
"""Suffixes of volumes that hold a component other than the magnitude."""

MAX_LACKING = 1 / 2
"""Largest share of its slices, or of the field of view, by which a part leaves a larger one of the same plan."""

MAX_MOVED = 1 / 2
"""Smallest distance within the planes, in pixels, at which parts of a stack are planned."""

SAME_GRID = 0.05
"""Largest deviation, in voxels, of the planes of two parts that share their positions."""

WITHOUT_EXCITATION = "norf"
"""Suffix of volumes that were acquired without excitation."""


@dataclass(frozen=True, slots=True)
class SourceInstance:
    """The content of one data set: its frames, its volumes if it is a volume by itself, or the reason for neither."""

    order: tuple[float, str]  # sort key that does not depend on the order of reception
    frames: Sequence[Frame] = ()
    volumes: tuple[Volume, ...] = ()
    exclusion: Exclusion | None = None
    concatenation: tuple[str, int, int] | None = None  # its UID, the number of this part, the least number of parts


@dataclass(slots=True)
class SeriesUnderAssembly:
    """A series during assembly; `dataset_of` returns the data set of a SOP Instance UID."""

    dataset_of: DatasetOf
    repair: bool = True
    uids: set[str] = field(default_factory=set)
    numbers: set[int] = field(default_factory=set)  # Instance Numbers of the instances that are not lost to damage
    frames: list[Frame] = field(default_factory=list)
    volumes: list[Volume] = field(default_factory=list)
    refusals: list[Refusal] = field(default_factory=list)
    exclusions: list[Exclusion] = field(default_factory=list)
    concatenations: dict[str, list[tuple[int, int]]] = field(default_factory=lambda: defaultdict(list))
    versions: int = 0  # data sets under the UID of another one, with another content
    unusable: int = 0  # those of them that have no pixels, or pixels that cannot be decoded
    refused_frames: int = 0
    stacks: int = 0

    def add(self, instance: SourceInstance) -> None:
        """Add the content of one instance."""
        self.frames += instance.frames
        damaged = instance.exclusion is not None and instance.exclusion.reason not in WITHOUT_PIXELS
        if isfinite(instance.order[0]) and not damaged:
            self.numbers.add(int(instance.order[0]))
        if instance.concatenation is not None:
            uid, *part = instance.concatenation
            self.concatenations[uid].append((part[0], part[1]))
        if instance.exclusion is not None:
            self.exclusions.append(instance.exclusion)
        if instance.volumes:
            self._add_object(instance.volumes)

    def _add_object(self, volumes: Sequence[Volume]) -> None:
        """Add the volumes of an instance that is a volume by itself, unless it is a copy under another UID."""
        uid = volumes[0].sources[0].sop_instance_uid
        for first in self.volumes:
            if np.array_equal(first.voxels, volumes[0].voxels) and is_copy(
                self.dataset_of(first.sources[0].sop_instance_uid), self.dataset_of(uid)
            ):
                self.exclusions.append(Exclusion(uid, 0, Reason.DUPLICATE_SLICE, COPY_DETAIL))
                self._warn_of_copy(first.stack)
                return
        self.volumes += [replace(volume, stack=self.stacks) for volume in volumes]
        self.stacks += 1

    def _warn_of_copy(self, stack: int) -> None:
        warning = VolumeWarning(
            WarningKind.DUPLICATE_SLICE, "a copy of an instance under another SOP Instance UID (0008,0018) was left out"
        )
        self.volumes = [
            replace(volume, warnings=(*volume.warnings, warning))
            if volume.stack == stack and warning not in volume.warnings
            else volume
            for volume in self.volumes
        ]

    def exclude(self, left_out: Sequence[ExcludedFrame]) -> None:
        """Record frames that are in no volume: one exclusion per instance and reason."""
        self.numbers -= {
            frame.instance_number
            for frame, reason, _ in left_out
            if reason not in COPIES and frame.instance_number is not None
        }
        counts = Counter((frame.sop_instance_uid, reason, detail) for frame, reason, detail in left_out)
        self.exclusions += [Exclusion(uid, count, reason, detail) for (uid, reason, detail), count in counts.items()]

    def refuse(self, reason: Reason, detail: str, frames: Sequence[Frame]) -> None:
        """Record that a stack has no volume."""
        uids = tuple(dict.fromkeys(frame.sop_instance_uid for frame in frames))
        self.refusals.append(Refusal(reason, detail, uids, self.stacks))
        self.refused_frames += len(frames)
        self.stacks += 1

    def refuse_all(self) -> None:
        """Turn the exclusions of a series without any volume into refusals, one per reason."""
        self.refused_frames += sum(exclusion.frames for exclusion in self.exclusions)
        self.refusals += as_refusals(self.exclusions)
        self.exclusions.clear()

    def warnings(self) -> tuple[VolumeWarning, ...]:
        """Return warnings about instances that are in no volume or were not received."""
        return (*exclusion_warnings(self.exclusions), *_concatenation_warnings(list(self.concatenations.values())))

    def assembly(self) -> Assembly:
        """Return the volumes, refusals and exclusions of the series, after checking that every frame is accounted for.

        Raises VoxelnodeError if a frame is lost or duplicated.
        """
        assembly = Assembly(
            with_moved_parts(with_shortages(_with_unique_suffixes(self.volumes))),
            tuple(self.refusals),
            tuple(self.exclusions),
            self.versions,
            self.unusable,
        )
        lost = assembly.unaccounted(self.uids)
        if lost:
            raise VoxelnodeError(f"{len(lost)} instances are in no volume, exclusion or refusal")
        known = {id(frame) for frame in self.frames}
        uids = {frame.sop_instance_uid for frame in self.frames}
        placed = sum(
            source.sop_instance_uid in uids
            for volume in self.volumes
            if volume.kind is VolumeKind.VOLUME
            for source in volume.sources
        )
        excluded = sum(exclusion.frames for exclusion in self.exclusions)
        if placed + excluded + self.refused_frames != len(known):
            raise VoxelnodeError(
                f"{len(known)} frames, but {placed} in volumes, {excluded} excluded, {self.refused_frames} refused"
            )
        return assembly


def as_refusals(exclusions: Iterable[Exclusion]) -> list[Refusal]:
    """Return the exclusions of a series without any volume as refusals, one per reason."""
    uids: dict[tuple[Reason, str], dict[str, None]] = defaultdict(dict)
    for exclusion in exclusions:
        uids[exclusion.reason, exclusion.detail][exclusion.sop_instance_uid] = None
    return [Refusal(reason, detail, tuple(own)) for (reason, detail), own in uids.items()]


def exclusion_warnings(exclusions: Sequence[Exclusion]) -> tuple[VolumeWarning, ...]:
    """Return warnings about instances that are in no volume."""
    files = sum(exclusion.file is not None for exclusion in exclusions)
    reasons = Counter(exclusion.reason for exclusion in exclusions if exclusion.file is None)
    no_images = sum(reasons.pop(reason, 0) for reason in WITHOUT_PIXELS)
    reasons.pop(Reason.DUPLICATE_SLICE, 0)  # the volume that they copy has a warning of its own
    unread = sum(reasons.values())
    warnings = []
    if files:
        detail = counted(files, "file was", "files were")
        detail += " left out: with the SOP Instance UID of another one, and not its content"
        warnings.append(VolumeWarning(WarningKind.SAME_POSITION_TWICE, detail))
    if no_images:
        detail = counted(no_images, "instance of the series is no image", "instances of the series are no images")
        warnings.append(VolumeWarning(WarningKind.PARTLY_NOT_AN_IMAGE, detail))
    if unread:
        detail = counted(unread, "instance of the series is", "instances of the series are")
        detail += " in no volume; see the exclusions of the series"
        warnings.append(VolumeWarning(WarningKind.INCOMPLETE_VOLUME, detail))
    return tuple(warnings)


def _concatenation_warnings(concatenations: Sequence[Sequence[tuple[int, int]]]) -> tuple[VolumeWarning, ...]:
    """Return a warning if parts of concatenations were not received."""
    missing = sum(max(total for _, total in parts) - len({part for part, _ in parts}) for parts in concatenations)
    detail = f"a concatenation (Concatenation UID (0020,9161)) lacks {counted(missing, 'instance')}: send the rest"
    return (VolumeWarning(WarningKind.INCOMPLETE_VOLUME, detail),) if missing > 0 else ()


def _with_unique_suffixes(volumes: Sequence[Volume]) -> tuple[Volume, ...]:
    """Return the volumes with suffixes such that no two stacks share one."""
    stacks: dict[str, set[int]] = defaultdict(set)
    for volume in volumes:
        stacks[volume.suffix].add(volume.stack)
    return tuple(
        volume
        if len(stacks[volume.suffix]) == 1
        else replace(volume, suffix="-".join(filter(None, (volume.suffix, f"s{volume.stack + 1}"))))
        for volume in volumes
    )


@dataclass(frozen=True, slots=True)
class Shortage:
    """Stacks that have fewer slices, or times, than others of their series.

    `stacks`: the numbers of the stacks that have fewer.
    `of_times`: they lack times, not slices.
    `detail`: the counts of all stacks, as a sentence.
    `instances`: number of instances that seem to be missing.
    `is_doubtful`: they may have been planned so: they are acquisitions or variants of one stack, not its echoes.
    """

    stacks: frozenset[int]
    of_times: bool
    detail: str
    instances: int
    is_doubtful: bool = False


def find_shortages(volumes: Sequence[Volume]) -> Iterator[Shortage]:
    """Yield the shortages of a series: of slices of echoes and components, and of times of echoes.

    Components may have unequal numbers of times: a flow has one magnitude and three phases. If each stack is what one
    instance holds, it was received as a whole.
    """
    placed = [one for one in volumes if one.kind is VolumeKind.VOLUME and one.geometry is not Geometry.NONE]
    alike = grouped([one for one in placed if has_all_times(one)], lambda one: one.voxels.shape[2:4])
    for stacks in alike.values():
        if all(len({source.sop_instance_uid for source in volume.sources}) == 1 for volume in stacks):
            continue
        slices = [volume.shape[2] for volume in stacks]
        if len(set(slices)) > 1:
            detail = f"echoes or components have unequal numbers of slices: {_listed(stacks, slices)}"
            missing = max(slices) * len(slices) - sum(slices)
            yield Shortage(_below_most(stacks, slices), False, detail, missing)
        components = grouped(stacks, lambda one: tuple(kind for kind in one.suffix.split("-") if not _is_echo(kind)))
        for own in components.values():
            times = [volume.times for volume in own]
            if len(set(times)) > 1:
                detail = f"echoes have unequal numbers of times: {_listed(own, times)}"
                missing = sum((max(times) - volume.times) * _instances_of_time(volume) for volume in own)
                yield Shortage(_below_most(own, times), True, detail, missing)
    yield from _short_parts(volumes)


def _short_parts(volumes: Sequence[Volume]) -> Iterator[Shortage]:
    """Yield the parts of a divided stack that lack slices, or phases, that others have at the same positions.

    Acquisitions, variants and inversion times divide a stack.
    """
    parts: dict[tuple[object, ...], list[Volume]] = defaultdict(list)
    for volume in volumes:
        kinds = volume.suffix.split("-")
        names = [kind for kind in kinds if not kind.removeprefix("ti").isdigit()]
        if volume.kind is VolumeKind.VOLUME and volume.affine_lps is not None and len(names) < len(kinds):
            parts[(*names, *volume.voxels.shape[2:4])].append(volume)
    for own in parts.values():
        slices = [volume.shape[2] for volume in own]
        largest = [volume for volume in own if volume.shape[2] == max(slices)]
        ranges = {
            volume.stack: within
            for volume in own
            if (within := next(filter(None, (_range_within(volume, other) for other in largest)), None))
        }
        whole = range(min(within.start for within in ranges.values()), max(within.stop for within in ranges.values()))
        short = {stack: len(whole) - len(within) for stack, within in ranges.items() if within != whole}
        if short:
            detail = f"parts of one stack lack slices that others have at the same positions: {_listed(own, slices)}"
            yield Shortage(frozenset(short), False, detail, sum(short.values()), is_doubtful=True)
        phased = [volume for volume in own if "TriggerTime" in volume.attributes.get("of_each_time", {})]
        phases = [volume.times for volume in phased]
        if len(set(phases)) > 1:
            detail = f"parts of one stack have unequal numbers of cardiac phases: {_listed(phased, phases)}"
            missing = sum((max(phases) - volume.times) * _instances_of_time(volume) for volume in phased)
            yield Shortage(_below_most(phased, phases), True, detail, missing, is_doubtful=True)


def _range_within(volume: Volume, largest: Volume) -> range | None:
    """Return the slices of the largest part where those of a part lie; None if they lie elsewhere, or share too few.

    A part that lies beside the largest one within the planes has its slices too. However few slices it has, they are
    enough: a scan may have been stopped early. A part that leaves the largest one shares most of its own; one slice is
    enough in a diffusion series, where each is weighted in all ways, and if it lies too close to be planned apart.
    """
    if volume.affine_lps is None or largest.affine_lps is None:
        return None
    offset = np.linalg.solve(largest.affine_lps, volume.affine_lps)
    column, row, first = offset[:3, 3]
    is_same_grid = np.abs(offset[:3, :3] - np.eye(3)).max() < SAME_GRID and abs(first - round(first)) < SAME_GRID
    within = range(round(first), round(first) + volume.shape[2])
    shared = min(within.stop, largest.shape[2]) - max(within.start, 0)
    is_over_it = max(abs(column) / volume.shape[0], abs(row) / volume.shape[1]) < MAX_LACKING
    is_moved = SAME_GRID < max(abs(column), abs(row)) < MAX_MOVED
    is_weighted = volume.diffusion is not None or largest.diffusion is not None
    least = 1 if is_moved or is_weighted else MAX_LACKING * volume.shape[2]
    return within if is_same_grid and is_over_it and shared >= least else None


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


def with_moved_parts(volumes: Sequence[Volume]) -> tuple[Volume, ...]:
    """Return volumes that warn of others that may be further times of them, as of a patient who moved far."""
    alike = grouped([volume for volume in volumes if volume.kind is VolumeKind.VOLUME], _kind_and_shape)
    moved = {volume.stack: other for own in alike.values() for volume in own if (other := _moved(volume, own))}
    return tuple(
        replace(volume, warnings=(*volume.warnings, moved[volume.stack])) if volume.stack in moved else volume
        for volume in volumes
    )


def _kind_and_shape(volume: Volume) -> tuple[object, ...]:
    kinds = tuple(kind for kind in volume.suffix.split("-") if not kind.removeprefix("s").isdigit())
    return kinds, *volume.voxels.shape[1:4]


def _moved(volume: Volume, others: Sequence[Volume]) -> VolumeWarning | None:
    """Return a warning if equal stacks overlap with a volume at other places."""
    distances_mm = []
    for other in others:
        if volume.affine_lps is None or other.affine_lps is None:
            continue
        offset = np.linalg.solve(volume.affine_lps, other.affine_lps)
        steps = np.abs(offset[:3, 3])
        is_over_it = (steps / volume.shape[:3]).max() < MAX_LACKING
        if np.abs(offset[:3, :3] - np.eye(3)).max() < SAME_GRID and is_over_it and steps.max() > SAME_GRID:
            distances_mm.append(float(np.linalg.norm(steps * volume.spacing_mm)))
    if not distances_mm:
        return None
    detail = (
        f"{len(distances_mm)} other volumes of the series have as many slices and overlap with this one, up to "
        f"{max(distances_mm):.2f} mm away: they may be times of one volume that moves too far to be put together, "
        "unless they were planned so"
    )
    return VolumeWarning(WarningKind.SEVERAL_POSITIONS, detail)


def has_all_times(volume: Volume) -> bool:
    """Return whether a volume should have every time, as echoes and components do: others may divide the times."""
    return all(_is_echo(kind) or kind in COMPONENTS for kind in volume.suffix.split("-") if kind)


def _is_echo(kind: str) -> bool:
    return kind[:1] in ("e", "c") and kind[1:].isdigit()  # a coil element receives what the others do


def _below_most(stacks: Sequence[Volume], counts: Sequence[int]) -> frozenset[int]:
    return frozenset(volume.stack for volume, count in zip(stacks, counts, strict=True) if count < max(counts))


def _instances_of_time(volume: Volume) -> int:
    return len({source.sop_instance_uid for source in volume.sources if source.time_index == 0})


def _listed(stacks: Sequence[Volume], counts: Sequence[int]) -> str:
    return ", ".join(f"{volume.suffix or 'magnitude'} {count}" for volume, count in zip(stacks, counts, strict=True))

"""Evidence in the instances and volumes of a series that some instances were not received.

The geometry of the rest often looks whole: an even stack without every second slice, a time series without one time.
Instance Numbers, stated distances and announced counts then show the loss. Each finding is one fact and the missing
instances; `node.completeness` weighs them.
"""

from collections import defaultdict
from collections.abc import Hashable, Iterator, Mapping, Sequence

import numpy as np

from node.completeness import Evidence
from node.conversion.grids import DISTANCE_TOLERANCE, MAX_SHOWN, Grid, InstanceHeader, holes_in, originals_of
from node.dicom.counts import IMAGES_IN_ACQUISITION, IMAGES_OF_ALL_TIMES, SLICES, SLICES_OF_ALL_TIMES
from node.errors import counted
from node.volume.geometry import NOISE_SHARE, POSITION_TOLERANCE_MM, ROUNDING, is_even, missing_slices, position_numbers
from node.volume.model import Assembly, Geometry, Volume, VolumeKind
from node.volume.reasons import Reason, WarningKind
from node.volume.series import WITHOUT_EXCITATION, WITHOUT_PIXELS, find_shortages, has_all_times

TEMPORAL_POSITIONS = "Number of Temporal Positions (0020,0105)"

CROWDED = 0.2
"""Planes that lie closer than this share of their thickness may be of several times; overlapping slices rarely do. Nor
is a whole stack of several that thin."""

MIN_CROWDED = 1 / 3
"""Least share of crowded distances in a stack: two times make more than half."""

IMPLAUSIBLE = 0.05
"""No slices are planned closer than this share of their thickness, not even those of slabs."""

MOVED_SHARE = 0.5
"""Equal volumes closer than this share of the distance between slices were not planned apart."""

GAPS: dict[str, str] = {
    WarningKind.MISSING_SLICE: "slices between others",
    WarningKind.INCOMPLETE_VOLUME: "parts of a volume",
    WarningKind.MISSING_TIME: "times",
    Reason.INCOMPLETE: "parts of a volume",
}
"""Warnings and refusals that show a gap, and the missing objects."""


def find_evidence(headers: Mapping[str, InstanceHeader], assembly: Assembly) -> list[Evidence]:
    """Return the facts that speak against completeness, the strongest first.

    `headers`: all readable instances of the series. `assembly`: its volumes.
    """
    grids = [
        Grid(volume, headers) for volume in assembly.volumes if volume.kind is VolumeKind.VOLUME and volume.sources
    ]
    refused = any(refusal.reason in (Reason.INCOMPLETE, Reason.SAME_POSITION_TWICE) for refusal in assembly.refusals)
    in_numbers = list(holes_in(without_far_reports(headers, assembly), grids, refused=refused))
    return [
        *_gaps(assembly, grids, headers, numbered=bool(in_numbers)),
        *in_numbers,
        *_unequal_stacks(assembly.volumes),
        *_announced_times(grids),
        *_declared_grid(headers, grids),
        *_counts_that_do_not_fit(headers, grids),
        *_declared_directions(grids),
        *_crossed_echoes(grids),
        *_missing_echoes(grids),
        *_wide_spacing(grids),
        *_crowded(grids),
        *_moved_parts(grids),
        *_other_versions(assembly),
        *_left_beside(assembly, headers),
    ]


def without_far_reports(headers: Mapping[str, InstanceHeader], assembly: Assembly) -> Mapping[str, InstanceHeader]:
    """Return the headers without those of reports and the like whose numbers are outside the range of the images.

    Some senders number a report 99, however many images there are. A report between two images fills its number.
    """
    images = {source.sop_instance_uid for volume in assembly.volumes for source in volume.sources}
    images.update(one.sop_instance_uid for one in assembly.exclusions if one.reason not in WITHOUT_PIXELS)
    for refusal in assembly.refusals:
        images.update(refusal.sop_instance_uids if refusal.reason not in WITHOUT_PIXELS else ())
    numbers = [own.counts.instance_number for uid, own in headers.items() if uid in images]
    known = [number for number in numbers if number is not None]
    if not known:
        return headers
    first, last = min(known), max(known)
    return {
        uid: own for uid, own in headers.items() if uid in images or first <= (own.counts.instance_number or 0) <= last
    }


def _other_versions(assembly: Assembly) -> Iterator[Evidence]:
    """Yield a finding if files have the SOP Instance UIDs of others, and not their content, or none that can be used.

    What cannot be used may have been another content, unless it was cut: then the whole file is what was meant.
    """
    cut = sum(one.file is not None and one.reason is Reason.CUT for one in assembly.exclusions)
    facts = {
        "but not the same content": assembly.versions - assembly.unusable,
        "but no pixels that can be used": assembly.unusable - cut,
    }
    for fact, count in facts.items():
        if count:
            files = counted(count, "file has", "files have")
            other = "the SOP Instance UID of another" if count == 1 else "the SOP Instance UIDs of others"
            yield Evidence("versions", f"{files} {other}, {fact}", "", doubtful=True)


def _left_beside(assembly: Assembly, headers: Mapping[str, InstanceHeader]) -> Iterator[Evidence]:
    """Yield a finding if frames that are no copies were left out at the positions of others: a time may begin there.

    So it may if a series is refused because of them, and only some of its positions have several.
    """
    frames = sum(one.frames for one in assembly.exclusions if one.reason is Reason.SAME_POSITION_TWICE)
    if frames:
        fact = f"{counted(frames, 'frame was', 'frames were')} left out at positions of others, without being copies"
        yield Evidence("geometry", f"{fact}: another time may lack its other slices", "", doubtful=True)
    for refusal in assembly.refusals:
        if refusal.reason is Reason.SAME_POSITION_TWICE and refusal.stack is not None:
            yield from _at_some_positions([headers[uid] for uid in refusal.sop_instance_uids if uid in headers])


def _at_some_positions(stack: Sequence[InstanceHeader]) -> Iterator[Evidence]:
    """Yield a finding if some positions of a refused stack have more instances than others."""
    positions = np.array([own.position for own in stack if own.position is not None], float)
    if not len(positions):
        return
    offsets = positions - positions[0]
    lengths = np.linalg.norm(offsets, axis=1)
    distances = offsets @ offsets[lengths.argmax()] / max(lengths.max(), POSITION_TOLERANCE_MM)
    counts = np.bincount(position_numbers(distances, POSITION_TOLERANCE_MM))
    more = int((counts > counts.min()).sum())
    if more:
        fact = f"{more} of {len(counts)} positions have more instances than the others"
        yield Evidence("geometry", f"{fact}: another time may lack its other slices", "", doubtful=True)


# Gaps in space and time


def _gaps(
    assembly: Assembly, grids: Sequence[Grid], headers: Mapping[str, InstanceHeader], *, numbered: bool
) -> Iterator[Evidence]:
    """Yield the gaps that the volumes warn of, each kind once."""
    facts: dict[str, dict[str, None]] = defaultdict(dict)
    for volume in assembly.volumes:
        for warning in volume.warnings:
            if warning.name in GAPS:
                facts[warning.name][warning.detail] = None
    for refusal in assembly.refusals:
        if refusal.reason in GAPS:
            facts[refusal.reason][refusal.detail] = None
    only_clock = facts.keys() == {WarningKind.MISSING_TIME} and not numbered and _count_without_hole(headers)
    for name, details in facts.items():
        fact, missing, count = f"{name}: {'; '.join(details)}", GAPS[name], None
        if name == WarningKind.MISSING_SLICE:
            missing, count = _missing_positions(grids)
        if name == WarningKind.MISSING_TIME:
            missing += ": " + "; ".join(detail.partition(": ")[2] for detail in details)
            fact += "; but Instance Numbers have no hole" if only_clock else ""
            yield Evidence("times", fact, missing, count, doubtful=only_clock)
        else:
            yield Evidence("geometry", fact, missing, count)


def _missing_positions(grids: Sequence[Grid]) -> tuple[str, int | None]:
    """Return where slices are missing between others, in words, and how many instances that makes; None if unknown."""
    words, count = [], 0
    for grid in grids:
        along = grid.along()
        found = None if along is None else missing_slices(along, noise_share=NOISE_SHARE)
        if along is None or found is None:
            continue
        step_mm, missing = found
        count += int(missing.sum()) * len(grid.times)
        places = [
            along[index] + step_mm * (rank + 1) for index in np.flatnonzero(missing) for rank in range(missing[index])
        ]
        shown = ", ".join(f"{place:.4g}" for place in places[:MAX_SHOWN]) + (", ..." if len(places) > MAX_SHOWN else "")
        words.append(f"slices {shown} mm from the first{f' of {grid.volume.suffix}' if grid.volume.suffix else ''}")
    return "; ".join(words) or GAPS[WarningKind.MISSING_SLICE], count or None


def _count_without_hole(headers: Mapping[str, InstanceHeader]) -> bool:
    """Return whether Instance Numbers count the instances one by one."""
    numbers = {header.counts.instance_number for header in headers.values()}
    known = [number for number in numbers if number is not None]
    return len(known) == len(headers) > 0 and max(known) - min(known) + 1 == len(known)


# Stacks of one series


def _unequal_stacks(volumes: Sequence[Volume]) -> Iterator[Evidence]:
    """Yield a finding if echoes or components of one stack have unequal numbers of slices, or echoes of times."""
    for shortage in find_shortages(volumes):
        if shortage.is_doubtful:
            yield Evidence("geometry", shortage.detail, "slices of a part", shortage.instances, doubtful=True)
        elif shortage.of_times:
            yield Evidence("times", shortage.detail, "times of an echo", shortage.instances)
        else:
            yield Evidence("geometry", shortage.detail, "slices of an echo or component", shortage.instances)


def _announced_times(grids: Sequence[Grid]) -> Iterator[Evidence]:
    """Yield a finding if volumes have fewer times than Number of Temporal Positions (0020,0105) announces, or more.

    Times may be announced of one phase, or of one label, so that there may be a multiple of them.
    """
    originals = originals_of(grids)
    divided = any(WITHOUT_EXCITATION in grid.volume.suffix.split("-") for grid in originals)
    for grid in originals:
        announced = grid.first.counts.number_of_temporal_positions or 0 if grid.first is not None else 0
        whole = has_all_times(grid.volume) and not divided
        times = grid.volume.times if whole else sum(other.volume.times for other in originals)
        if times < announced:
            fact = f"{times} of {announced} times that {TEMPORAL_POSITIONS} announces"
            yield Evidence("headers", fact, f"{announced - times} times", (announced - times) * grid.of_time)
            return
        fact = ""
        if announced > 1 and times % announced and grid.volume.diffusion is None:
            fact = f"{times} times, but {TEMPORAL_POSITIONS} announces {announced}"
        elif grid.volume.times < announced == times and _are_apart(originals):
            fact = (
                f"{len(originals)} volumes at several positions, but {TEMPORAL_POSITIONS} announces {announced} times"
            )
        if fact:
            yield Evidence("headers", fact, "", doubtful=True)
            return


def _are_apart(grids: Sequence[Grid]) -> bool:
    """Return whether volumes lie at different positions: they do not divide the times of one."""
    corners = [grid.volume.affine_lps[:3, 3] for grid in grids if grid.volume.affine_lps is not None]
    return bool(corners) and float(np.ptp(corners, axis=0).max()) > POSITION_TOLERANCE_MM


def _declared_grid(headers: Mapping[str, InstanceHeader], grids: Sequence[Grid]) -> Iterator[Evidence]:
    """Yield a finding if as many instances were received as times and slices are declared, but volumes have others.

    The counts of instances then agree, and yet slices of several times may be one stack, or times several volumes.
    Volumes at one position may divide the times: of several inversion times, flip angles and the like.
    """
    originals = originals_of(grids)
    declared = _declared_times_and_slices(headers, {grid.volume.modality for grid in originals})
    if declared is None or not originals:
        return
    times, slices, source = declared
    written = [(grid.volume.times, grid.volume.shape[2]) for grid in originals]
    divided = not _are_apart(originals) and sum(own for own, _ in written) == times
    if any(own_slices != slices for _, own_slices in written) or not (
        divided or all(own_times == times for own_times, _ in written)
    ):
        shown = ", ".join(f"{own_times} x {own_slices}" for own_times, own_slices in written[:MAX_SHOWN])
        fact = f"volumes of {shown} times and slices, but {source} declare {times} x {slices}"
        yield Evidence("headers", fact, "", doubtful=True)


def _declared_times_and_slices(
    headers: Mapping[str, InstanceHeader], modalities: set[str]
) -> tuple[int, int, str] | None:
    """Return the numbers of times and slices that all instances declare, and the names of these counts.

    None if they declare none, or another number of instances than there are. Some senders put all times into Images in
    Acquisition; in other modalities than PET, some put other counts into Number of Slices (0054,0081).
    """
    declared = {
        (own.images_in_acquisition, own.number_of_temporal_positions, own.number_of_slices, own.number_of_time_slices)
        for own in (header.counts for header in headers.values())
    }
    if len(declared) != 1 or any((header.counts.number_of_frames or 1) > 1 for header in headers.values()):
        return None
    [(images, positions, slices, time_slices)] = declared
    if modalities == {"PT"} and slices and slices * (time_slices or 1) == len(headers):
        return time_slices or 1, slices, SLICES_OF_ALL_TIMES if time_slices else SLICES
    if images and positions and positions > 1:
        of_time = images // positions if images == len(headers) and images % positions == 0 else images
        if of_time > 1 and of_time * positions == len(headers):
            return positions, of_time, IMAGES_OF_ALL_TIMES
    return None


def _counts_that_do_not_fit(headers: Mapping[str, InstanceHeader], grids: Sequence[Grid]) -> Iterator[Evidence]:
    """Yield a finding if all instances declare numbers of slices or times that volumes, or all of them, do not have.

    Fewer instances than declared are a finding of their own (`node.completeness`).
    """
    originals, received = originals_of(grids), len(headers)
    counts = [header.counts for header in headers.values()]
    declared = {(own.images_in_acquisition, own.number_of_slices, own.number_of_time_slices) for own in counts}
    if len(declared) != 1 or not originals or any((own.number_of_frames or 1) > 1 for own in counts):
        return
    [(images, slices, times)] = declared
    fact = ""
    if any(grid.volume.modality != "PT" for grid in originals):
        if images and 1 < images < received and received % images:
            fact = f"{received} instances are no multiple of {images}, which {IMAGES_IN_ACQUISITION} declares"
    elif slices and received > slices * (times or 1) and any(grid.volume.shape[2] != slices for grid in originals):
        fact = f"volumes of {originals[0].volume.shape[2]} slices, but {SLICES} declares {slices}"
    elif times and not slices and sum(grid.volume.times for grid in originals) != times:
        fact = f"Number of Time Slices (0054,0101) declares {times} times, which the volumes do not have"
    if fact:
        yield Evidence("headers", fact, "", doubtful=True)


def _declared_directions(grids: Sequence[Grid]) -> Iterator[Evidence]:
    """Yield a finding if fewer weighted images have a direction than the protocol of GE declares."""
    for grid in originals_of(grids):
        declared = int(grid.volume.attributes.get("NumberOfDiffusionDirectionGE", 0))
        directed = [
            entry for entry in grid.volume.diffusion or () if entry.direction_lps is not None and not entry.derived
        ]
        if 0 < len(directed) < declared and has_all_times(grid.volume):
            fact = f"{len(directed)} of {declared} diffusion directions that (0019,xxE0) declares"
            yield Evidence("headers", fact, f"{declared - len(directed)} directions", doubtful=True)
            return


def _crossed_echoes(grids: Sequence[Grid]) -> Iterator[Evidence]:
    """Yield a finding if each of several Echo Numbers has all of several Echo Times: one of the two is false."""
    stated = [(grid.volume.attributes.get("EchoNumber"), grid.volume.attributes.get("EchoTime")) for grid in grids]
    echoes = {echo for echo in stated if None not in echo}
    numbers, times = ({echo[part] for echo in echoes} for part in (0, 1))
    if min(len(numbers), len(times)) > 1 and len(echoes) == len(numbers) * len(times):
        fact = f"each of {len(numbers)} Echo Numbers (0018,0086) has all of {len(times)} Echo Times (0018,0081)"
        yield Evidence("headers", fact, "", doubtful=True)


def _missing_echoes(grids: Sequence[Grid]) -> Iterator[Evidence]:
    """Yield a finding if Echo Numbers (0018,0086) of several echoes have a hole; one alone may be a whole series."""
    echoes = {int(grid.volume.attributes.get("EchoNumber") or 0) for grid in originals_of(grids)}
    missing = sorted({*range(1, max(echoes, default=0))} - echoes)
    if missing and len(echoes) > 1 and 0 not in echoes:
        shown = f"Echo Number{'s' * (len(missing) > 1)} (0018,0086) {', '.join(map(str, missing[:MAX_SHOWN]))}"
        yield Evidence("headers", f"no image has {shown}", f"echoes: {shown}", doubtful=True)


def _wide_spacing(grids: Sequence[Grid]) -> Iterator[Evidence]:
    """Yield a finding if slices lie a whole number of stated distances apart.

    Spacing Between Slices (0018,0088) below the thickness may be a gap, derived images keep that of their source, and
    a localizer may state it for one of its orientations.
    """
    for grid in grids:
        header = grid.first
        oriented = any(warning.name is WarningKind.SEVERAL_ORIENTATIONS for warning in grid.volume.warnings)
        slices = grid.volume.shape[2]
        if header is None or not grid.placed or slices < 2 or header.is_derived or oriented:
            continue
        spacing, thickness = grid.stated_mm("SpacingBetweenSlices"), grid.stated_mm("SliceThickness")
        if not spacing or (thickness and spacing < thickness * (1 - DISTANCE_TOLERANCE)):
            continue
        ratio = grid.step_mm / spacing
        if round(ratio) >= 2 and abs(ratio - round(ratio)) <= DISTANCE_TOLERANCE * ratio:
            fact = f"slices lie {grid.step_mm:.4g} mm apart, but Spacing Between Slices (0018,0088) is {spacing:.4g} mm"
            count = (round(ratio) - 1) * (slices - 1) * len(grid.times) if grid.of_time == slices else None
            yield Evidence("spacing", fact, f"{round(ratio) - 1} of {round(ratio)} slices", count, doubtful=True)
            return


def _crowded(grids: Sequence[Grid]) -> Iterator[Evidence]:
    """Yield a finding if planes lie so close that several times may have become one stack.

    So they are if they divide the stated distance of slices, but out of order. An even stack whose Instance Numbers
    follow the positions is one, unless it is an impossible one. Two planes always
    are even and in order: a stack no thicker than a share of one slice is impossible too.
    """
    for grid in grids:
        along, header = grid.along(), grid.first
        known_along = along is not None
        if along is None and grid.volume.shape[2] > 1:  # positions are in functional groups
            along = np.arange(grid.volume.shape[2], dtype=np.float64) * grid.step_along_normal_mm
        if along is None or header is None or not grid.placed:
            continue
        thickness_mm = grid.stated_mm("SliceThickness")
        steps = np.diff(along)
        numbers = grid.numbers(0)
        known = [number for number in numbers if number is not None]
        in_order = known in (sorted(known), sorted(known, reverse=True)) and not grid.interleaves_instances
        follow = in_order and len(set(known)) == len(numbers)
        share, limit = (1.0, IMPLAUSIBLE) if follow and is_even(along) else (MIN_CROWDED, CROWDED)
        crowded = (steps < limit * thickness_mm).mean() >= share or 0 < np.ptp(along) < CROWDED * thickness_mm
        least_mm = grid.volume.least_step_mm
        if not known_along and least_mm is not None and least_mm < CROWDED * thickness_mm:
            crowded, steps = True, np.array([least_mm])
        is_gapped = known_along and missing_slices(along) is not None
        uneven = not follow and grid.volume.geometry is Geometry.IRREGULAR and not is_gapped
        is_unordered = not follow or (grid.is_one_instance and not header.is_derived)
        if crowded or uneven or (is_unordered and grid.divides_stated_spacing):
            thick = f", but are {thickness_mm:.4g} mm thick" if thickness_mm else ""
            order = "" if follow else ", and Instance Numbers do not follow them"
            distances = " to ".join(dict.fromkeys((f"{steps.min():.4g}", f"{steps.max():.4g}")))
            fact = f"slices lie {distances} mm apart{thick}{order}: several times may be mixed"
            yield Evidence("spacing", fact, "", doubtful=True)
            return


def _moved_parts(grids: Sequence[Grid]) -> Iterator[Evidence]:
    """Yield a finding if parts of a divided stack are equal and lie less than half a slice apart.

    Nobody plans volumes so close: they are times that moved, but nothing shows which planes are of one time.
    """
    parts: dict[Hashable, list[Grid]] = defaultdict(list)
    for grid in grids:
        *names, number = grid.volume.suffix.split("-")
        if number.isdigit() and grid.volume.affine_lps is not None:
            parts[(*names, *grid.volume.voxels.shape[1:4])].append(grid)
    for own in parts.values():
        affines = np.array([grid.volume.affine_lps for grid in own])
        apart_mm = float(np.linalg.norm(affines[:, :3, 3] - affines[0, :3, 3], axis=1).max())
        if POSITION_TOLERANCE_MM < apart_mm <= MOVED_SHARE * own[0].step_mm * ROUNDING:
            fact = f"{len(own)} volumes lie up to {apart_mm:.4g} mm apart: they may be times of one series"
            yield Evidence("spacing", fact, "", doubtful=True)
            return

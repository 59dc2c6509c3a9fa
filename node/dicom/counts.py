"""Counts in headers: what the attributes of instances let expect of a series. Senders give them different meanings."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

SERIES_RELATED_INSTANCES = "Number of Series Related Instances (0020,1209)"
IMAGES_IN_ACQUISITION = "Images in Acquisition (0020,1002)"
SLICES = "Number of Slices (0054,0081)"
IMAGES_OF_ALL_TIMES = "Images in Acquisition (0020,1002) x Number of Temporal Positions (0020,0105)"
SLICES_OF_ALL_TIMES = "Number of Slices (0054,0081) x Number of Time Slices (0054,0101)"


@dataclass(frozen=True, slots=True)
class InstanceCounts:
    """Attributes of one instance that count instances of its series; None if the data set lacks one."""

    instance_number: int | None = None
    number_of_frames: int | None = None
    acquisition_number: int | None = None
    images_in_acquisition: int | None = None
    number_of_temporal_positions: int | None = None
    number_of_slices: int | None = None
    number_of_time_slices: int | None = None
    number_of_series_related_instances: int | None = None


COUNT_KEYWORDS = tuple("".join(map(str.capitalize, name.split("_"))) for name in InstanceCounts.__slots__)
"""The attributes of `InstanceCounts`, in the order of its fields."""


def announced_counts(instances: Sequence[InstanceCounts]) -> list[tuple[int, str]]:
    """Return the counts announced in headers with their sources, without implausible ones.

    *Images in Acquisition* (0020,1002) counts one acquisition (PS3.3 C.7.6.1); some senders put the count of the
    series into it, others the count of one temporal position. *Number of Slices* (0054,0081) and *Number of Time
    Slices* (0054,0101): PS3.3 C.8.9.1. (0020,1209) belongs to the query model (PS3.4 C.3.4); some data sets contain
    it after a retrieve. Counts of images are counts of instances only if each instance has one frame.
    """
    found: list[tuple[int, str]] = []
    related = _greatest(instance.number_of_series_related_instances for instance in instances)
    if related:
        found.append((related, SERIES_RELATED_INSTANCES))
    if any((instance.number_of_frames or 1) > 1 for instance in instances):
        return found
    slices = _greatest(instance.number_of_slices for instance in instances)
    time_slices = _greatest(instance.number_of_time_slices for instance in instances)
    if slices:
        found.append((slices * time_slices, SLICES_OF_ALL_TIMES) if time_slices else (slices, SLICES))
    acquisitions: dict[int | None, int] = {}
    for instance in instances:
        if instance.images_in_acquisition:
            known = acquisitions.get(instance.acquisition_number, 0)
            acquisitions[instance.acquisition_number] = max(known, instance.images_in_acquisition)
    if acquisitions:
        largest, total = max(acquisitions.values()), sum(acquisitions.values())
        found.append((largest, IMAGES_IN_ACQUISITION))
        if total != largest:
            found.append((total, IMAGES_IN_ACQUISITION))
        times = _greatest(instance.number_of_temporal_positions for instance in instances)
        if times > 1:
            found.append((largest * times, IMAGES_OF_ALL_TIMES))
    return found


def holes(instances: Collection[InstanceCounts]) -> int:
    """Count the missing Instance Numbers; 0 if more are missing than present, since they are then no sequence."""
    numbers = {instance.instance_number for instance in instances if instance.instance_number is not None}
    if len(numbers) < len(instances) or len(numbers) < 2:
        return 0
    missing = max(numbers) - min(numbers) + 1 - len(numbers)
    return missing if missing < len(numbers) else 0


def _greatest(values: Iterable[int | None]) -> int:
    return max((value for value in values if value), default=0)

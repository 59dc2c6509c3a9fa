"""The attributes that order or label the frames of a position in time, and how far each is to be believed.

Every rule about such an attribute reads this table, and no order is used before the others of the table were asked
(`node.volume.arrange.contradictions`).
"""

from dataclasses import dataclass
from enum import StrEnum


class Kind(StrEnum):
    """What an attribute says of a frame."""

    COUNT = "count"  # which time it is of; all slices of a time have one value
    PHASE = "phase"  # how long after an event, which each slice has separately
    CLOCK = "clock"  # when it was acquired
    NUMBER = "number"  # what it is called: the names may run with the times
    EXPORT = "export"  # when its pixels were made: parallel reconstructions and exports shuffle these


@dataclass(frozen=True, slots=True)
class Source:
    """An attribute, or several in place of each other.

    `key`: its name in `Frame.time_key`. `attribute`: its name in a sentence. `keywords`: the elements that have it.
    `orders`: it can order the frames of a position without another attribute.
    `names`: all frames of one time may have one value of it.
    """

    key: str
    attribute: str
    kind: Kind
    keywords: tuple[str, ...]
    orders: bool = True
    names: bool = False


SOURCES = (
    Source(
        "temporal_position",
        "Temporal Position Index (0020,9128) or Identifier (0020,0100)",
        Kind.COUNT,
        ("TemporalPositionIdentifier", "TemporalPositionIndex"),
        names=True,
    ),
    Source(
        "dimensions",
        "Dimension Index Values (0020,9157) or the vectors of the frames",
        Kind.COUNT,
        ("DimensionIndexValues", "PhaseVector", "TimeSliceVector", "TimeSlotVector"),
    ),
    Source("labelling", "label type (2005,xx29) of Philips, with repetition and phase", Kind.COUNT, (), names=True),
    Source("trigger_time", "Trigger Time (0018,1060)", Kind.PHASE, ("TriggerTime", "NominalCardiacTriggerDelayTime")),
    Source(
        "cardiac_phase",
        "Nominal Percentage of Cardiac Phase (0020,9241)",
        Kind.PHASE,
        ("NominalPercentageOfCardiacPhase",),
    ),
    Source("time_slice", "Image Index (0054,1330)", Kind.COUNT, ("ImageIndex",), orders=False, names=True),
    Source("frame_reference_time", "Frame Reference Time (0054,1300)", Kind.CLOCK, ("FrameReferenceTime",), names=True),
    Source(
        "acquisition_time",
        "Acquisition Time (0008,0032)",
        Kind.CLOCK,
        ("AcquisitionTime", "AcquisitionDateTime", "FrameAcquisitionDateTime", "FrameReferenceDateTime"),
        names=True,
    ),
    Source(
        "acquisition_number",
        "Acquisition Number (0020,0012)",
        Kind.NUMBER,
        ("AcquisitionNumber", "FrameAcquisitionNumber"),
        names=True,
    ),
    Source(
        "frame_time",
        "Frame Time (0018,1063) or Temporal Position Time Offset (0020,930D)",
        Kind.CLOCK,
        ("FrameTime", "FrameTimeVector", "CineRate", "TemporalPositionTimeOffset"),
    ),
    Source("instance", "Instance Numbers (0020,0013)", Kind.NUMBER, ("InstanceNumber",)),
    Source("content_time", "Content Time (0008,0033)", Kind.EXPORT, ("ContentTime",)),
)
"""In the order in which they are tried."""

SOURCE_OF = {source.key: source for source in SOURCES}

TIME_KEYS = tuple(source.key for source in SOURCES if source.orders)
"""Keys that can order the planes at one position; the first usable one is used, unless others contradict it."""

SHARED_TIME_KEYS = {source.key: source.attribute for source in SOURCES if source.names}
"""Attributes that frames of one time may share, by their time key."""

RUNNING_KEYS = frozenset({"instance", *(source.key for source in SOURCES if source.kind is Kind.EXPORT)})
"""Keys that differ in every frame, and say nothing of how it was acquired."""

COUNTING_KEYS = frozenset(source.key for source in SOURCES if source.kind is Kind.COUNT) | {"cardiac_phase"}
"""Keys that number the times, so that each position must have the same values."""

EVENT_KEYS = frozenset({"frame_time", *(source.key for source in SOURCES if source.kind is Kind.PHASE)})
"""Keys that count from an event which each position has separately."""

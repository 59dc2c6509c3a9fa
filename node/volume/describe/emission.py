"""Timing of a PET series in BIDS' terms: injection, acquisition and decay correction, frame by frame."""

from collections.abc import Callable, Sequence
from typing import Any

from pydicom.dataset import Dataset
from pydicom.uid import EnhancedPETImageStorage

from node.dicom.values import PrivateTag, items, number, private_text, text
from node.errors import VoxelnodeError
from node.volume.elements import DAY_S, ClocksUnknown, Instant, instant, stated_instant
from node.volume.model import Frame
from node.volume.read.functional_groups import dataset_of_frame
from node.volume.read.meaning import is_varying

MAX_WAIT_S = 2 * DAY_S
"""Longest time between injection and scan. If it is longer, an anonymiser shifted one of them."""

FACTOR_TOLERANCE = 1e-4
"""Allowed relative difference of a factor between the slices of a frame, since it is written with few digits."""

PERCENT, MILLI = 100.0, 0.001

FRAME_FACTORS = (
    ("DecayCorrectionFactor", "DecayFactor", 1.0),
    ("ScatterFraction", "ScatterFractionFactor", PERCENT),
    ("FrameReferenceTime", "FrameReferenceTime", MILLI),
)
"""Values of each frame: BIDS' name, the standard's keyword, and the unit factor."""

_GE_SCAN_TIME = PrivateTag(0x0009, "GEMS_PETD_01", 0x0D, "DT")
_MAX_HALF_LIFE_S = 6 * 3600.0
"""Nuclides that decay more slowly are imaged days after the injection, so that a time of day is not enough."""

_ONE_OFFSET = (
    "only one of scan and injection states the offset of its clock from UTC: Timezone Offset From UTC (0008,0201), or "
    "an offset in every date and time, is missing"
)

_MIN_DOSE_BQ = 1e5
"""A smaller dose cannot be in becquerels: it would not produce an image."""


def emission_fields(planes: Sequence[Sequence[Frame]], dataset_of: Callable[[str], Dataset]) -> dict[str, Any]:
    """Return times and factors of a PET stack by BIDS' names.

    Time zero is the start of the scan. Without a date it identifies nobody.

    Times in seconds after time zero, activity in Bq.

    PS3.3 C.8.9.1, C.8.9.2 and C.8.9.4; for enhanced images C.8.22. Decay factor and scatter fraction are included only
    if all slices of a frame share them; those of several beds differ. What else the frames do not share is left out.
    """
    zero, fields = _time_zero(planes), dict[str, Any]()
    if zero is not None:
        minutes, seconds = divmod(int(zero.second_s % DAY_S), 60)
        fields = {"TimeZero": f"{minutes // 60:02}:{minutes % 60:02}:{seconds:02}", "ScanStart": 0.0}
    facts, values_of_factors = _of_frames(planes, dataset_of, zero)
    fields |= {name: fact for name, fact in facts[0].items() if all(other.get(name) == fact for other in facts)}
    for (name, _, factor), values in zip(FRAME_FACTORS, values_of_factors, strict=True):
        by_time = _value_of_each_time(values)
        if by_time is not None:
            fields[name] = [float(f"{value * factor:.9g}") for value in by_time]
    return fields


def _time_zero(planes: Sequence[Sequence[Frame]]) -> Instant | None:
    """Return when the first plane was acquired; None if that is unknown of one of them."""
    starts = [frame.time_key.get("acquisition_time") for time in planes for frame in time]
    known = [start for start in starts if start is not None]
    if not known or len(known) < len(starts):
        return None
    return Instant(min(known), 0, planes[0][0].time_key.get("acquisition_offset"))


def _facts(ds: Dataset, zero: Instant | None) -> dict[str, Any]:
    """Return what one frame says of injection and decay correction, in seconds after time zero."""
    dose, injection = injected_dose_bq(ds), zero and _injection(ds, zero)
    moments = {"InjectionStart": injection, "ImageDecayCorrectionTime": zero and _corrected_to(ds, zero, injection)}
    facts = {name: moment and round(moment, 3) for name, moment in moments.items()} | {
        **{"InjectedRadioactivity": dose, "InjectedRadioactivityUnits": dose and "Bq"},
        "ImageDecayCorrected": _is_corrected(ds),
    }
    return {name: fact for name, fact in facts.items() if fact is not None}


def _is_corrected(ds: Dataset) -> bool | None:
    """Return whether values are decay corrected: Decay Correction (0054,1102), enhanced Decay Corrected (0018,9758)."""
    stated = text(ds, "DecayCorrection").upper() or text(ds, "DecayCorrected").upper()
    return {"NONE": False, "NO": False, "START": True, "ADMIN": True, "YES": True}.get(stated)


def _injection(ds: Dataset, zero: Instant) -> float | None:
    """Return the start of the injection; None if there are several injections."""
    injections = items(ds, "RadiopharmaceuticalInformationSequence")
    half_life_s = number(injections[0], "RadionuclideHalfLife") if len(injections) == 1 else None
    try:
        since = since_injection(zero, ds, half_life_s) if half_life_s else None
    except SuvUnknown:
        return None
    return None if since is None else _near(-since)


def _corrected_to(ds: Dataset, zero: Instant, injection: float | None) -> float | None:
    correction = text(ds, "DecayCorrection").upper()
    if correction == "ADMIN":
        return injection
    try:
        if correction == "START":
            moment = scan_start(ds)
        else:
            moment = stated_instant(ds, "DecayCorrectionDateTime") if _is_corrected(ds) else None
        return None if moment is None else _near(moment.since(zero))
    except (SuvUnknown, ClocksUnknown):
        return None


def _near(seconds: float) -> float | None:
    return seconds if abs(seconds) <= MAX_WAIT_S else None


def _of_frames(
    planes: Sequence[Sequence[Frame]], dataset_of: Callable[[str], Dataset], zero: Instant | None
) -> tuple[list[dict[str, Any]], list[list[list[float | None]]]]:
    """Return the facts of each frame, and the values of `FRAME_FACTORS` by time and slice.

    Frames of one instance follow each other, because its data set may have to be read again.
    """
    facts: list[dict[str, Any]] = []
    table: list[list[list[float | None]]] = [[[] for _ in planes] for _ in FRAME_FACTORS]
    for index, time in enumerate(planes):
        for frame in time:
            ds = dataset_of_frame(dataset_of(frame.sop_instance_uid), frame.frame_number)
            facts.append(_facts(ds, zero))
            for (_, keyword, _), values in zip(FRAME_FACTORS, table, strict=True):
                values[index].append(number(ds, keyword))
    return facts, table


def _value_of_each_time(times: Sequence[Sequence[float | None]]) -> list[float] | None:
    """Return the value of each time, if all its slices share it; else None."""
    by_time = []
    for values in times:
        known = [value for value in values if value is not None]
        if len(known) < len(values) or is_varying(known, FACTOR_TOLERANCE):
            return None
        by_time.append(known[0])
    return by_time


class SuvUnknown(VoxelnodeError):
    """The standardised uptake value cannot be computed from the data set."""


def injected_dose_bq(ds: Dataset) -> float | None:
    """Return Radionuclide Total Dose (0018,1074) of the injection in Bq.

    None if it is missing or not in becquerels, or if there are several injections. PS3.3 C.8.9.2 gives it in Bq;
    C.8.22.4, for enhanced images, in MBq, although some writers use Bq there too.
    """
    injections = items(ds, "RadiopharmaceuticalInformationSequence")
    dose = (number(injections[0], "RadionuclideTotalDose") if len(injections) == 1 else None) or 0.0
    if 0 < dose < _MIN_DOSE_BQ and text(ds, "SOPClassUID") == EnhancedPETImageStorage:
        dose *= 1e6
    return dose if dose >= _MIN_DOSE_BQ else None


def since_injection(started: Instant, ds: Dataset, half_life_s: float) -> float | None:
    """Return the seconds from the injection to a moment; None if the injection has no time.

    If one of both has only a time of day, its nearest occurrence is used.

    `ds`: the first item of its Radiopharmaceutical Information Sequence (0054,0016) describes the injection.

    Raises SuvUnknown if one of both has no date, and the nuclide decays over days; or if only one of the two states
        the offset of its clock from UTC.
    """
    injection = items(ds, "RadiopharmaceuticalInformationSequence")[0]
    injected = stated_instant(injection, "RadiopharmaceuticalStartDateTime", "", "RadiopharmaceuticalStartTime", of=ds)
    if injected is None:
        return None
    if None in (injected.day, started.day) and half_life_s > _MAX_HALF_LIFE_S:
        what = "(0018,1078) Radiopharmaceutical Start DateTime" if injected.day is None else "the date of the scan"
        raise SuvUnknown(f"{what} is missing, and the nuclide decays over days")
    try:
        decay = started.since(injected)
    except ClocksUnknown:
        raise SuvUnknown(_ONE_OFFSET) from None
    if None not in (injected.day, started.day):
        return decay
    decay = (decay + injected.second_s) % DAY_S - injected.second_s
    return decay + DAY_S if decay < -DAY_S / 2 else decay


def scan_start(ds: Dataset) -> Instant | None:
    """Return when the scan began; None if it is unknown.

    Raises SuvUnknown if Series Time is later than an acquisition, so that it is not the start of the scan.
    """
    stated = instant(private_text(ds, _GE_SCAN_TIME), zone=text(ds, "TimezoneOffsetFromUTC"))
    if stated is not None:
        return stated
    series = stated_instant(ds, "", "SeriesDate", "SeriesTime")
    day = "AcquisitionDate" if text(ds, "AcquisitionDate") else "SeriesDate"
    acquired = stated_instant(ds, "", day, "AcquisitionTime")
    if series is not None and acquired is not None and acquired.since(series) < 0:
        raise SuvUnknown("(0008,0031) Series Time is later than (0008,0032) Acquisition Time: the series was derived")
    return series

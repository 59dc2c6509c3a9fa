"""When a PET series was injected, acquired and corrected to, frame by frame, in the terms of BIDS."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from pydicom.dataset import Dataset

from node.dicom.values import items, number, text
from node.volume.describe.uptake import SuvUnknown, injected_dose_bq, scan_start, since_injection
from node.volume.elements import instant_of
from node.volume.model import Frame

SECONDS_PER_DAY = 86400
MAX_WAIT_S = 2 * SECONDS_PER_DAY
"""A time farther from the scan was shifted by an anonymiser."""

FACTOR_TOLERANCE = 1e-4
"""Part by which a factor may differ between the slices of one frame: they are written with few digits."""

PERCENT, MILLI = 100.0, 0.001

FRAME_FACTORS = (
    ("DecayCorrectionFactor", "DecayFactor", 1.0),
    ("ScatterFraction", "ScatterFractionFactor", PERCENT),
    ("FrameReferenceTime", "FrameReferenceTime", MILLI),
)
"""BIDS' names of what a frame has a value of, the standard's keywords, and the units' factors."""


def emission_fields(planes: Sequence[Sequence[Frame]], dataset_of: Callable[[str], Dataset]) -> dict[str, Any]:
    """Return times and factors of a PET stack by BIDS' names.

    Time zero is the start of the scan; without a date it says nothing about a person.

    Parameters
    ----------
    planes : sequence of times, each a sequence of Frame
    dataset_of : callable (SOP Instance UID) -> Dataset

    Notes
    -----
    PS3.3 C.8.9.1, C.8.9.2 and C.8.9.4; of enhanced images C.8.22. Decay factor and scatter fraction are told where
    all slices of a frame share them, which those of several beds do not.
    """
    ds = dataset_of(planes[0][0].sop_instance_uid)
    facts: dict[str, Any] = {}
    dose = injected_dose_bq(ds)
    if dose is not None:
        facts |= {"InjectedRadioactivity": dose, "InjectedRadioactivityUnits": "Bq"}
    facts |= _clock(planes, ds)
    for (name, _, factor), told in zip(FRAME_FACTORS, _told(planes, dataset_of), strict=True):
        found = _of_frames(told)
        if found is not None:
            facts[name] = [float(f"{each * factor:.9g}") for each in found]
    return facts


def _clock(planes: Sequence[Sequence[Frame]], ds: Dataset) -> dict[str, Any]:
    """Time zero, scan, injection and the moment that values are corrected to, in seconds after time zero."""
    facts: dict[str, Any] = {}
    corrected = _is_corrected(ds)
    if corrected is not None:
        facts["ImageDecayCorrected"] = corrected
    starts = [frame.time_key.get("acquisition_time") for time in planes for frame in time]
    known = [start for start in starts if start is not None]
    if not known or len(known) < len(starts):
        return facts
    zero = min(known)
    minutes, seconds = divmod(int(zero % SECONDS_PER_DAY), 60)
    facts |= {"TimeZero": f"{minutes // 60:02}:{minutes % 60:02}:{seconds:02}", "ScanStart": 0.0}
    injection = _injection(ds, zero)
    moments = {"InjectionStart": injection, "ImageDecayCorrectionTime": _corrected_to(ds, zero, injection)}
    return facts | {name: round(moment, 3) for name, moment in moments.items() if moment is not None}


def _is_corrected(ds: Dataset) -> bool | None:
    """Whether values are corrected for decay: Decay Correction (0054,1102), enhanced Decay Corrected (0018,9758)."""
    stated = text(ds, "DecayCorrection").upper() or text(ds, "DecayCorrected").upper()
    return {"NONE": False, "NO": False, "START": True, "ADMIN": True, "YES": True}.get(stated)


def _injection(ds: Dataset, zero: float) -> float | None:
    """The start of the injection; of several injections there is no one start."""
    injections = items(ds, "RadiopharmaceuticalInformationSequence")
    half_life_s = number(injections[0], "RadionuclideHalfLife") if len(injections) == 1 else None
    try:
        since = since_injection(zero, injections[0], half_life_s) if half_life_s else None
    except SuvUnknown:
        return None
    return None if since is None else _near(-since)


def _corrected_to(ds: Dataset, zero: float, injection: float | None) -> float | None:
    correction = text(ds, "DecayCorrection").upper()
    if correction == "ADMIN":
        return injection
    if correction == "START":
        try:
            started = scan_start(ds)
        except SuvUnknown:
            return None
        return None if started is None else _near(started - zero)
    stated = instant_of(text(ds, "DecayCorrectionDateTime")) if _is_corrected(ds) else None
    return None if stated is None else _near(stated - zero)


def _near(seconds: float) -> float | None:
    return seconds if abs(seconds) <= MAX_WAIT_S else None


def _told(planes: Sequence[Sequence[Frame]], dataset_of: Callable[[str], Dataset]) -> list[list[list[float | None]]]:
    """Each number of `FRAME_FACTORS`, by time and slice; every data set is asked for once, as it may be read again."""
    table: list[list[list[float | None]]] = [[[] for _ in planes] for _ in FRAME_FACTORS]
    for index, time in enumerate(planes):
        for frame in time:
            ds = dataset_of(frame.sop_instance_uid)
            for (_, keyword, _), told in zip(FRAME_FACTORS, table, strict=True):
                told[index].append(number(ds, keyword))
    return table


def _of_frames(times: Sequence[Sequence[float | None]]) -> list[float] | None:
    """A number of each time, if all its slices have the same."""
    found = []
    for several in times:
        known = [each for each in several if each is not None]
        if len(known) < len(several) or max(known) - min(known) > FACTOR_TOLERANCE * max(map(abs, known)):
            return None
        found.append(known[0])
    return found

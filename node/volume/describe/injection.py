"""The injection of a PET examination: its dose, its time, and the start of the scan that follows it."""

from __future__ import annotations

from pydicom.dataset import Dataset
from pydicom.uid import EnhancedPETImageStorage

from node.dicom.private import PrivateTag, private_text
from node.dicom.values import items, number, text
from node.errors import VoxelnodeError
from node.volume.elements import instant, instant_of, seconds_of_day

_GE_SCAN_TIME = PrivateTag(0x0009, "GEMS_PETD_01", 0x0D, "DT")
_SECONDS_PER_DAY = 86400.0

_MAX_HALF_LIFE_S = 6 * 3600.0
"""Nuclides that decay more slowly are imaged days after the injection, so that a time of day is not enough."""

_MIN_DOSE_BQ = 1e5
"""A smaller dose cannot be in becquerels: it would not produce an image."""


class SuvUnknown(VoxelnodeError):
    """The standardised uptake value cannot be computed from the data set."""


def injected_dose_bq(ds: Dataset) -> float | None:
    """Return Radionuclide Total Dose (0018,1074) of the first injection in Bq.

    None if it is missing or not in becquerels. PS3.3 C.8.9.2 gives it in Bq; C.8.22.4, for enhanced images, in MBq,
    although some writers use Bq there too.
    """
    injections = items(ds, "RadiopharmaceuticalInformationSequence")
    dose = (number(injections[0], "RadionuclideTotalDose") if injections else None) or 0.0
    if 0 < dose < _MIN_DOSE_BQ and text(ds, "SOPClassUID") == EnhancedPETImageStorage:
        dose *= 1e6
    return dose if dose >= _MIN_DOSE_BQ else None


def since_injection(started: float, injection: Dataset, half_life_s: float) -> float | None:
    """Return the seconds from the injection to an instant; None if the injection has no time.

    If the injection has only a time of day, its nearest occurrence is used.

    Parameters
    ----------
    started : float
        The instant, in seconds on the scale of `node.volume.elements.instant`.
    injection : Dataset
        Item of Radiopharmaceutical Information Sequence (0054,0016).
    half_life_s : float

    Raises
    ------
    SuvUnknown
        The injection has no date, and its nuclide decays over days.
    """
    injected = instant_of(text(injection, "RadiopharmaceuticalStartDateTime"))
    if injected is not None:
        return started - injected
    time_of_day = seconds_of_day(text(injection, "RadiopharmaceuticalStartTime"))
    if time_of_day is None:
        return None
    if half_life_s > _MAX_HALF_LIFE_S:
        raise SuvUnknown("(0018,1078) Radiopharmaceutical Start DateTime is missing, and the nuclide decays over days")
    decay = started % _SECONDS_PER_DAY - time_of_day
    return decay + _SECONDS_PER_DAY if decay < -_SECONDS_PER_DAY / 2 else decay


def scan_start(ds: Dataset) -> float | None:
    """Return when the scan began, in seconds on the scale of `instant`; None if it is unknown.

    Raises
    ------
    SuvUnknown
        Series Time is later than an acquisition, so that it is not the start of the scan.
    """
    stated = instant_of(private_text(ds, _GE_SCAN_TIME))
    if stated is not None:
        return stated
    day = text(ds, "SeriesDate")
    series = instant(day, text(ds, "SeriesTime"))
    acquired = instant(text(ds, "AcquisitionDate") or day, text(ds, "AcquisitionTime"))
    if series is not None and acquired is not None and acquired < series:
        raise SuvUnknown("(0008,0031) Series Time is later than (0008,0032) Acquisition Time: the series was derived")
    return series

"""Standardised uptake value by body weight: the factor for PET values, and the attributes that it is computed from."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace

from pydicom.dataset import Dataset
from pydicom.uid import EnhancedPETImageStorage

from node.dicom.private import PrivateTag, private_numbers, private_text
from node.dicom.values import items, number, text, texts
from node.errors import VoxelnodeError
from node.volume.elements import instant, instant_of, seconds_of_day
from node.volume.model import Assembly, Display, Kind, Volume
from node.volume.reasons import VolumeWarning, WarningKind

_GE_SCAN_TIME = PrivateTag(0x0009, "GEMS_PETD_01", 0x0D, "DT")
_PHILIPS_SUV_SCALE = PrivateTag(0x7053, "Philips PET Private Group", 0x00, "DS")
_PHILIPS_ACTIVITY_SCALE = PrivateTag(0x7053, "Philips PET Private Group", 0x09, "DS")
_SECONDS_PER_DAY = 86400.0
_MAX_HALF_LIVES = 10
"""After this many half-lives a thousandth of the dose is left, so the times cannot belong to one examination."""

_MAX_HALF_LIFE_S = 6 * 3600.0
"""Nuclides that decay more slowly are imaged days after the injection, so that a time of day is not enough."""

_MAX_LATE_INJECTION_S = 1800.0
"""Latest injection after the beginning of a dynamic scan."""

_MIN_DOSE_BQ = 1e5
"""A smaller dose cannot be in becquerels: it would not produce an image."""

_FACTOR_TOLERANCE = 1e-6
"""Allowed relative difference of the factors between the instances of a volume, which stem from rounded decimals."""

_UNITS = {"Bq/ml": "BQML", "Bq/mL": "BQML", "g/ml{SUVbw}": "GML", "g/mL{SUVbw}": "GML"}
"""Codes of UCUM (PS3.16 CID 84, CID 85), with their names in Units (0054,1001)."""
_NOT_OF_UPTAKE = ("RescaleType", "RealWorldValueSlope", "RealWorldValueIntercept", "RealWorldValueUnits")
"""Fields about activity that do not apply to the uptake volume."""


class SuvUnknown(VoxelnodeError):
    """The standardised uptake value cannot be computed from the data set."""


@dataclass(frozen=True, slots=True)
class SuvFactors:
    """Factor that turns rescaled values into SUV (g/ml): ``suv = (stored * slope + intercept) * factor``.

    `decay_s` is the time from the injection to the moment to which the values are decay corrected. The other fields are
    None if the scanner states the factor itself.
    """

    factor: float
    weight_kg: float | None = None
    injected_dose_bq: float | None = None
    half_life_s: float | None = None
    decay_s: float | None = None


def with_uptake(assembly: Assembly, dataset_of: Callable[[str], Dataset]) -> Assembly:
    """Return the volumes of a series, each PET volume followed by a second one of standardised uptake values.

    The second volume shares the voxels of the first; its slope and intercept turn them into g/ml, its kind is
    ``suv``, and its attributes state what the factor was computed from. If the factor is unknown, the warning
    ``suv-unknown`` of the volume names what is missing.

    Parameters
    ----------
    assembly : Assembly
    dataset_of : callable (SOP Instance UID) -> Dataset
    """
    volumes: list[Volume] = []
    for volume in assembly.volumes:
        if volume.modality != "PT" or volume.colour:
            volumes.append(volume)
            continue
        try:
            factors = _factors(volume, dataset_of)
        except SuvUnknown as unknown:
            warning = VolumeWarning(WarningKind.SUV_UNKNOWN, f"no standardised uptake values: {unknown}")
            volumes.append(replace(volume, warnings=(*volume.warnings, warning)))
        else:
            volumes += [volume, _uptake(volume, factors)]
    return replace(assembly, volumes=tuple(volumes))


def _factors(volume: Volume, dataset_of: Callable[[str], Dataset]) -> SuvFactors:
    """Return the factors that hold for every instance of a volume."""
    uids = dict.fromkeys(source.sop_instance_uid for source in volume.sources)
    first, *others = (suv_factor(dataset_of(uid)) for uid in uids)
    if not all(math.isclose(other.factor, first.factor, rel_tol=_FACTOR_TOLERANCE) for other in others):
        raise SuvUnknown("the instances of the volume have different factors")
    return first


def _uptake(volume: Volume, factors: SuvFactors) -> Volume:
    fields = {name: value for name, value in volume.attributes.items() if name not in _NOT_OF_UPTAKE}
    # Tells it from the uptake of the stored planes.
    resampled = Kind.RESAMPLED.value if volume.kind is Kind.RESAMPLED else ""
    windows = tuple((centre * factors.factor, width * factors.factor) for centre, width in volume.display.windows)
    return replace(
        volume,
        kind=Kind.SUV,
        suffix="-".join(filter(None, (volume.suffix, resampled))),
        slope=volume.slope * factors.factor,
        intercept=volume.intercept * factors.factor,
        display=Display(windows, volume.display.function, padding=volume.display.padding),
        attributes={**fields, "Units": "g/mL", "SUVType": "BW", "suv": asdict(factors)},
    )


def suv_factor(ds: Dataset) -> SuvFactors:
    """Return the factor of one PET image, by body weight.

    Raises
    ------
    SuvUnknown
        Units are not BQML, Philips' CNTS or GML, or an attribute is missing or impossible; the message names it.

    Notes
    -----
    PS3.3 C.8.9.1 and C.8.9.2, for enhanced images C.8.22; and the vendor-neutral pseudo-code of the Quantitative
    Imaging Biomarkers Alliance.
    """
    units = _units(ds)
    if units == "GML":
        if text(ds, "SUVType").upper() not in ("", "BW"):
            raise SuvUnknown("(0054,1006) SUV Type must be BW (body weight)")
        return SuvFactors(1.0)
    _check_corrections(ds)
    if units == "CNTS":
        return _of_counts(ds)
    if units == "BQML":
        return _of_activity(ds)
    raise SuvUnknown("(0054,1001) Units must be BQML, CNTS or GML")


def _units(ds: Dataset) -> str:
    """Return Units (0054,1001).

    For enhanced images: the unit of their real world values, if rescaling gives the same values.
    """
    stated = text(ds, "Units").upper()
    if stated:
        return stated
    groups = [
        *items(ds, "PerFrameFunctionalGroupsSequence")[:1],
        *items(ds, "SharedFunctionalGroupsSequence")[:1],
        ds,
    ]
    real = next((own[0] for group in groups if (own := items(group, "RealWorldValueMappingSequence"))), Dataset())
    scaled = next((own[0] for group in groups if (own := items(group, "PixelValueTransformationSequence"))), ds)
    unit = _UNITS.get(next((text(code, "CodeValue") for code in items(real, "MeasurementUnitsCodeSequence")), ""), "")
    stated_as = number(real, "RealWorldValueSlope"), number(real, "RealWorldValueIntercept") or 0.0
    rescaled_to = number(scaled, "RescaleSlope"), number(scaled, "RescaleIntercept") or 0.0
    same = None not in (stated_as[0], rescaled_to[0]) and all(
        math.isclose(real_world or 0.0, rescaled or 0.0, rel_tol=_FACTOR_TOLERANCE)
        for real_world, rescaled in zip(stated_as, rescaled_to, strict=True)
    )
    if unit and not same:
        raise SuvUnknown("(0040,9096) Real World Value Mapping Sequence and the rescaled values give different values")
    return unit


def _check_corrections(ds: Dataset) -> None:
    """Raise if the values are not corrected for attenuation and decay (PS3.3 C.8.9.1; for enhanced images C.8.22.6)."""
    corrected = texts(ds, "CorrectedImage")
    if corrected and ("ATTN" not in corrected or not {"DECY", "DECAY"}.intersection(corrected)):
        raise SuvUnknown("(0028,0051) Corrected Image must contain ATTN and DECY: attenuation and decay correction")
    if text(ds, "AttenuationCorrected") == "NO":
        raise SuvUnknown("(0018,9759) Attenuation Corrected is NO; it must be YES")


def _of_counts(ds: Dataset) -> SuvFactors:
    """Return the factor of Philips' counts, stated directly or as the activity per count."""
    suv = private_numbers(ds, _PHILIPS_SUV_SCALE, 1)
    if suv and suv[0] > 0:
        return SuvFactors(suv[0])
    activity = private_numbers(ds, _PHILIPS_ACTIVITY_SCALE, 1)
    if not activity or activity[0] <= 0:
        raise SuvUnknown(
            "(0054,1001) Units is CNTS, but Philips' scale factors (7053,xx00) and (7053,xx09) are missing"
        )
    factors = _of_activity(ds)
    return replace(factors, factor=factors.factor * activity[0])


def _of_activity(ds: Dataset) -> SuvFactors:
    weight = number(ds, "PatientWeight")
    injections = items(ds, "RadiopharmaceuticalInformationSequence")
    if not weight or weight <= 0:
        raise SuvUnknown("(0010,1030) Patient's Weight is missing")
    if not injections:
        raise SuvUnknown("(0054,0016) Radiopharmaceutical Information Sequence is missing")
    if len(injections) > 1:
        raise SuvUnknown("(0054,0016) Radiopharmaceutical Information Sequence has several injections")
    dose, half_life = injected_dose_bq(ds), number(injections[0], "RadionuclideHalfLife")
    if dose is None or not half_life or half_life <= 0:
        missing = "(0018,1074) Radionuclide Total Dose or (0018,1075) Radionuclide Half Life is missing"
        raise SuvUnknown(f"{missing}, or the dose cannot be in becquerels")
    decay = _decay_seconds(ds, injections[0], half_life)
    factor = weight * 1000 / (dose * 2 ** (-decay / half_life))
    return SuvFactors(factor, weight, dose, half_life, decay)


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


def _decay_seconds(ds: Dataset, injection: Dataset, half_life_s: float) -> float:
    """Return the seconds from the injection to the moment to which Decay Correction (0054,1102) corrects.

    Negative for a dynamic scan that began before the injection.
    """
    correction = text(ds, "DecayCorrection").upper()
    if correction == "ADMIN":
        return 0.0
    corrected_to = instant_of(text(ds, "DecayCorrectionDateTime")) if text(ds, "DecayCorrected") == "YES" else None
    if correction != "START" and corrected_to is None:
        raise SuvUnknown(
            "(0054,1102) Decay Correction is neither START nor ADMIN, and (0018,9701) Decay Correction DateTime is "
            "missing"
        )
    started = scan_start(ds) if corrected_to is None else corrected_to
    decay = None if started is None else since_injection(started, injection, half_life_s)
    if decay is None:
        raise SuvUnknown(
            "(0018,1078) Radiopharmaceutical Start DateTime, (0018,1072) Radiopharmaceutical Start Time or the time of "
            "the scan is missing"
        )
    if decay < -(_MAX_LATE_INJECTION_S if "DYNAMIC" in texts(ds, "SeriesType") else 0):
        raise SuvUnknown(f"the scan begins {-decay:.0f} s before the injection")
    if decay > _MAX_HALF_LIVES * half_life_s:
        raise SuvUnknown(f"the scan begins {decay:.0f} s after the injection, more than {_MAX_HALF_LIVES} half-lives")
    return decay


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

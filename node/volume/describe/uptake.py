"""Standardised uptake value by body weight: what PET values are to be multiplied with, and from which facts."""

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
from node.volume.model import Assembly, Display, Volume
from node.volume.reasons import VolumeWarning, WarningKind

_GE_SCAN_TIME = PrivateTag(0x0009, "GEMS_PETD_01", 0x0D, "DT")
_PHILIPS_SUV_SCALE = PrivateTag(0x7053, "Philips PET Private Group", 0x00, "DS")
_PHILIPS_ACTIVITY_SCALE = PrivateTag(0x7053, "Philips PET Private Group", 0x09, "DS")
_SECONDS_PER_DAY = 86400.0
_MAX_HALF_LIVES = 10
"""After that many a thousandth of the dose is left: the times are not those of one examination."""

_MAX_HALF_LIFE_S = 6 * 3600.0
"""Of a nuclide that decays more slowly, images may be made days after the injection: a time of day tells nothing."""

_MAX_LATE_INJECTION_S = 1800.0
"""After the beginning of a dynamic scan."""

_MIN_DOSE_BQ = 1e5
"""A dose below it is not in becquerels: nobody could make an image of it."""

_FACTOR_TOLERANCE = 1e-6
"""Part by which the factors of the instances of one volume may differ: they are computed from rounded decimals."""

SUFFIX = "suv"
_UNITS = {"Bq/ml": "BQML", "Bq/mL": "BQML", "g/ml{SUVbw}": "GML", "g/mL{SUVbw}": "GML"}
"""Codes of UCUM (PS3.16 CID 84, CID 85) as Units (0054,1001) calls them."""
_NOT_OF_UPTAKE = ("RescaleType", "RealWorldValueSlope", "RealWorldValueIntercept", "RealWorldValueUnits")
"""Facts about the activity that do not hold for the uptake beside it."""


class SuvUnknown(VoxelnodeError):
    """The standardised uptake value cannot be computed from the data set."""


@dataclass(frozen=True, slots=True)
class SuvFactors:
    """What makes standardised uptake values (g/ml) of rescaled values: ``suv = (stored * slope + intercept) * factor``.

    `decay_s` is the time from the injection to the moment that the values are corrected to; the facts are None where
    the scanner itself states the factor.
    """

    factor: float
    weight_kg: float | None = None
    injected_dose_bq: float | None = None
    half_life_s: float | None = None
    decay_s: float | None = None


def with_uptake(assembly: Assembly, dataset_of: Callable[[str], Dataset]) -> Assembly:
    """Return the volumes of a series, and beside each PET volume a second one of standardised uptake values.

    The second volume has the same voxels, not a copy, with slope and intercept that make g/ml of them; its suffix ends
    in ``suv``, and its facts tell what the factor was made of. Where the factor is not known, the warning
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
            told = VolumeWarning(WarningKind.SUV_UNKNOWN, f"no standardised uptake values: {unknown}")
            volumes.append(replace(volume, warnings=(*volume.warnings, told)))
        else:
            volumes += [volume, _uptake(volume, factors)]
    return replace(assembly, volumes=tuple(volumes))


def _factors(volume: Volume, dataset_of: Callable[[str], Dataset]) -> SuvFactors:
    """Return the factors that hold for every instance of a volume."""
    uids = dict.fromkeys(source.sop_instance_uid for source in volume.sources)
    first, *others = (suv_factor(dataset_of(uid)) for uid in uids)
    if not all(math.isclose(other.factor, first.factor, rel_tol=_FACTOR_TOLERANCE) for other in others):
        raise SuvUnknown("the factors of its instances differ")
    return first


def _uptake(volume: Volume, factors: SuvFactors) -> Volume:
    facts = {name: fact for name, fact in volume.attributes.items() if name not in _NOT_OF_UPTAKE}
    windows = tuple((centre * factors.factor, width * factors.factor) for centre, width in volume.display.windows)
    return replace(
        volume,
        suffix="-".join(filter(None, (volume.suffix, SUFFIX))),
        slope=volume.slope * factors.factor,
        intercept=volume.intercept * factors.factor,
        display=Display(windows, volume.display.function, padding=volume.display.padding),
        attributes={**facts, "Units": "g/mL", "SUVType": "BW", "suv": asdict(factors)},
    )


def suv_factor(ds: Dataset) -> SuvFactors:
    """Return the factor of one PET image, by body weight.

    Raises
    ------
    SuvUnknown
        Units are others than BQML, CNTS of Philips or GML, or a fact is missing or cannot be true; the message
        names it.

    Notes
    -----
    PS3.3 C.8.9.1 and C.8.9.2, for enhanced images C.8.22; and the vendor-neutral pseudo-code of the Quantitative
    Imaging Biomarkers Alliance.
    """
    units = _units(ds)
    if units == "GML":
        if text(ds, "SUVType").upper() not in ("", "BW"):
            raise SuvUnknown("(0054,1006) SUV Type is not BW, body weight")
        return SuvFactors(1.0)
    _check_corrections(ds)
    if units == "CNTS":
        return _of_counts(ds)
    if units == "BQML":
        return _of_activity(ds)
    raise SuvUnknown("(0054,1001) Units is none of BQML, CNTS and GML")


def _units(ds: Dataset) -> str:
    """Units (0054,1001); of enhanced images the unit of their real world values, where rescaling gives just these."""
    stated = text(ds, "Units").upper()
    if stated:
        return stated
    groups = [
        *items(ds, "PerFrameFunctionalGroupsSequence")[:1],
        *items(ds, "SharedFunctionalGroupsSequence")[:1],
        ds,
    ]
    real = next((found[0] for group in groups if (found := items(group, "RealWorldValueMappingSequence"))), Dataset())
    scaled = next((found[0] for group in groups if (found := items(group, "PixelValueTransformationSequence"))), ds)
    unit = _UNITS.get(next((text(code, "CodeValue") for code in items(real, "MeasurementUnitsCodeSequence")), ""), "")
    stated_as = number(real, "RealWorldValueSlope"), number(real, "RealWorldValueIntercept") or 0.0
    rescaled_to = number(scaled, "RescaleSlope"), number(scaled, "RescaleIntercept") or 0.0
    same = None not in (stated_as[0], rescaled_to[0]) and all(
        math.isclose(one or 0.0, other or 0.0, rel_tol=_FACTOR_TOLERANCE)
        for one, other in zip(stated_as, rescaled_to, strict=True)
    )
    if unit and not same:
        raise SuvUnknown("(0040,9096) Real World Value Mapping Sequence scales otherwise than the rescaled values")
    return unit


def _check_corrections(ds: Dataset) -> None:
    """Refuse values that attenuation or decay still diminishes (PS3.3 C.8.9.1; of enhanced images C.8.22.6)."""
    corrected = texts(ds, "CorrectedImage")
    if corrected and ("ATTN" not in corrected or not {"DECY", "DECAY"}.intersection(corrected)):
        raise SuvUnknown("(0028,0051) Corrected Image does not name ATTN and DECY: attenuation and decay")
    if text(ds, "AttenuationCorrected") == "NO":
        raise SuvUnknown("(0018,9759) Attenuation Corrected is NO")


def _of_counts(ds: Dataset) -> SuvFactors:
    """Philips states the factor itself, or how much activity a count is."""
    suv = private_numbers(ds, _PHILIPS_SUV_SCALE, 1)
    if suv and suv[0] > 0:
        return SuvFactors(suv[0])
    activity = private_numbers(ds, _PHILIPS_ACTIVITY_SCALE, 1)
    if not activity or activity[0] <= 0:
        raise SuvUnknown("(0054,1001) Units is CNTS and Philips' scale factors (7053,xx00) and (7053,xx09) are missing")
    found = _of_activity(ds)
    return SuvFactors(
        found.factor * activity[0], found.weight_kg, found.injected_dose_bq, found.half_life_s, found.decay_s
    )


def _of_activity(ds: Dataset) -> SuvFactors:
    weight = number(ds, "PatientWeight")
    injections = items(ds, "RadiopharmaceuticalInformationSequence")
    if not weight or weight <= 0:
        raise SuvUnknown("(0010,1030) Patient's Weight is missing")
    if not injections:
        raise SuvUnknown("(0054,0016) Radiopharmaceutical Information Sequence is missing")
    if len(injections) > 1:
        raise SuvUnknown("(0054,0016) Radiopharmaceutical Information Sequence tells of several injections")
    dose, half_life = injected_dose_bq(ds), number(injections[0], "RadionuclideHalfLife")
    if dose is None or not half_life or half_life <= 0:
        told = "(0018,1074) Radionuclide Total Dose or (0018,1075) Radionuclide Half Life is missing"
        raise SuvUnknown(f"{told}, or the dose cannot be in becquerels")
    decay = _decay_seconds(ds, injections[0], half_life)
    factor = weight * 1000 / (dose * 2 ** (-decay / half_life))
    return SuvFactors(factor, weight, dose, half_life, decay)


def injected_dose_bq(ds: Dataset) -> float | None:
    """Return Radionuclide Total Dose (0018,1074) of the first injection; None where it is missing or not in becquerels.

    PS3.3 C.8.9.2 counts it in Bq, C.8.22.4 of enhanced images in MBq, in which some writers count in Bq as well.
    """
    injections = items(ds, "RadiopharmaceuticalInformationSequence")
    dose = (number(injections[0], "RadionuclideTotalDose") if injections else None) or 0.0
    if 0 < dose < _MIN_DOSE_BQ and text(ds, "SOPClassUID") == EnhancedPETImageStorage:
        dose *= 1e6
    return dose if dose >= _MIN_DOSE_BQ else None


def _decay_seconds(ds: Dataset, injection: Dataset, half_life_s: float) -> float:
    """Return the time from the injection to the moment that Decay Correction (0054,1102) corrects to.

    Below zero of a dynamic scan that began before the injection.
    """
    correction = text(ds, "DecayCorrection").upper()
    if correction == "ADMIN":
        return 0.0
    corrected_to = instant_of(text(ds, "DecayCorrectionDateTime")) if text(ds, "DecayCorrected") == "YES" else None
    if correction != "START" and corrected_to is None:
        raise SuvUnknown("(0054,1102) Decay Correction is neither START nor ADMIN, and (0018,9701) tells no time of it")
    started = scan_start(ds) if corrected_to is None else corrected_to
    decay = None if started is None else since_injection(started, injection, half_life_s)
    if decay is None:
        raise SuvUnknown("the time of the injection or of the scan is missing")
    if decay < -(_MAX_LATE_INJECTION_S if "DYNAMIC" in texts(ds, "SeriesType") else 0):
        raise SuvUnknown(f"the scan begins {-decay:.0f} s before the injection")
    if decay > _MAX_HALF_LIVES * half_life_s:
        raise SuvUnknown(f"the scan begins {decay:.0f} s after the injection: more than {_MAX_HALF_LIVES} half-lives")
    return decay


def since_injection(started: float, injection: Dataset, half_life_s: float) -> float | None:
    """Return the seconds from the injection to an instant; of a time without date those to the nearest one."""
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
    """Return when the scan began; Series Time is only that if no image was acquired before it."""
    stated = instant_of(private_text(ds, _GE_SCAN_TIME))
    if stated is not None:
        return stated
    day = text(ds, "SeriesDate")
    series = instant(day, text(ds, "SeriesTime"))
    acquired = instant(text(ds, "AcquisitionDate") or day, text(ds, "AcquisitionTime"))
    if series is not None and acquired is not None and acquired < series:
        raise SuvUnknown("(0008,0031) Series Time is later than (0008,0032) Acquisition Time: the series was derived")
    return series

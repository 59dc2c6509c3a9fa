"""Standardised uptake values: the factor for PET values, and the doses, times and body sizes it is computed from."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from types import MappingProxyType

from pydicom.dataset import Dataset

from node.dicom.values import PrivateTag, items, number, private_numbers, text, texts
from node.errors import VoxelnodeError
from node.volume.describe.emission import SuvUnknown, injected_dose_bq, scan_start, since_injection
from node.volume.elements import stated_instant
from node.volume.model import Assembly, Display, Volume, VolumeKind
from node.volume.read.functional_groups import dataset_of_frame
from node.volume.reasons import VolumeWarning, WarningKind

BODY_WEIGHT = "BW"
BODY_SURFACE = "BSA"

_PHILIPS_SUV_SCALE = PrivateTag(0x7053, "Philips PET Private Group", 0x00, "DS")
_PHILIPS_ACTIVITY_SCALE = PrivateTag(0x7053, "Philips PET Private Group", 0x09, "DS")
_MAX_HALF_LIVES = 10
"""After this many half-lives a thousandth of the dose is left, so the times cannot belong to one examination."""

_DOSES_BQ_PER_KG = (1e4, 1e11)
"""A dose outside this range was written in another unit: the limits are a tenth of the least that gives an image of a
patient, and a hundred times the most that a mouse gets."""

_MAX_LATE_INJECTION_S = 1800.0
"""Latest injection after the beginning of a dynamic scan."""

_FACTOR_TOLERANCE = 1e-6
"""Allowed relative difference of the factors between the instances of a volume, which stem from rounded decimals."""

_UNITS = {
    "bq/ml": ("BQML", ""),
    "g/ml{suvbw}": ("GML", BODY_WEIGHT),
    "g/ml{suvlbm}": ("GML", "LBM"),
    "g/ml{suvlbm(james128)}": ("GML", "LBMJAMES128"),
    "cm2/ml{suvbsa}": ("CM2ML", BODY_SURFACE),
}
"""Codes of UCUM (PS3.16 CID 84, CID 85) in lower case, with their names in Units (0054,1001) and SUV Type."""

_NOT_OF_UPTAKE = ("RescaleType", "RealWorldValueSlope", "RealWorldValueIntercept", "RealWorldValueUnits")
"""Fields about activity that do not apply to the uptake volume."""

HEIGHTS_CM = (30.0, 250.0)
"""Patient's Size (0010,1020) outside this range is not a height in metres; some writers use centimetres."""


@dataclass(frozen=True, slots=True)
class SuvFactors:
    """Factor that turns rescaled values into SUV: ``suv = (stored * slope + intercept) * factor``.

    `size` is the size of the patient that the values are standardised by: g of body weight or of lean body mass, or cm2
    of body surface. `decay_s` is the time from the injection to the moment to which the values are decay corrected. The
    other fields are None if the scanner states the factor itself.
    """

    factor: float
    size: float | None = None
    weight_kg: float | None = None
    injected_dose_bq: float | None = None
    half_life_s: float | None = None
    decay_s: float | None = None


def with_uptake(
    assembly: Assembly, dataset_of: Callable[[str], Dataset], suv_types: Sequence[str] = (BODY_WEIGHT,)
) -> Assembly:
    """Return the volumes of a series, each PET volume followed by one of standardised uptake values for each type.

    Such a volume shares the voxels of the first; its slope and intercept turn them into g/ml or cm2/ml, its kind is
    ``suv``, and its attributes state what the factor was computed from. If a factor is unknown, the warning
    ``suv-unknown`` of the volume names what is missing.

    `suv_types`: Values of SUV Type (0054,1006).
    """
    volumes: list[Volume] = []
    for volume in assembly.volumes:
        if volume.modality != "PT" or volume.colour:
            volumes.append(volume)
            continue
        uptake, unknown = [], {}
        for suv_type in suv_types:
            try:
                uptake.append(_uptake(volume, _factors(volume, dataset_of, suv_type), suv_type))
            except (SuvUnknown, SizeUnknown) as error:
                unknown[suv_type] = str(error)
        volumes += [replace(volume, warnings=(*volume.warnings, *_unknown_uptake(unknown))), *uptake]
    return replace(assembly, volumes=tuple(volumes))


def _unknown_uptake(unknown: Mapping[str, str]) -> list[VolumeWarning]:
    """Return a warning for each cause, with the types that it concerns."""
    causes: dict[str, list[str]] = {}
    for suv_type, cause in unknown.items():
        causes.setdefault(cause, []).append(suv_type)
    return [
        VolumeWarning(WarningKind.SUV_UNKNOWN, f"no standardised uptake values ({', '.join(types)}): {cause}")
        for cause, types in causes.items()
    ]


def _factors(volume: Volume, dataset_of: Callable[[str], Dataset], suv_type: str) -> SuvFactors:
    """Return the factors that hold for every frame of a volume."""
    sources = sorted({(source.sop_instance_uid, source.frame_number) for source in volume.sources})
    first, *others = (suv_factor(dataset_of_frame(dataset_of(uid), frame), suv_type) for uid, frame in sources)
    if not all(math.isclose(other.factor, first.factor, rel_tol=_FACTOR_TOLERANCE) for other in others):
        raise SuvUnknown("the frames of the volume have different factors")
    return first


def _uptake(volume: Volume, factors: SuvFactors, suv_type: str) -> Volume:
    fields = {name: value for name, value in volume.attributes.items() if name not in _NOT_OF_UPTAKE}
    # Tells it from the uptake of the stored planes.
    resampled = VolumeKind.RESAMPLED.value if volume.kind is VolumeKind.RESAMPLED else ""
    unit = "cm2/mL" if suv_type == BODY_SURFACE else "g/mL"
    windows = tuple((centre * factors.factor, width * factors.factor) for centre, width in volume.display.windows)
    return replace(
        volume,
        kind=VolumeKind.SUV,
        suffix="-".join(filter(None, (volume.suffix, resampled, "" if suv_type == BODY_WEIGHT else suv_type.lower()))),
        slope=volume.slope * factors.factor,
        intercept=volume.intercept * factors.factor,
        display=Display(windows, volume.display.function, padding=volume.display.padding),
        attributes={**fields, "Units": unit, "SUVType": suv_type, "suv": asdict(factors)},
    )


def suv_factor(ds: Dataset, suv_type: str = BODY_WEIGHT) -> SuvFactors:
    """Return the factor of one PET image, or of one frame (`dataset_of_frame`).

    Raises SuvUnknown or SizeUnknown if units are not BQML, Philips' CNTS, GML or CM2ML, or an attribute is missing or
    impossible; the message names it.

    PS3.3 C.8.9.1 and C.8.9.2, for enhanced images C.8.22; and the vendor-neutral pseudo-code of the Quantitative
    Imaging Biomarkers Alliance.
    """
    units, stated_type = _units(ds)
    if units in ("GML", "CM2ML"):
        return _of_uptake(ds, units, stated_type, suv_type)
    _check_corrections(ds)
    if units == "CNTS":
        return _of_counts(ds, suv_type)
    if units == "BQML":
        return _of_activity(ds, suv_type)
    raise SuvUnknown(f"(0054,1001) Units {'is not' if units else 'is missing; it must be'} BQML, CNTS, GML or CM2ML")


def _of_uptake(ds: Dataset, units: str, stated_type: str, suv_type: str) -> SuvFactors:
    """Return the factor of values that are standardised already, perhaps by another size of the patient."""
    stated = stated_type or (BODY_SURFACE if units == "CM2ML" else BODY_WEIGHT)
    if stated not in SUV_TYPES or (units == "CM2ML") != (stated == BODY_SURFACE):
        raise SuvUnknown("(0054,1006) SUV Type is unknown, or contradicts (0054,1001) Units")
    return SuvFactors(1.0) if stated == suv_type else _standardised_again(ds, 1.0, stated, suv_type)


def _standardised_again(ds: Dataset, factor: float, stated: str, suv_type: str) -> SuvFactors:
    size = size_of(ds, suv_type)
    return SuvFactors(factor * size / size_of(ds, stated), size, _weight_kg(ds))


def _units(ds: Dataset) -> tuple[str, str]:
    """Return Units (0054,1001) and SUV Type (0054,1006), each empty if it is missing.

    For enhanced images: those of the unit of the real world values that rescaling gives.
    """
    stated = text(ds, "Units").upper()
    if stated:
        return stated, text(ds, "SUVType").upper()
    mapped = [
        (_UNITS[unit], _is_rescaled_to(ds, real))
        for real in items(ds, "RealWorldValueMappingSequence")
        for code in items(real, "MeasurementUnitsCodeSequence")
        if (unit := text(code, "CodeValue").lower()) in _UNITS
    ]
    given = {unit for unit, is_given in mapped if is_given}
    if mapped and len(given) != 1:
        raise SuvUnknown("(0040,9096) Real World Value Mapping Sequence and the rescaled values give different values")
    return next(iter(given), ("", ""))


def _is_rescaled_to(ds: Dataset, real: Dataset) -> bool:
    """Return whether rescaling gives the real world values of a mapping."""
    stated = (number(real, f"RealWorldValue{name}") for name in ("Slope", "Intercept"))
    rescaled = (number(ds, f"Rescale{name}") for name in ("Slope", "Intercept"))
    pairs = [(one or 0.0, other or 0.0) for one, other in zip(stated, rescaled, strict=True)]
    return pairs[0][0] != 0 and all(math.isclose(*pair, rel_tol=_FACTOR_TOLERANCE) for pair in pairs)


def _check_corrections(ds: Dataset) -> None:
    """Raise if the values are not corrected for attenuation and decay (PS3.3 C.8.9.1; for enhanced images C.8.22.6)."""
    corrected = texts(ds, "CorrectedImage")
    if corrected and ("ATTN" not in corrected or not {"DECY", "DECAY"}.intersection(corrected)):
        raise SuvUnknown("(0028,0051) Corrected Image must contain ATTN and DECY: attenuation and decay correction")
    if text(ds, "AttenuationCorrected") != "YES" and ("AttenuationCorrected" in ds or not corrected):
        raise SuvUnknown(
            "(0028,0051) Corrected Image is missing, or (0018,9759) Attenuation Corrected is not YES: the values may "
            "not be corrected for attenuation"
        )


def _of_counts(ds: Dataset, suv_type: str) -> SuvFactors:
    """Return the factor of Philips' counts, stated directly or as the activity per count."""
    suv = private_numbers(ds, _PHILIPS_SUV_SCALE, 1)
    if suv and suv[0] > 0:
        return SuvFactors(suv[0]) if suv_type == BODY_WEIGHT else _standardised_again(ds, suv[0], BODY_WEIGHT, suv_type)
    activity = private_numbers(ds, _PHILIPS_ACTIVITY_SCALE, 1)
    if not activity or activity[0] <= 0:
        raise SuvUnknown(
            "(0054,1001) Units is CNTS, but Philips' scale factors (7053,xx00) and (7053,xx09) are missing"
        )
    factors = _of_activity(ds, suv_type)
    return replace(factors, factor=factors.factor * activity[0])


def _of_activity(ds: Dataset, suv_type: str) -> SuvFactors:
    size, weight = size_of(ds, suv_type), _weight_kg(ds)
    injections = items(ds, "RadiopharmaceuticalInformationSequence")
    if not injections:
        raise SuvUnknown("(0054,0016) Radiopharmaceutical Information Sequence is missing")
    if len(injections) > 1:
        raise SuvUnknown("(0054,0016) Radiopharmaceutical Information Sequence has several injections")
    dose, half_life = injected_dose_bq(ds), number(injections[0], "RadionuclideHalfLife")
    if dose is None or not half_life or half_life <= 0:
        missing = "(0018,1074) Radionuclide Total Dose or (0018,1075) Radionuclide Half Life is missing"
        raise SuvUnknown(f"{missing}, or the dose cannot be in becquerels")
    if not _DOSES_BQ_PER_KG[0] <= dose / weight <= _DOSES_BQ_PER_KG[1]:
        raise SuvUnknown(
            "(0018,1074) Radionuclide Total Dose or (0010,1030) Patient's Weight cannot be in its unit: the dose for "
            "each kg is impossible"
        )
    decay = _decay_seconds(ds, half_life)
    factor = size / (dose * 2 ** (-decay / half_life))
    return SuvFactors(factor, size, weight, dose, half_life, decay)


def _decay_seconds(ds: Dataset, half_life_s: float) -> float:
    """Return the seconds from the injection to the moment to which Decay Correction (0054,1102) corrects.

    Negative for a dynamic scan that began before the injection.
    """
    correction = text(ds, "DecayCorrection").upper()
    if correction == "ADMIN":
        return 0.0
    corrected_to = stated_instant(ds, "DecayCorrectionDateTime") if text(ds, "DecayCorrected") == "YES" else None
    if correction != "START" and corrected_to is None:
        raise SuvUnknown(
            "(0054,1102) Decay Correction is neither START nor ADMIN, and (0018,9701) Decay Correction DateTime is "
            "missing"
        )
    started = scan_start(ds) if corrected_to is None else corrected_to
    decay = None if started is None else since_injection(started, ds, half_life_s)
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


class SizeUnknown(VoxelnodeError):
    """The data set does not state the size of the patient, or states an impossible one."""


def size_of(ds: Dataset, suv_type: str) -> float:
    """Return what the dose per activity is multiplied by: g of body weight or lean body mass, cm2 of body surface.

    `suv_type`: a value of SUV Type (0054,1006): one of `SUV_TYPES`.

    Raises SizeUnknown if an attribute is missing or impossible; the message names it.

    PS3.16, codes (DCM) 126401 BW, 126402 LBM, 126405 LBMJAMES128 and 126403 BSA.
    """
    return SUV_TYPES[suv_type](ds)


def _weight_kg(ds: Dataset) -> float:
    """Return Patient's Weight (0010,1030) in kg."""
    weight = number(ds, "PatientWeight")
    if not weight or weight <= 0:
        raise SizeUnknown("(0010,1030) Patient's Weight is missing")
    return weight


def _height_cm(ds: Dataset) -> float:
    height = 100 * (number(ds, "PatientSize") or 0.0)
    if not HEIGHTS_CM[0] <= height <= HEIGHTS_CM[1]:
        raise SizeUnknown("(0010,1020) Patient's Size is missing, or not a height in metres")
    return height


def _lean_body_mass_g(ds: Dataset, quadratic_of_men: float) -> float:
    """Return the lean body mass by James' formula; men's quadratic term has been published with 120 and with 128."""
    terms = {"M": (1.10, quadratic_of_men), "F": (1.07, 148.0)}.get(text(ds, "PatientSex"))
    if terms is None:
        raise SizeUnknown("(0010,0040) Patient's Sex is neither M nor F, which the formula for lean body mass needs")
    weight = _weight_kg(ds)
    lean_kg = terms[0] * weight - terms[1] * (weight / _height_cm(ds)) ** 2
    if lean_kg <= 0:
        raise SizeUnknown("(0010,1030) Patient's Weight and (0010,1020) Patient's Size give no lean body mass above 0")
    return 1000 * lean_kg


def _body_surface_cm2(ds: Dataset) -> float:
    """Return the body surface by the formula of Du Bois, whose factor gives m2."""
    square_metres: float = _weight_kg(ds) ** 0.425 * _height_cm(ds) ** 0.725 * 0.007184
    return 1e4 * square_metres


SUV_TYPES: Mapping[str, Callable[[Dataset], float]] = MappingProxyType(
    {
        BODY_WEIGHT: lambda ds: 1000 * _weight_kg(ds),
        "LBM": lambda ds: _lean_body_mass_g(ds, 120.0),
        "LBMJAMES128": lambda ds: _lean_body_mass_g(ds, 128.0),
        BODY_SURFACE: _body_surface_cm2,
    }
)
"""The size of the patient for each SUV Type (0054,1006) that can be computed."""

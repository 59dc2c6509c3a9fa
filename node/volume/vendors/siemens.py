"""Siemens: diffusion of the V series and of XA, and fields of the sidecar.

They come from private elements, from the CSA headers (0029,xx10) and (0029,xx20) of ``SIEMENS CSA HEADER``, and from
the measurement protocol, which is text in the latter.
"""

import math
import re
import struct
from collections.abc import Callable, Mapping
from functools import lru_cache, partial
from types import MappingProxyType
from typing import Any

from pydicom.dataset import Dataset

from node.dicom.values import PrivateTag, private_bytes, private_numbers, private_text, private_texts, text, texts
from node.volume.vendors.fields import Gradient, VendorField, gradient_of_matrix, notation, rounded, text_field

_MAX_ELEMENTS = 1000
_MAX_ITEMS = 10000
_ELEMENT = struct.Struct("<64si4siii")
_ITEM = struct.Struct("<4i")
_PROTOCOL = re.compile(rb"### ASCCONV BEGIN.*?###(.*?)### ASCCONV END", re.DOTALL)
_ASSIGNMENT = re.compile(r"^\s*([A-Za-z_][\w.\[\]]*)\s*=\s*(.*?)\s*$", re.MULTILINE)

CsaHeader = Mapping[str, tuple[str, ...]]
"""Texts by the name of their element."""

HEADER = "SIEMENS MR HEADER"
_CSA = "SIEMENS CSA HEADER"
_HEADER_KIND = PrivateTag(0x0019, HEADER, 0x08, "CS")
_B_VALUE = PrivateTag(0x0019, HEADER, 0x0C, "IS")
_DIRECTIONALITY = PrivateTag(0x0019, HEADER, 0x0D, "CS")
_DIRECTION = PrivateTag(0x0019, HEADER, 0x0E, "FD")
_B_MATRIX = PrivateTag(0x0019, HEADER, 0x27, "FD")
_CSA_IMAGE = PrivateTag(0x0029, _CSA, 0x10, "OB")
_CSA_SERIES = PrivateTag(0x0029, _CSA, 0x20, "OB")
XA_SERIES = PrivateTag(0x0021, "SIEMENS MR SDS 01", 0xFE, "SQ")
"""Private item of XA about all frames, in the Shared Functional Groups."""
XA_FRAME = PrivateTag(0x0021, "SIEMENS MR SDI 02", 0xFE, "SQ")
"""Private item of XA about one frame, in its functional groups."""
IMAGE_TYPE = PrivateTag(0x0021, "SIEMENS MR SDI 02", 0x75, "CS")
_XA_PROTOCOL = PrivateTag(0x0021, "SIEMENS MR SDS 01", 0x19, "OB")

_SDI, _SDS = "SIEMENS MR SDI 02", "SIEMENS MR SDS 01"
_DWELL_TIMES = (PrivateTag(0x0019, HEADER, 0x18, "IS"), PrivateTag(0x0021, _SDI, 0x42, "IS"))
_COILS = (PrivateTag(0x0051, HEADER, 0x0F, "LO"), PrivateTag(0x0021, _SDI, 0x4F, "LO"))
_COIL_ELEMENT = re.compile(r"([^;,-]*?)(\d+)", re.ASCII)
"""The name of one coil element, such as ``H12``; those of several are ``HEA;HEP`` or ``HE1-4``."""
_TABLE_POSITIONS = (
    PrivateTag(0x0019, HEADER, 0x14, "IS"),
    PrivateTag(0x0021, _SDI, 0x59, "IS"),
    PrivateTag(0x0021, _SDS, 0x05, "IS"),
)
_ACCELERATIONS = (
    PrivateTag(0x0051, HEADER, 0x11, "LO"),
    PrivateTag(0x0021, _SDI, 0x56, "LO"),
    PrivateTag(0x0021, _SDS, 0x09, "LO"),
)
"""Acceleration as text: ``p2`` in plane, ``s3`` slices excited together, ``p2 s3``."""

_ORIENTATION_TEXT = PrivateTag(0x0051, HEADER, 0x0E, "SH")
_BASELINE = PrivateTag(0x0021, _SDS, 0x10, "IS")
_SEQUENCE = {
    "ScanningSequence": PrivateTag(0x0021, _SDS, 0x5A, "CS"),
    "SequenceVariant": PrivateTag(0x0021, _SDS, 0x5B, "CS"),
    "ScanOptions": PrivateTag(0x0021, _SDS, 0x5C, "CS"),
}
_IN_PLANE, _TOGETHER = re.compile(r"p(\d+)"), re.compile(r"s(\d+)")
_VELOCITIES = (PrivateTag(0x0051, HEADER, 0x14, "SH"), PrivateTag(0x0021, _SDI, 0x29, "SH"))
"""Velocity encoding as text, such as ``v150_through``."""
_ENCODED = re.compile(r"(?:^|_)v(\d+(?:\.\d+)?)(?:_?([a-z]+))?$", re.ASCII | re.IGNORECASE)
_RECEIVE_COIL = re.compile(
    r"(asCoilSelectMeas|sCoilSelectMeas\.aRxCoilSelectData)\[0\]\.asList\[\d+\]\.sCoilElementID\.tCoilID"
)
_WEIGHTED_NAME = re.compile(r"_b(\d{1,6})(?:t|#\d+)?$", re.ASCII)
"""The end of the name of a sequence: the nominal b-value, then ``t`` of a trace or the number of a direction."""
_PARTIAL_FOURIER = {1: 0.5, 2: 0.625, 4: 0.75, 8: 0.875, 16: 1.0}
_FIELD_MAPPING = "\\gre_field_mapping"
"""The sequence whose phase images are the difference of two echoes."""

_PRODUCT = "%SiemensSeq%\\"
"""Prefix of the vendor's own sequences; the names of others are chosen by those who wrote them."""

_SHIMS = (
    *(f"sGRADSPEC{place}.lOffset{axis}" for place in (".asGPAData[0]", "") for axis in "XYZ"),
    *(f"sGRADSPEC.alShimCurrent[{term}]" for term in range(5)),
)
_MICRO, _NANO = 1e-6, 1e-9
_ASL_OFF, _SUPPRESSION_OFF = 1, 1
"""Values of sAsl.ulMode and sAsl.ulSuppressionMode when nothing is labelled, or nothing suppressed."""


@lru_cache(maxsize=8)
def parse_csa(data: bytes) -> CsaHeader:
    """Return the elements of a CSA header, of version 1 or 2, as text by name; elements without a value are left out.

    A broken element ends the parsing; the elements before it are returned.

    Siemens documents neither version. Both are a list of elements of 84 bytes (name, multiplicity, value
    representation, type, number of items, check), each followed by its items: four integers with the length, then the
    text, padded to four bytes. Version 2 begins with ``SV10``. Version 1 adds a constant to its lengths: the number of
    items of the first element.
    """
    second = data.startswith(b"SV10")
    at = 8 if second else 0
    count = int.from_bytes(data[at : at + 4], "little")
    at += 8
    elements: dict[str, tuple[str, ...]] = {}
    origin: int | None = None
    for _ in range(count if count <= _MAX_ELEMENTS else 0):
        if at + _ELEMENT.size > len(data):
            break
        name, _vm, _vr, _type, items, _check = _ELEMENT.unpack_from(data, at)
        at += _ELEMENT.size
        origin = items if origin is None else origin
        read = _items(data, at, items, 0 if second else origin, second)
        if read is None:
            break
        values, at = read
        if values:
            elements[name.split(b"\0")[0].decode("latin-1")] = values
    return MappingProxyType(elements)


def _items(data: bytes, at: int, count: int, origin: int, second: bool) -> tuple[tuple[str, ...], int] | None:
    """Return the texts of an element's items and the offset after them, or None if they run past the end."""
    if not 0 <= count <= _MAX_ITEMS:
        return None
    values = []
    for _ in range(count):
        if at + _ITEM.size > len(data):
            return None
        lengths = _ITEM.unpack_from(data, at)
        at += _ITEM.size
        length = lengths[1] if second else lengths[0] - origin
        if length < 0 or at + length > len(data):
            return None
        value = data[at : at + length].split(b"\0")[0].decode("latin-1").strip()
        if value:
            values.append(value)
        at += -(-length // 4) * 4
    return tuple(values), at


def csa_numbers(elements: CsaHeader, name: str, count: int | None = None) -> tuple[float, ...] | None:
    """Return the finite numbers of a CSA element; None unless there are `count` of them (if given)."""
    try:
        numbers = tuple(map(float, elements.get(name, ())))
    except ValueError:
        return None
    is_valid = numbers and all(map(math.isfinite, numbers)) and (count is None or len(numbers) == count)
    return numbers if is_valid else None


@lru_cache(maxsize=8)
def parse_protocol(data: bytes) -> Mapping[str, str]:
    """Return the assignments of the protocol (``### ASCCONV BEGIN ### name = value``) inside a header or a text.

    Names are as written, ``sSliceArray.asSlice[3].sPosition.dTra``; values have no quotes. The last protocol counts.
    """
    protocols = _PROTOCOL.findall(data)
    text = protocols[-1].decode("latin-1") if protocols else ""
    return MappingProxyType({name: value.strip('"') for name, value in _ASSIGNMENT.findall(text)})


def protocol_integer(protocol: Mapping[str, str], name: str) -> int | None:
    """Return an integer of the protocol, which older software writes in hexadecimal; None if it is absent."""
    try:
        return int(protocol[name], 0)
    except (KeyError, ValueError):
        return None


def is_noise(ds: Dataset) -> bool:
    """Return whether an image, or the frame that this private item is about, was acquired without excitation."""
    return "NOISE" in private_texts(ds, IMAGE_TYPE)


def coil(ds: Dataset) -> str | None:
    """Return the name of the coil of an image, or of the frame that this private item is about."""
    return next(filter(None, (private_text(ds, tag) for tag in _COILS)), None)


def coil_element(name: str | None) -> tuple[str, int] | None:
    """Return letters and number of the coil element that a name is of; None if it is of several."""
    match = _COIL_ELEMENT.fullmatch(name or "")
    return (match[1], int(match[2])) if match else None


def csa_image(ds: Dataset) -> CsaHeader:
    """Return the elements of the CSA image header (0029,xx10); empty if it was stripped."""
    return parse_csa(private_bytes(ds, _CSA_IMAGE) or b"")


def csa_series(ds: Dataset) -> CsaHeader:
    """Return the elements of the CSA series header (0029,xx20); empty if it was stripped, and for XA."""
    return parse_csa(private_bytes(ds, _CSA_SERIES) or b"")


def protocol(ds: Dataset) -> Mapping[str, str]:
    """Return the measurement protocol from the CSA series header (0029,xx20) or, for XA, from (0021,xx19), or empty."""
    for tag in (_CSA_SERIES, _XA_PROTOCOL):
        assignments = parse_protocol(private_bytes(ds, tag) or b"")
        if assignments:
            return assignments
    return {}


def gradient(ds: Dataset) -> Gradient | None:
    """Return the diffusion weighting of the private header (0019,xx0C), (0019,xx0E), or of the CSA header."""
    b_value = private_numbers(ds, _B_VALUE, 1)
    if b_value and b_value[0] >= 0:
        matrix = private_numbers(ds, _B_MATRIX, 6)
        return _gradient(b_value[0], private_text(ds, _DIRECTIONALITY), private_numbers(ds, _DIRECTION, 3), matrix)
    if private_text(ds, _HEADER_KIND):
        return None  # software that writes this group has the b-value in it; the CSA header is slower to read
    csa = csa_image(ds)
    b_value = csa_numbers(csa, "B_value", 1)
    if not b_value or b_value[0] < 0:
        return None
    directionality = csa.get("DiffusionDirectionality", ("",))[0]
    direction = csa_numbers(csa, "DiffusionGradientDirection", 3)
    return _gradient(b_value[0], directionality, direction, csa_numbers(csa, "B_matrix", 6))


def named_b_value(ds: Dataset) -> float | None:
    """Return the nominal b-value in s/mm2 by Sequence Name (0018,0024), such as ``*ep_b1000#3``; else None."""
    match = _WEIGHTED_NAME.search(text(ds, "SequenceName"))
    return float(match[1]) if match else None


def _gradient(
    b_value: float, directionality: str, direction: tuple[float, ...] | None, matrix: tuple[float, ...] | None
) -> Gradient:
    isotropic = directionality.upper() == "ISOTROPIC"
    if direction is None and matrix is not None and not isotropic:
        direction = gradient_of_matrix(matrix).direction_lps
    return Gradient(b_value, direction, isotropic)


def velocity(name: str) -> tuple[float, str] | None:
    """Return velocity encoding in cm/s and its direction by a text such as ``v150_through``, or the name of a sequence.

    Names end in it, as ``fl3d1_v150in`` does; None for others.
    """
    match = _ENCODED.search(name)
    return (float(match[1]), (match[2] or "").lower()) if match else None


def _velocity_encoding(ds: Dataset) -> float | None:
    """Return the encoded velocity in cm/s."""
    stated = csa_numbers(csa_image(ds), "FlowVenc", 1)
    if stated and stated[0] > 0:
        return rounded(stated[0], 6)
    names = (*(private_text(ds, tag) for tag in _VELOCITIES), text(ds, "SequenceName"))
    return next((encoded[0] for encoded in map(velocity, names) if encoded and encoded[0]), None)


def _planned(name: str, key: str, read: Callable[[str], Any]) -> VendorField:
    """Return a field that one assignment of the protocol states."""
    return VendorField(name, f"protocol {key}", partial(_assigned, key, read))


def _assigned(key: str, read: Callable[[str], Any], ds: Dataset) -> Any:
    try:
        return read(protocol(ds)[key])
    except (KeyError, ValueError):
        return None


def _count(text: str) -> int | None:
    number = int(text, 0)
    return number if number > 0 else None


def _number(text: str, factor: float = 1.0) -> float | None:
    number = float(text) * factor
    return rounded(number, 9) if 0 < number < math.inf else None


def _averages(text: str) -> float | None:
    """Return a number of averages that may be a fraction; one is none."""
    number = float(text)
    return rounded(number, 9) if 1 < number < math.inf else None


def _one_of(names: dict[int, Any], text: str) -> Any:
    return names.get(int(text, 0))


def _texts(tag: PrivateTag, ds: Dataset) -> list[str]:
    return list(private_texts(ds, tag))


def _dwell_time(ds: Dataset) -> float | None:
    stated = next(filter(None, (private_numbers(ds, tag, 1) for tag in _DWELL_TIMES)), None)
    nanoseconds = stated or csa_numbers(csa_image(ds), "RealDwellTime", 1)
    return rounded(nanoseconds[0] * _NANO, 9) if nanoseconds and nanoseconds[0] > 0 else None


def _active_coils(ds: Dataset) -> str:
    stated = (
        *(private_text(ds, tag) for tag in _COILS),
        csa_image(ds).get("ImaCoilString", ("",))[0],
        csa_series(ds).get("CoilString", ("",))[0],
    )
    return next(filter(None, stated), "")


def _table_position(ds: Dataset) -> list[float] | None:
    stated = next(filter(None, (private_numbers(ds, tag, 3) for tag in _TABLE_POSITIONS)), None)
    position = (
        stated
        or csa_numbers(csa_image(ds), "ImaRelTablePosition", 3)
        or csa_numbers(csa_series(ds), "RelTablePosition", 3)
    )
    return list(position) if position else None


def _baseline(ds: Dataset) -> str:
    version = private_numbers(ds, _BASELINE, 1)
    return f"{version[0]:.0f}" if version else ""


def _acceleration(pattern: re.Pattern[str], ds: Dataset) -> int | None:
    stated = (*(private_text(ds, tag) for tag in _ACCELERATIONS), *csa_series(ds).get("PATModeText", ()))
    matches = map(pattern.search, stated)
    return next((int(match[1]) for match in matches if match and int(match[1]) > 1), None)


def _bands(ds: Dataset) -> int | None:
    """Return the planned number of slices that are excited together.

    Third-party sequences leave a 1 here even if they use several, so that 1 says nothing.
    """
    bands = protocol_integer(protocol(ds), "sSliceAcceleration.lMultiBandFactor")
    return bands if bands and bands > 1 else None


def _is_corrected(ds: Dataset) -> bool | None:
    """Return whether the distortion by gradients was corrected (``DIS2D``, ``DIS3D``), or not (``ND``)."""
    kinds = {"ND", "DIS2D", "DIS3D"}.intersection(private_texts(ds, IMAGE_TYPE))
    return "ND" not in kinds if kinds else None


def _echo_of_difference(key: str, ds: Dataset) -> float | None:
    """Return one of the two echoes of a phase difference."""
    planned = protocol(ds)
    kinds = (*texts(ds, "ImageType"), *private_texts(ds, IMAGE_TYPE))
    if "P" not in kinds or not planned.get("tSequenceFileName", "").endswith(_FIELD_MAPPING):
        return None
    microseconds = protocol_integer(planned, key)
    return microseconds / 1_000_000 if microseconds else None


def _receive_coil(ds: Dataset) -> str:
    names = {value for name, value in protocol(ds).items() if _RECEIVE_COIL.fullmatch(name)}
    return names.pop() if len(names) == 1 else ""


def _shims(ds: Dataset) -> list[int] | None:
    """Return three gradient offsets and five currents of the second order, as the protocol numbers them."""
    planned = protocol(ds)
    values = [protocol_integer(planned, key) for key in _SHIMS]
    first, older, second = values[:3], values[3:6], values[6:]
    offsets = older if not any(first) else first
    return [value or 0 for value in (*offsets, *second)] if any(offsets) else None


def _product_sequence(ds: Dataset) -> str:
    name = protocol(ds).get("tSequenceFileName", "")
    return name if name.startswith(_PRODUCT) else ""


def _echo_of_name(ds: Dataset) -> str:
    """Return the kind of echo of an echo-planar sequence that states no other: a free induction decay (``epfid``)."""
    kinds, name = texts(ds, "ScanningSequence"), text(ds, "SequenceName").lstrip("*")
    return "GRADIENT" if "EP" in kinds and "SE" not in kinds and name.startswith("epfid") else ""


def _is_labelled(ds: Dataset) -> bool:
    return (protocol_integer(protocol(ds), "sAsl.ulMode") or _ASL_OFF) != _ASL_OFF


def _labelling(ds: Dataset) -> str | None:
    """Return the kind of labelling, which only the name of the sequence tells."""
    name = protocol(ds).get("tSequenceFileName", "").lower()
    return "PCASL" if "pcasl" in name else "PASL" if "pasl" in name or "fairest" in name else None


def _is_pulsed(ds: Dataset) -> bool:
    """Return whether the vendor's pulsed labelling was used; others use its inversion times otherwise."""
    return _product_sequence(ds).endswith(("ep2d_pasl", "tgse_pasl"))


def _seconds(key: str, is_used: Callable[[Dataset], bool], ds: Dataset) -> float | None:
    microseconds = protocol_integer(protocol(ds), key)
    return microseconds / 1_000_000 if microseconds and microseconds > 0 and is_used(ds) else None


def _is_suppressed(ds: Dataset) -> bool | None:
    mode = protocol_integer(protocol(ds), "sAsl.ulSuppressionMode")
    return mode != _SUPPRESSION_OFF if mode and _is_labelled(ds) else None


def _diffusion_scheme(ds: Dataset) -> str | None:
    """Return the scheme of a diffusion sequence; the protocols of other sequences hold a value that means nothing."""
    if "diff" not in protocol(ds).get("tSequenceFileName", ""):
        return None
    scheme = protocol_integer(protocol(ds), "sDiffusion.dsScheme")
    return {1: "Bipolar", 2: "Monopolar"}.get(scheme or 0)


_PAT_TEXTS = f"{' or '.join(map(notation, _ACCELERATIONS))}, CSA PATModeText"

FIELDS = (
    VendorField("DwellTime", f"{' or '.join(map(notation, _DWELL_TIMES))}, CSA RealDwellTime", _dwell_time),
    VendorField(
        "ReceiveCoilActiveElements",
        f"{' or '.join(map(notation, _COILS))}, CSA ImaCoilString, CoilString",
        _active_coils,
    ),
    text_field("CoilString", _COILS[0]),
    VendorField(
        "TablePosition",
        f"{' or '.join(map(notation, _TABLE_POSITIONS))}, CSA ImaRelTablePosition, RelTablePosition",
        _table_position,
    ),
    *(
        VendorField(name, notation(tag), partial(_texts, tag))
        for name, tag in (*_SEQUENCE.items(), ("ImageTypeText", IMAGE_TYPE))
    ),
    VendorField("NonlinearGradientCorrection", f"{notation(IMAGE_TYPE)}: DIS2D, DIS3D, ND", _is_corrected),
    text_field("ImageOrientationText", _ORIENTATION_TEXT),
    VendorField("EchoTime1", "protocol alTE[0] of a phase difference", partial(_echo_of_difference, "alTE[0]")),
    VendorField("EchoTime2", "protocol alTE[1] of a phase difference", partial(_echo_of_difference, "alTE[1]")),
    _planned("ParallelReductionFactorInPlane", "sPat.lAccelFactPE", _count),
    VendorField("ParallelReductionFactorInPlane", f"{_PAT_TEXTS}: p2", partial(_acceleration, _IN_PLANE)),
    _planned("ParallelReductionFactorOutOfPlane", "sPat.lAccelFact3D", _count),
    _planned("ParallelAcquisitionTechnique", "sPat.ucPATMode", partial(_one_of, {2: "GRAPPA"})),
    _planned("MatrixCoilMode", "sPat.ucPATMode", partial(_one_of, {2: "GRAPPA", 4: "SENSE"})),
    _planned("RefLinesPE", "sPat.lRefLinesPE", _count),
    VendorField("MultibandAccelerationFactor", "protocol sSliceAcceleration.lMultiBandFactor", _bands),
    VendorField("MultibandAccelerationFactor", f"{_PAT_TEXTS}: s2", partial(_acceleration, _TOGETHER)),
    _planned("PartialFourier", "sKSpace.ucPhasePartialFourier", partial(_one_of, _PARTIAL_FOURIER)),
    _planned("BaseResolution", "sKSpace.lBaseResolution", _count),
    _planned("PhaseResolution", "sKSpace.dPhaseResolution", _number),
    _planned("PhaseOversampling", "sKSpace.dPhaseOversamplingForDialog", _number),
    _planned("AveragesDouble", "dAveragesDouble", _averages),
    _planned("Interpolation2D", "sKSpace.uc2DInterpolation", partial(_one_of, {1: 1})),
    VendorField("ReceiveCoilName", "protocol ...tCoilID", _receive_coil),
    _planned(
        "CoilCombinationMethod", "ucCoilCombineMode", partial(_one_of, {1: "Sum of Squares", 2: "Adaptive Combine"})
    ),
    _planned("DelayTime", "lDelayTimeInTR", partial(_number, factor=_MICRO)),
    _planned("VendorReportedEchoSpacing", "sFastImaging.lEchoSpacing", partial(_number, factor=_MICRO)),
    _planned("TxRefAmp", "sTXSPEC.asNucleusInfo[0].flReferenceAmplitude", _number),
    VendorField("ShimSetting", "protocol sGRADSPEC...lOffsetX, Y, Z, sGRADSPEC.alShimCurrent", _shims),
    _planned("ConsistencyInfo", "sProtConsistencyInfo.tMeasuredBaselineString", str),
    _planned("ConsistencyInfo", "sProtConsistencyInfo.tBaselineString", str),
    VendorField("ConsistencyInfo", notation(_BASELINE), _baseline),
    _planned("MTState", "sPrepPulses.ucMTC", partial(_one_of, {1: True})),
    VendorField("PulseSequenceDetails", "protocol tSequenceFileName of the vendor's sequences", _product_sequence),
    VendorField("EchoPulseSequence", "beginning of SequenceName (0018,0024): epfid", _echo_of_name),
    VendorField("DiffusionScheme", "protocol sDiffusion.dsScheme of diffusion sequences", _diffusion_scheme),
    VendorField("ArterialSpinLabelingType", "protocol tSequenceFileName", _labelling),
    *(
        VendorField(name, f"protocol {key}{suffix}", partial(_seconds, key, is_used))
        for name, key, suffix, is_used in (
            ("LabelingDuration", "sAsl.ulLabelingDuration", "", _is_labelled),
            ("PostLabelingDelay", "sAsl.sPostLabelingDelay[0]", "", _is_labelled),
            ("PostLabelingDelay", "alTI[2]", " of pulsed labelling", _is_pulsed),
            ("BolusCutOffDelayTime", "alTI[0]", " of pulsed labelling", _is_pulsed),
        )
    ),
    VendorField(
        "VelocityEncodingMaximumValue",
        f"CSA FlowVenc, {' or '.join(map(notation, _VELOCITIES))}, end of SequenceName (0018,0024)",
        _velocity_encoding,
    ),
    VendorField("BackgroundSuppression", "protocol sAsl.ulSuppressionMode", _is_suppressed),
)
"""What Siemens' images state, those of the V series and the private items of XA."""

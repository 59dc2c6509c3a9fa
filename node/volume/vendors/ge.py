"""GE: diffusion, kind of image, slice timing, polarity of phase encoding, protocol block, fields of the sidecar."""

import math
import re
import struct
import zlib
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import Any

import numpy as np
from pydicom.dataset import Dataset

from node.dicom.values import (
    PrivateTag,
    as_numbers,
    number,
    numbers,
    private_bytes,
    private_numbers,
    private_text,
    private_texts,
    text,
)
from node.volume.vendors.fields import (
    Gradient,
    VendorField,
    along_encoding,
    counted,
    notation,
    number_field,
    positive,
    rounded,
    text_field,
)

_ACQUISITION = "GEMS_ACQU_01"
_PARAMETERS = "GEMS_PARM_01"
_B_VALUE = PrivateTag(0x0043, _PARAMETERS, 0x39, "IS")
_IMAGE_KIND = PrivateTag(0x0043, _PARAMETERS, 0x2F, "SS")
_DIRECTION = tuple(PrivateTag(0x0019, _ACQUISITION, offset, "DS") for offset in (0xBB, 0xBC, 0xBD))
_RAW_DATA_RUN = PrivateTag(0x0019, _ACQUISITION, 0xA2, "SL")
_ECHOES = PrivateTag(0x0019, _ACQUISITION, 0xA9, "DS")
_PROTOCOL = PrivateTag(0x0025, "GEMS_SERS_01", 0x1B, "OB")
_SEQUENCE = PrivateTag(0x0019, _ACQUISITION, 0x9E, "LO")
_SEQUENCE_FILE = PrivateTag(0x0019, _ACQUISITION, 0x9C, "LO")
_GRADIENT_CYCLES = PrivateTag(0x0019, _ACQUISITION, 0xB3, "DS")
"""A variable of the sequence; for diffusion, over how many repetitions it spreads the slices of a volume, or 0."""
_COLLAPSE_FLAG = PrivateTag(0x0043, _PARAMETERS, 0x30, "SS")
_KIND_OF_DIRECTIONS = PrivateTag(0x0021, "GEMS_RELA_01", 0x5A, "SL")
_SLICE_TIMER = PrivateTag(0x0021, "GEMS_RELA_01", 0x5E, "DS")
MULTIBAND = PrivateTag(0x0043, _PARAMETERS, 0xB6, "LO")
GROUP_DELAY = PrivateTag(0x0043, _PARAMETERS, 0x7C, "FL")
_RECONSTRUCTION = PrivateTag(0x0043, _PARAMETERS, 0x2A, "OB")
"""User defined data: the header of GE's raw data ("P-file"), with the settings of the reconstruction."""

_SEQUENTIAL, _INTERLEAVED = "0", "1"
_KINDS = {0: "magnitude", 1: "phase", 2: "real", 3: "imaginary"}
_MAX_PROTOCOL_BYTES = 1 << 20
_GZIP = b"\x1f\x8b"
_FIELD_MAPPING = re.compile(r"b0(map|rf)$", re.IGNORECASE)
_SETTING = re.compile(rb'^(\w+) +"(.*?)"', re.MULTILINE)

_USER_DATA_12 = PrivateTag(0x0019, _ACQUISITION, 0xB3, "DS")
_SCHEMES = {2.0: 0, 3.0: 1}

_POLARITIES = {"LINEAR": False, "REVERSE_LINEAR": True}
"""GE's use of Rectilinear Phase Encode Reordering (0018,9034): whether lines are encoded along increasing index."""

_VERSIONS = (5.0, 40.0)
"""Versions of the header of raw data whose layout is known; others mean that something else is stored."""

_MOVED_VERSION = 25.002
"""Since this version, the header begins with 76 more bytes, and 140 bytes before the direction are gone."""

COMBINED = 15
"""The flag (0043,xx30) of images that combine those of all directions."""

TENSOR = 16
"""The flag (0043,xx30) of images, and the kind of directions (0021,xx5A) of scans, by a tensor file."""

B_VALUE_FLAG = 100_000
"""(0043,xx39) holds the b-value below this number; multiples of it are flags."""

SCALED_LENGTHS = (0.03, 0.97)
"""Directions with lengths in this range are scaled on purpose; they are neither unit vectors nor noise around zero."""

_IMAGE = "GEMS_IMAG_01"
_ACQUIRED_PARTS = PrivateTag(0x0043, _PARAMETERS, 0x83, "DS")
_LABELING = PrivateTag(0x0043, _PARAMETERS, 0xA3, "CS")
_LABELING_DURATION = PrivateTag(0x0043, _PARAMETERS, 0xA5, "IS")
_TABLE = PrivateTag(0x0043, _PARAMETERS, 0xB2, "LO")
_SHIMS = tuple(PrivateTag(0x0043, _PARAMETERS, offset, "SS") for offset in (0x02, 0x03, 0x04))
_DIRECTIONS = PrivateTag(0x0019, _ACQUISITION, 0xE0, "DS")
_UNWEIGHTED = PrivateTag(0x0019, _ACQUISITION, 0xDF, "DS")
_POINTS_PER_ARM, _ARMS, _EXCITATIONS = (PrivateTag(0x0027, _IMAGE, offset, "FL") for offset in (0x60, 0x61, 0x62))
_DIFFUSION_SEQUENCE = "EPI2"
_KINDS_OF_LABELLING = {"PSEUDOCONTINUOUS": "PCASL", "PULSED": "PASL"}
"""``CONTINUOUS`` are the proton density images beside perfusion images, which are not labelled."""

_FLOW_AXIS = PrivateTag(0x0019, _ACQUISITION, 0xCB, "SS")
_VELOCITY = PrivateTag(0x0019, _ACQUISITION, 0xCC, "SS")
"""Encoded velocity in mm/s; 0 if none is encoded."""

_MICRO, _MILLI, _CENTIMETRES = 1e-6, 1e-3, 0.1


def component(ds: Dataset) -> str | None:
    """Return the kind of pixel by (0043,xx2F)."""
    kind = private_numbers(ds, _IMAGE_KIND, 1)
    return _KINDS.get(int(kind[0])) if kind else None


def raw_data_run(ds: Dataset) -> tuple[int, int] | None:
    """Return the number of echoes (0019,xxA9) and the run of raw data (0019,xxA2), if there are several echoes.

    (0019,xxA9) is a sequence variable in which multi-echo sequences store the number of echoes.
    """
    echoes, run = private_numbers(ds, _ECHOES, 1), private_numbers(ds, _RAW_DATA_RUN, 1)
    return (int(echoes[0]), int(run[0])) if echoes and run and echoes[0] > 1 else None


def collapse_flag(ds: Dataset) -> int | None:
    """Return the flag (0043,xx30) that separates kinds of images of one series: direction, trace, field map, ..."""
    flag = private_numbers(ds, _COLLAPSE_FLAG, 1)
    return int(flag[0]) if flag else None


def velocity(ds: Dataset) -> tuple[float, ...] | None:
    """Return the flow axis (0019,xxCB), a number for each direction, and the encoded velocity (0019,xxCC) in mm/s."""
    encoded = private_numbers(ds, _VELOCITY, 1)
    return (*(private_numbers(ds, _FLOW_AXIS, 1) or ()), *encoded) if encoded and encoded[0] else None


def maps_field(ds: Dataset) -> bool:
    """Return whether the sequence maps the field: its names (0019,xx9C) and (0019,xx9E) are B0map, B0rf or 3db0map."""
    return any(_FIELD_MAPPING.search(private_text(ds, tag)) for tag in (_SEQUENCE_FILE, _SEQUENCE))


def reverses_polarity(ds: Dataset) -> bool:
    """Return whether the sequence encodes some of its images with reversed polarity: its name (0019,xx9C) says so."""
    return "pepolar" in private_text(ds, _SEQUENCE_FILE).lower()


def first_reversed_volume(ds: Dataset) -> int | None:
    """Return the index, 0 or 1, from which every second volume of `epi_pepolar` is reversed; None if they are not.

    User Data 12 (0019,xxB3) has the scheme: 2 is reversed and forward in turns, 3 forward and reversed.
    """
    scheme = private_numbers(ds, _USER_DATA_12, 1) if reverses_polarity(ds) else None
    return _SCHEMES.get(scheme[0]) if scheme else None


def protocol(ds: Dataset) -> Mapping[str, str]:
    """Return the settings of the protocol block (0025,xx1B), a length followed by gzip data; empty if it is absent."""
    data = private_bytes(ds, _PROTOCOL) or b""
    start = data.find(_GZIP, 0, 16)
    if start < 0:
        return MappingProxyType({})
    try:
        block = zlib.decompressobj(zlib.MAX_WBITS | 16).decompress(data[start:], _MAX_PROTOCOL_BYTES)
    except zlib.error:
        return MappingProxyType({})
    settings = _SETTING.findall(block)
    return MappingProxyType({name.decode("latin-1"): value.decode("latin-1") for name, value in settings})


def slice_time_s(ds: Dataset) -> float | None:
    """Return the real-time timer (0021,xx5E): seconds from the beginning of the scan to this slice, or 0 if unknown."""
    timer_s = private_numbers(ds, _SLICE_TIMER, 1)
    return timer_s[0] if timer_s else None


def is_echo_planar(ds: Dataset) -> bool:
    """Return whether the sequence is echo-planar, by its internal name (0019,xx9E): EPI, EPI2."""
    return private_text(ds, _SEQUENCE).upper().startswith("EPI")


def planned_slice_timings(ds: Dataset, slices: int, repetition_time_s: float) -> list[tuple[float, ...]]:
    """Return the timings that the protocol of an echo-planar volume may mean, by Instance Number; empty if unknown.

    Images carry one Acquisition Time for all slices, but the protocol block says whether slices follow each other or
    the odd ones come first. With several slices in each excitation, neighbouring excitations must not meet where the
    bands do: if excitations take turns and their number is even, some versions add one, whose slices they discard, and
    others do not. Sequences that cycle the gradients of diffusion acquire the slices of a volume in several
    repetitions.

    `slices`: number of slices of a volume. `repetition_time_s`: time from one volume to the next, including any pause.

    Each with a time in seconds for each slice.
    """
    order, together = protocol(ds).get("SLICEORDER"), bands(ds)
    if not is_echo_planar(ds) or _cycles_gradients(ds) or order not in (_SEQUENTIAL, _INTERLEAVED):
        return []
    if together is None or slices % together or slices < 2 * together:
        return []
    excitations = slices // together
    counts = [excitations]
    if together > 1 and order == _INTERLEAVED and excitations % 2 == 0:
        counts.append(excitations + 1)
    duration_s = repetition_time_s - pause_s(ds)
    timings = []
    for count in counts:
        ranks = np.arange(count)
        if order == _INTERLEAVED:
            ranks = np.argsort(np.concatenate((ranks[::2], ranks[1::2])))
        timings.append(tuple((np.resize(ranks, slices) * (duration_s / count)).tolist()))
    return timings


def _cycles_gradients(ds: Dataset) -> bool:
    cycles = private_numbers(ds, _GRADIENT_CYCLES, 1)
    return private_text(ds, _SEQUENCE).upper() == "EPI2" and bool(cycles and cycles[0])


def bands(ds: Dataset) -> int | None:
    """Return the number of slices that are excited together, by (0043,xxB6) or the protocol block; None if unreadable.

    Older software states it in the protocol only.
    """
    stated = [text for text in (private_text(ds, MULTIBAND), protocol(ds).get("MBACCEL", "")) if text]
    return max([1, *map(int, stated)]) if all(text.isdecimal() for text in stated) else None


def is_encoded_upwards(ds: Dataset) -> bool | None:
    """Return whether phase encoding goes along increasing index of the stored pixels; None if it is unknown.

    Users of dcm2niix compared (0018,9034), which software since version 27 writes, with images of known distortion.
    Before, the header of the raw data (0043,xx2A) has two settings, each of which reverses the direction: the polarity
    of the gradient, and the order of the lines in k-space.
    """
    stated = _POLARITIES.get(text(ds, "RectilinearPhaseEncodeReordering"))
    return _polarity_of_raw_data(private_bytes(ds, _RECONSTRUCTION) or b"") if stated is None else stated


def _polarity_of_raw_data(data: bytes) -> bool | None:
    try:
        [start] = struct.unpack_from("<H", data, 24)
        [version] = struct.unpack_from("<f", data, start)
        if not _VERSIONS[0] <= version <= _VERSIONS[1]:
            return None
        start, line_order = (start, 0x394) if version < _MOVED_VERSION else (start + 0x4C, 0x394 - 0x8C)
        [options] = struct.unpack_from("<H", data, start + 0x3A)
        [polarity] = struct.unpack_from("<H", data, start + 0x30)
        [order] = struct.unpack_from("<h", data, start + line_order)
    except struct.error:
        return None
    is_echo_planar, is_reversed, from_below = bool(options & 0x800), bool(polarity & 0x4), order == 2
    return is_reversed == from_below if is_echo_planar else None


def pause_s(ds: Dataset) -> float:
    """Return the group delay (0043,xx7C): seconds between volumes that Repetition Time (0018,0080) leaves out."""
    delay_s = private_numbers(ds, GROUP_DELAY, 1)
    return delay_s[0] if delay_s and delay_s[0] > 0 else 0.0


def gradient(ds: Dataset) -> Gradient | None:
    """Return the diffusion weighting of (0043,xx39) and (0019,xxBB) to BD; None without a b-value.

    The direction is along frequency, phase and slice encoding. In-plane Phase Encoding Direction (0018,1312) maps these
    to rows and columns; without it the direction is unknown. With several shells, all images carry the largest b-value,
    and the directions of lower shells are shorter, like their gradients: b is proportional to the square of the length.
    A tensor file has zeros where an image is unweighted. Elsewhere they show nothing: combined images have zeros, too.
    """
    flagged = private_numbers(ds, _B_VALUE)
    if not flagged or flagged[0] < 0:
        return None
    nominal = b_value = flagged[0] % B_VALUE_FLAG
    if not nominal:
        return Gradient(0.0)
    parts = [private_numbers(ds, tag, 1) for tag in _DIRECTION]
    encoded = tuple(part[0] for part in parts if part)
    if len(encoded) == 3:
        if math.hypot(*encoded) <= SCALED_LENGTHS[0]:
            if TENSOR in (collapse_flag(ds), *(private_numbers(ds, _KIND_OF_DIRECTIONS, 1) or ())):
                return Gradient(0.0)
            return Gradient(nominal, (0.0, 0.0, 0.0), nominal=nominal)
        b_value = scaled_b_value(nominal, encoded)
    orientation = numbers(ds, "ImageOrientationPatient", 6)
    phase = text(ds, "InPlanePhaseEncodingDirection")
    if len(encoded) != 3 or orientation is None or phase not in ("ROW", "COL"):
        return Gradient(b_value, nominal=nominal)
    return Gradient(b_value, along_encoding(*encoded, orientation, phase == "ROW"), nominal=nominal)


def scaled_b_value(nominal: float, direction: Sequence[float]) -> float:
    """Return the b-value of an image in s/mm2, by that of the scan and the length of the direction."""
    length = math.hypot(*direction)
    return float(round(nominal * length**2)) if SCALED_LENGTHS[0] < length < SCALED_LENGTHS[1] else nominal


def _acceleration(place: int, ds: Dataset) -> float | None:
    """Return an acceleration, which is stated as the acquired part: 0.5 is an acceleration of 2."""
    parts = (private_numbers(ds, _ACQUIRED_PARTS) or ())[place : place + 1]
    return round(1 / parts[0], 3) if parts and 0 < parts[0] <= 1 else None


def _bands(ds: Dataset) -> int | None:
    together = bands(ds)
    return together if together is not None and together > 1 else None


def _polarity(ds: Dataset) -> str | None:
    return {True: "Unflipped", False: "Flipped", None: None}[is_encoded_upwards(ds)]


def _shims(ds: Dataset) -> list[int] | None:
    offsets = [private_numbers(ds, tag, 1) for tag in _SHIMS]
    return [int(offset[0]) for offset in offsets if offset] if None not in offsets else None


def _table_position(ds: Dataset) -> list[float] | None:
    """Return the position of the table along the bore; the other two do not move."""
    along = as_numbers(private_texts(ds, _TABLE)[2:3], 1)
    return [0.0, 0.0, *along] if along else None


def _labelling(ds: Dataset) -> str:
    return _KINDS_OF_LABELLING.get(private_text(ds, _LABELING), "")


def _of_labelling(read: Callable[[Dataset], Any], ds: Dataset) -> Any:
    return read(ds) if _labelling(ds) else None


def _delay_after_labelling(ds: Dataset) -> float | None:
    """Return Inversion Time, which is the delay of the perfusion images; proton density images have none."""
    delay_ms = number(ds, "InversionTime") if _labelling(ds) == "PCASL" else None
    return delay_ms / 1000 if delay_ms else None


def _of_diffusion(tag: PrivateTag, ds: Dataset) -> int | None:
    """Return a variable of the diffusion sequence; other sequences use it otherwise."""
    count = private_numbers(ds, tag, 1)
    is_diffusion = private_text(ds, _SEQUENCE).upper() == _DIFFUSION_SEQUENCE
    return int(count[0]) if count and count[0] > 0 and is_diffusion else None


FIELDS = (
    VendorField("ParallelReductionFactorInPlane", f"{notation(_ACQUIRED_PARTS)}, first", partial(_acceleration, 0)),
    VendorField("ParallelReductionFactorOutOfPlane", f"{notation(_ACQUIRED_PARTS)}, second", partial(_acceleration, 1)),
    VendorField("MultibandAccelerationFactor", f"{notation(MULTIBAND)}, protocol MBACCEL", _bands),
    VendorField("DelayTime", notation(GROUP_DELAY), lambda ds: rounded(pause_s(ds), 6) or None),
    VendorField("PhaseEncodingPolarityGE", "(0018,9034), (0043,xx2A)", _polarity),
    VendorField("ShimSetting", f"{notation(_SHIMS[0])} to {notation(_SHIMS[2])}", _shims),
    text_field("InternalPulseSequenceName", _SEQUENCE),
    number_field("VelocityEncodingMaximumValue", _VELOCITY, _CENTIMETRES),
    text_field("PrescanReuseString", PrivateTag(0x0043, _PARAMETERS, 0x95, "LO")),
    number_field("AcquisitionDuration", PrivateTag(0x0019, _ACQUISITION, 0x5A, "FL"), _MICRO, digits=6),
    VendorField("TablePosition", f"{notation(_TABLE)}, third", _table_position),
    VendorField(
        "NumberOfDiffusionDirectionGE", f"{notation(_DIRECTIONS)} of EPI2", partial(_of_diffusion, _DIRECTIONS)
    ),
    VendorField("NumberOfDiffusionT2GE", f"{notation(_UNWEIGHTED)} of EPI2", partial(_of_diffusion, _UNWEIGHTED)),
    VendorField("ArterialSpinLabelingType", notation(_LABELING), _labelling),
    VendorField(
        "LabelingDuration",
        notation(_LABELING_DURATION),
        partial(_of_labelling, partial(positive, _LABELING_DURATION, _MILLI, 9)),
    ),
    VendorField(
        "PostLabelingDelay", "InversionTime (0018,0082) of pseudo-continuous labelling", _delay_after_labelling
    ),
    *(
        VendorField(name, f"{notation(tag)} of labelling", partial(_of_labelling, partial(counted, tag)))
        for name, tag in (
            ("NumberOfPointsPerArm", _POINTS_PER_ARM),
            ("NumberOfArms", _ARMS),
            ("NumberOfExcitations", _EXCITATIONS),
        )
    ),
)
"""What GE's images state about an MR acquisition."""

"""Diffusion weighting of a frame: from the standard's attributes first, then from the manufacturer's private ones."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
from pydicom.datadict import keyword_for_tag
from pydicom.dataset import Dataset

from node.dicom.values import items, number, numbers, once_per_series, private_sequences, text, texts
from node.volume import vendors
from node.volume.model import Diffusion, Frame
from node.volume.vendors import ge
from node.volume.vendors.fields import Gradient, b_matrices, gradient_of_matrix

UNWEIGHTED_B_VALUE = 1e-6
"""b-value in s/mm2 below which an image is unweighted, even if it carries a direction."""

MAX_B_VALUE = 1e6
"""Largest possible b-value in s/mm2, far above any gradient system. Archives fill in 7e75 for absent numbers."""

NOMINAL_TOLERANCE, NOMINAL_TOLERANCE_ABSOLUTE = 0.2, 50.0
"""Largest deviation of a measured b-value from the nominal one, as a share of it or in s/mm2: imaging gradients add."""

_TRACE_TYPES = frozenset(("TRACE", "TRACEW", "ISO", "ISOTROPIC"))
_MAP_TYPES = frozenset(
    ("ADC", "APPARENT DIFFUSION COEFFICIENT", "AVDC", "EADC", "EXPONENTIAL", "FA", "COLFA", "FAC", "TENSOR")
)
_ADC_CODE = ("DCM", "113041")
_WEIGHTED = frozenset(("DIRECTIONAL", "BMATRIX", "ISOTROPIC"))

TRACE_TOLERANCE = 0.01
"""Largest deviation of a b-matrix from what the b-value and its own symmetry ask for, as a share of the b-value."""

RANK_TOLERANCE = 0.1
"""Largest share of the b-value of the two smaller eigenvalues: imaging gradients add some."""

SHIFTED = (
    "the b-matrix (0018,9601) of Bruker holds xx, xy, xz, yx, yy, yz in the attributes of xx, xy, xz, yy, yz, zz: its "
    "trace is not the b-value (0018,9087), two values are equal, and what the b-value leaves for zz makes a matrix of "
    "one direction, which was taken"
)

TAKEN_FROM_NINE = (
    "the b-matrix (0018,9601) of Bruker holds xx, xy, xz, yx, yy, yz in the attributes of xx, xy, xz, yy, yz, zz: one "
    "matrix of VisuAcqDiffusionBMatrix in (0177,xx01) begins with them, is symmetric, and was taken"
)

MAX_COMBINED = 4
"""Most directions whose images a scanner combines to one: three axes, or the corners of a tetrahedron."""

_MATRIX = tuple(f"DiffusionBValue{axes}" for axes in ("XX", "XY", "XZ", "YY", "YZ", "ZZ"))


def diffusion_of(ds: Dataset, shared: Dataset | None = None, per_frame: Dataset | None = None) -> Diffusion | None:
    """Return the diffusion weighting of one frame; None if no attribute states one.

    `ds`: the instance. `shared`, `per_frame`: items of the Shared, and of the frame's Per-Frame, Functional Groups
    Sequence of an enhanced instance.

    b-value in s/mm2. The direction is a unit vector in the patient frame (LPS), None if the image is unweighted or the
    direction is unknown, zeros if it is stated as zeros. Trace, ADC, FA and isotropic images are marked as derived,
    trace and isotropic ones also as trace.

    MR Diffusion macro, PS3.3 C.8.13.5.9. Classic images carry the same attributes at the top level: (0018,9087),
    (0018,9089). Private elements of a frame are in its functional groups, or in the items of private sequences there.
    """
    if shared is None and per_frame is None:
        manufacturer, kinds, standard, lacks_b_value = _of_instance(ds)
    else:
        manufacturer = text(ds, "Manufacturer")
        kinds, standard = _kinds(ds, shared, per_frame), _standard(ds, shared, per_frame)
        lacks_b_value = _lacks_b_value(ds, shared, per_frame)
    trace, derived = bool(kinds & _TRACE_TYPES), bool(kinds & (_TRACE_TYPES | _MAP_TYPES))
    gradient = _possible(vendors.gradient_before_standard(ds, manufacturer)) or _possible(
        vendors.with_scaled_b_value(standard, manufacturer)
    )
    if gradient is None or (gradient.direction_lps is None and not gradient.isotropic):
        vendor = _possible(vendors.gradient(ds, manufacturer)) or _possible(_of_frame(manufacturer, shared, per_frame))
        gradient = _completed(gradient, vendor)
        if gradient is not None and gradient.direction_lps is None and manufacturer.upper().startswith("BRUKER"):
            gradient = _with_nine_elements(gradient, ds, shared, per_frame)
    if gradient is None:
        return (
            Diffusion(0.0, derived=derived, trace=trace, is_unknown=lacks_b_value) if derived or lacks_b_value else None
        )
    denied_by = None if kinds & _MAP_TYPES else _denied_by(gradient.b_value, vendors.named_b_value(ds, manufacturer))
    if derived or gradient.isotropic:
        return Diffusion(gradient.b_value, derived=True, trace=not kinds & _MAP_TYPES, denied_by=denied_by)
    return Diffusion(
        gradient.b_value,
        _unit(gradient) if gradient.b_value > UNWEIGHTED_B_VALUE else None,
        repaired=gradient.repaired if gradient.b_value > UNWEIGHTED_B_VALUE else "",
        is_nominal=gradient.nominal is not None,
        denied_by=denied_by,
    )


def settle_unweighted(frames: Sequence[Frame]) -> None:
    """Set the b-value to 0 where the gradient has no length, and the b-value that is stated is that of the scan.

    b is proportional to the square of the length. But combined images, which are weighted, have no direction either.
    They are made of few directions, beside images that state 0; a tensor file has many, or states the b-value of the
    scan in every image.
    """
    known = [frame.diffusion for frame in frames if frame.diffusion is not None]
    directions = {tuple(entry.direction_lps.round(2)) for entry in known if entry.direction_lps is not None}
    directions.discard((0.0, 0.0, 0.0))
    states_zero = any(entry.b_value == 0 and not entry.is_nominal for entry in known)
    if not directions or (states_zero and len(directions) <= MAX_COMBINED):
        return
    for frame in frames:
        entry, flag = frame.diffusion, frame.variant_key.get("collapse_flag")
        if entry is None or not entry.is_nominal or entry.direction_lps is None or flag == ge.COMBINED:
            continue
        if not entry.direction_lps.any():
            frame.diffusion = replace(entry, b_value=0.0, direction_lps=None)


def without_repair(frame: Frame) -> Frame:
    """Return a frame without a gradient direction that was recovered from a wrong header."""
    if frame.diffusion is None or not frame.diffusion.repaired:
        return frame
    return replace(frame, diffusion=replace(frame.diffusion, direction_lps=None, repaired=""))


@once_per_series(
    *("Manufacturer", "ImageType", "DerivationCodeSequence", "MRImageFrameTypeSequence", "MRDiffusionSequence"),
    *("DiffusionDirectionality", "DiffusionBValue", "DiffusionGradientDirectionSequence"),
    *("DiffusionGradientOrientation", "DiffusionBMatrixSequence"),
)
def _of_instance(ds: Dataset) -> tuple[str, frozenset[str], Gradient | None, bool]:
    """Return manufacturer, kinds of image and weighting of a classic instance, and whether it lacks a b-value."""
    return text(ds, "Manufacturer"), _kinds(ds), _standard(ds), _lacks_b_value(ds)


def _possible(gradient: Gradient | None) -> Gradient | None:
    """Return the gradient unless its b-value is a placeholder."""
    return gradient if gradient is not None and gradient.b_value <= MAX_B_VALUE else None


def _completed(standard: Gradient | None, vendor: Gradient | None) -> Gradient | None:
    """Return the vendor's direction with the standard's b-value, unless that is the b-value of the scan."""
    if standard is None or vendor is None:
        return standard or vendor
    if vendor.nominal == standard.b_value:
        return vendor
    return vendor._replace(b_value=standard.b_value)


def _denied_by(b_value: float, named: float | None) -> float | None:
    """Return the b-value that a sequence is named by, if it is another one than the measured b-value."""
    if named is None or abs(named - b_value) <= max(NOMINAL_TOLERANCE * named, NOMINAL_TOLERANCE_ABSOLUTE):
        return None
    return named


def _unit(gradient: Gradient) -> np.ndarray | None:
    if gradient.direction_lps is None:
        return None
    vector = np.array(gradient.direction_lps, float)
    largest = float(np.abs(vector).max())
    if largest == 0:
        return vector
    if not largest < np.inf:
        return None
    vector = vector / largest  # so that no square overflows
    return vector / float(np.linalg.norm(vector))


def _of_frame(manufacturer: str, shared: Dataset | None, per_frame: Dataset | None) -> Gradient | None:
    """Return the weighting that a vendor states in the functional groups of a frame, or in private sequences there.

    The direction may need attributes of the standard beside it, which an enhanced instance keeps in other functional
    groups: orientation, direction of phase encoding.
    """
    if per_frame is None:
        return None
    for own in (per_frame, *items(per_frame, "FrameContentSequence")[:1], *private_sequences(per_frame)):
        found = vendors.gradient(own, manufacturer)
        if found is not None and found.b_value > UNWEIGHTED_B_VALUE and found.direction_lps is None:
            beside = _standard_attributes(shared, per_frame)
            beside.update(own)
            found = vendors.gradient(beside, manufacturer)
        if found is not None:
            return found
    return None


def _standard_attributes(*groups: Dataset | None) -> Dataset:
    """Return the attributes of all functional groups of the standard in one data set; later groups take precedence."""
    attributes = Dataset()
    for group in groups:
        for tag in () if group is None else group.keys():
            own = [] if group is None or tag.is_private else items(group, keyword_for_tag(tag))[:1]
            for item in own:
                attributes.update(item)
    return attributes


def _kinds(*datasets: Dataset | None) -> frozenset[str]:
    """Return what Image Type and Frame Type say after their first value, and ADC if Derivation Code Sequence does.

    The kind is the third value or a later one (PS3.3 C.7.6.1.1.2), but some maps leave out the second.
    """
    kinds: list[str] = []
    for ds in filter(None, datasets):
        kinds += texts(ds, "ImageType")[1:]
        for item in items(ds, "MRImageFrameTypeSequence"):
            kinds += texts(item, "FrameType")[1:]
        for derived in (ds, *items(ds, "DerivationImageSequence")):
            for code in items(derived, "DerivationCodeSequence"):
                if (text(code, "CodingSchemeDesignator"), text(code, "CodeValue")) == _ADC_CODE:
                    kinds.append("ADC")
    return frozenset(kind.upper() for kind in kinds)


def _standard(ds: Dataset, shared: Dataset | None = None, per_frame: Dataset | None = None) -> Gradient | None:
    for macro in _diffusion_macros(ds, shared, per_frame):
        directionality = text(macro, "DiffusionDirectionality").upper()
        b_value = number(macro, "DiffusionBValue")
        matrix = _matrix(macro)
        if b_value is None and matrix is not None:
            return gradient_of_matrix(matrix)
        if b_value is None and directionality == "NONE":
            return Gradient(0.0)
        if b_value is None or b_value < 0:
            continue
        direction = _direction(macro)
        repaired = ""
        if direction is None and matrix is not None:
            if text(ds, "Manufacturer").upper().startswith("BRUKER") and not _has_trace(matrix, b_value):
                matrix, repaired = _shifted_matrix(matrix, b_value), SHIFTED
            direction = None if matrix is None else gradient_of_matrix(matrix).direction_lps
        is_isotropic = directionality == "ISOTROPIC" and b_value > UNWEIGHTED_B_VALUE
        return Gradient(b_value, direction, is_isotropic, repaired if direction is not None else "")
    return None


def _lacks_b_value(ds: Dataset, shared: Dataset | None = None, per_frame: Dataset | None = None) -> bool:
    """Return whether an image states a weighting, by its directionality or a direction, but no b-value."""
    return any(
        number(macro, "DiffusionBValue") is None
        and (text(macro, "DiffusionDirectionality").upper() in _WEIGHTED or any(_direction(macro) or ()))
        for macro in _diffusion_macros(ds, shared, per_frame)
    )


def _diffusion_macros(ds: Dataset, shared: Dataset | None, per_frame: Dataset | None) -> Iterator[Dataset]:
    for group in (per_frame, shared):
        if group is not None:
            yield from items(group, "MRDiffusionSequence")
    yield ds


def _direction(macro: Dataset) -> tuple[float, ...] | None:
    for item in items(macro, "DiffusionGradientDirectionSequence"):
        return numbers(item, "DiffusionGradientOrientation", 3)
    return numbers(macro, "DiffusionGradientOrientation", 3)


def _has_trace(matrix: tuple[float, ...], b_value: float) -> bool:
    """Return whether the diagonal of a b-matrix sums up to the b-value, as it must."""
    return abs(matrix[0] + matrix[3] + matrix[5] - b_value) <= max(TRACE_TOLERANCE * b_value, UNWEIGHTED_B_VALUE)


def _with_nine_elements(gradient: Gradient, ds: Dataset, shared: Dataset | None, per_frame: Dataset | None) -> Gradient:
    """Return a weighting with the direction of Bruker's nine elements that begin with the six of the b-matrix."""
    written = next(filter(None, map(_matrix, _diffusion_macros(ds, shared, per_frame))), None)
    if written is None or not gradient.b_value > UNWEIGHTED_B_VALUE:
        return gradient
    tolerance = TRACE_TOLERANCE * max(map(abs, written))
    found = {
        (xx, xy, xz, yy, yz, zz)
        for xx, xy, xz, yx, yy, yz, zx, zy, zz in b_matrices(ds)
        if np.allclose((xx, xy, xz, yx, yy, yz), written, rtol=0, atol=1e-3 * tolerance)
        and np.allclose((xy, xz, yz), (yx, zx, zy), rtol=0, atol=tolerance)
    }
    if len(found) != 1:
        return gradient
    return gradient._replace(direction_lps=gradient_of_matrix(found.pop()).direction_lps, repaired=TAKEN_FROM_NINE)


def _shifted_matrix(matrix: tuple[float, ...], b_value: float) -> tuple[float, ...] | None:
    """Return the b-matrix that Bruker wrote into the wrong attributes; None if the values do not prove it.

    ParaVision writes the first six of nine elements, xx, xy, xz, yx, yy, yz, into the attributes of xx, xy, xz, yy, yz,
    zz. Two values are then equal, xy and yx, and the b-value tells zz. One gradient makes a matrix of rank one.
    """
    xx, xy, xz, yx, yy, yz = matrix
    zz = b_value - xx - yy
    tolerance = max(TRACE_TOLERANCE * b_value, UNWEIGHTED_B_VALUE)
    if abs(xy - yx) > TRACE_TOLERANCE * b_value or min(xx, yy, zz) < -tolerance:
        return None
    others = np.linalg.eigvalsh(np.array([[xx, xy, xz], [xy, yy, yz], [xz, yz, zz]]))[:2]
    return (xx, xy, xz, yy, yz, zz) if np.abs(others).max() <= RANK_TOLERANCE * b_value else None


def _matrix(macro: Dataset) -> tuple[float, ...] | None:
    for item in items(macro, "DiffusionBMatrixSequence"):
        components = [number(item, keyword) for keyword in _MATRIX]
        if None not in components:
            return tuple(component for component in components if component is not None)
    return None

"""What rules compare: the fields of selectors, those of a volume by this volume, and more from its sidecar."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from node.selector import FIELDS, Field

VOLUME_FIELDS: dict[str, Field] = {
    "volume_suffix": Field(
        "volume", "text", "what separates the volume from others of its series, such as `e2` or `ph`"
    ),
    "volume_kind": Field("volume", "text", "`spectra` of MR spectroscopy, else `volume`"),
    "part": Field(
        "volume", "text", "component of complex images", choices=("mag", "phase", "real", "imag", "fieldmap")
    ),
    "series_parts": Field("volume", "text", "components of all volumes of the series", several=True),
    "echo": Field("volume", "number", "rank of its echo among those of the series, from 1"),
    "echo_number": Field("volume", "number", "Echo Number(s) (0018,0086)", sidecar="EchoNumber"),
    "inversion": Field("volume", "number", "rank of its inversion time among those of the series, from 1"),
    "image_type": Field(
        "volume", "text", "values of Image Type (0008,0008) and of the vendor's equivalent", several=True
    ),
    "sequence_details": Field(
        "volume",
        "text",
        "name of the vendor's sequence, as `PulseSequenceDetails` of the sidecar",
        sidecar="PulseSequenceDetails",
    ),
    "acquisition_type": Field(
        "volume", "text", "MR Acquisition Type (0018,0023)", choices=("2d", "3d", "1d"), sidecar="MRAcquisitionType"
    ),
    "scanning_sequence": Field(
        "volume", "text", "values of Scanning Sequence (0018,0020)", several=True, sidecar="ScanningSequence"
    ),
    "sequence_variant": Field(
        "volume", "text", "values of Sequence Variant (0018,0021)", several=True, sidecar="SequenceVariant"
    ),
    "scan_options": Field("volume", "text", "values of Scan Options (0018,0022)", several=True, sidecar="ScanOptions"),
    "b_values": Field("volume", "number", "b-values in s/mm2, of each of its times", several=True),
    "directions": Field("volume", "number", "number of its times with a diffusion direction"),
    "labelling": Field(
        "volume",
        "text",
        "kind of arterial spin labelling",
        choices=("pasl", "casl", "pcasl"),
        sidecar="ArterialSpinLabelingType",
    ),
    "phase_direction": Field("volume", "text", "direction of phase encoding in the patient: `AP`, `PA`, `LR`, ..."),
    "units": Field("volume", "text", "`Units` of the sidecar, such as `Hz` or `Bq/mL`", sidecar="Units"),
    "tracer": Field("volume", "text", "`TracerName` of the sidecar", sidecar="TracerName"),
}
"""Fields of a volume that selectors of series do not have."""

RULE_FIELDS: Mapping[str, Field] = {**FIELDS, **VOLUME_FIELDS}
"""All fields that the rules of a data set may compare."""

_PARTS = {"ph": "phase", "real": "real", "imag": "imag", "fieldmap": "fieldmap"}
"""Components by the suffixes of a volume."""

NOISE = "norf"
"""The word of volumes without excitation, which have a suffix of their own in BIDS."""

REFERENCE = "ref"
"""The word of spectra without water suppression, which have a suffix of their own in BIDS."""

_AXES = ("RL", "AP", "IS")
"""From where to where each axis of LPS leads."""


def volume_facts(suffix: str, suffixes: Iterable[str], sidecar: Mapping[str, Any], directions: int) -> dict[str, Any]:
    """Return the facts of a volume by the names of `VOLUME_FIELDS`, and of the fields of selectors in its sidecar.

    `suffix`: that of the volume in its series, see `node.volume.model.Volume`; `suffixes`: those of all volumes of the
    series; `sidecar`: its sidecar, as the node wrote it; `directions`: columns of its gradient table with a direction.
    """
    facts: dict[str, Any] = dict.fromkeys(VOLUME_FIELDS)
    for name, field in RULE_FIELDS.items():
        if field.sidecar:
            value = sidecar.get(field.sidecar)
            facts[name] = _listed(value) if field.several else field.of_sidecar(value)
    words = suffix.split("-")
    kinds = [*_listed(sidecar.get("ImageType")), *_listed(sidecar.get("ImageTypeText"))]
    return facts | {
        "volume_suffix": suffix or None,
        "volume_kind": sidecar.get("kind"),
        "part": _part(words, kinds, str(sidecar.get("ComplexImageComponent", ""))),
        "series_parts": sorted({_PARTS.get(word, "mag") for each in suffixes for word in each.split("-")[:1]}),
        "echo": _rank("e", words),
        "inversion": _rank("ti", words),
        "image_type": kinds,
        "b_values": _listed(sidecar.get("b_values")),
        "directions": directions,
        "phase_direction": _phase_direction(sidecar),
    }


def expressed_words(suffix: str) -> set[str]:
    """Return the words of a volume's suffix that names express, such as component and echo."""
    words = suffix.split("-")
    ranks = {f"{letters}{_rank(letters, words)}" for letters in ("e", "ti")}
    return {word for word in words if word in ranks or word in _PARTS or word in (NOISE, REFERENCE)}


def _listed(content: Any) -> list[Any]:
    return list(content) if isinstance(content, list) else [] if content is None else [content]


def _rank(letters: str, words: list[str]) -> int | None:
    numbers = (word.removeprefix(letters) for word in words if word.startswith(letters))
    return next((int(number) for number in numbers if number.isascii() and number.isdigit()), None)


def _part(words: list[str], kinds: list[Any], component: str) -> str:
    """Return the component of a volume: by its suffix, else as its images state it, else magnitude."""
    stated = {str(kind).upper() for kind in kinds} | {component.upper()}
    for word, part in _PARTS.items():
        if word in words:
            return part
    if stated & {"P", "PHASE", "PHASE MAP"}:
        return "phase"
    return "real" if "REAL" in stated else "imag" if "IMAGINARY" in stated else "mag"


def _phase_direction(sidecar: Mapping[str, Any]) -> str | None:
    """Return from where to where the phase is encoded, such as AP; None if axis or sign are unknown."""
    direction, orientation = sidecar.get("PhaseEncodingDirection"), sidecar.get("ImageOrientationPatientDICOM")
    if direction not in ("i", "i-", "j", "j-") or not isinstance(orientation, list) or len(orientation) != 6:
        return None
    vector = orientation[:3] if direction.startswith("i") else orientation[3:]
    axis = max(range(3), key=lambda index: abs(vector[index]))
    name = _AXES[axis]
    return name if (vector[axis] > 0) is not direction.endswith("-") else name[::-1]

"""Names of files in BIDS: entities in their order, suffixes with the entities that each may have."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from node.errors import UsageError, nearest

VERSION = "1.11.1"
"""The BIDS specification that the tables of this module are from."""

ENTITIES = (
    *("sub", "ses", "task", "acq", "nuc", "voi", "ce", "trc", "rec", "dir", "run", "echo", "flip", "inv", "mt"),
    *("part", "chunk"),
)
"""The entities that are used here, in the order of the specification."""

INDICES = frozenset({"run", "echo", "flip", "inv", "chunk"})
"""Entities whose label is a number from 1."""

CHOICES = {"mt": ("on", "off"), "part": ("mag", "phase", "real", "imag")}
"""Entities with fixed labels."""

LABEL = re.compile(r"[0-9a-zA-Z]+")


@dataclass(frozen=True, slots=True)
class SuffixKind:
    """A suffix in a folder for data: the entities that its files may have and must have besides subject and session."""

    datatype: str
    suffix: str
    entities: frozenset[str]
    required: frozenset[str]


def _kinds(datatype: str, suffixes: str, entities: str, required: str = "") -> list[SuffixKind]:
    may = frozenset(entities.split()) | frozenset(required.split()) | {"run"}
    return [SuffixKind(datatype, suffix, may, frozenset(required.split())) for suffix in suffixes.split()]


KINDS = (
    *_kinds("anat", "T1w T2w PDw FLAIR T2starw inplaneT1 inplaneT2 PDT2 angio", "task acq ce rec echo part chunk"),
    *_kinds(
        "anat", "T1map T2map T2starmap R1map R2map R2starmap PDmap MTRmap MTsat UNIT1 T1rho", "task acq ce rec chunk"
    ),
    *_kinds("anat", "MWFmap MTVmap Chimap S0map M0map", "task acq ce rec chunk"),
    *_kinds("anat", "MEGRE", "task acq ce rec part chunk", "echo"),
    *_kinds("anat", "MESE", "task acq ce rec dir part chunk", "echo"),
    *_kinds("anat", "VFA", "task acq ce rec echo part chunk", "flip"),
    *_kinds("anat", "IRT1", "task acq ce rec part chunk", "inv"),
    *_kinds("anat", "MP2RAGE", "task acq ce rec echo flip part chunk", "inv"),
    *_kinds("anat", "MPM MTS", "task acq ce rec echo part chunk", "flip mt"),
    *_kinds("anat", "MTR", "task acq ce rec part chunk", "mt"),
    *_kinds("func", "bold cbv sbref noRF", "acq ce rec dir echo part chunk", "task"),
    *_kinds("dwi", "dwi sbref", "acq rec dir part chunk"),
    *_kinds("dwi", "ADC FA S0map colFA expADC trace", "acq rec dir chunk"),
    *_kinds("fmap", "phasediff phase1 phase2 magnitude1 magnitude2 magnitude fieldmap", "acq chunk"),
    *_kinds("fmap", "epi m0scan", "acq ce rec dir part chunk"),
    *_kinds("perf", "asl m0scan", "acq rec dir echo part"),
    *_kinds("pet", "pet", "task trc rec"),
    *_kinds("mrs", "svs mrsi unloc mrsref", "task acq nuc voi rec echo inv"),
)

RECORDING = SuffixKind("func", "physio", frozenset(["task", "acq", "ce", "rec", "dir", "run"]), frozenset({"task"}))
"""A physiological recording, which has the name of the time series that it belongs to, but for echo and part."""

DATATYPES = tuple(dict.fromkeys(kind.datatype for kind in KINDS))


def kind_of(suffix: str, datatype: str | None = None) -> SuffixKind:
    """Return the kind of files with a suffix.

    Raises UsageError: there is no such suffix, or it is in several folders and `datatype` does not say which.
    """
    found = [kind for kind in KINDS if kind.suffix == suffix and datatype in (None, kind.datatype)]
    if not found:
        if datatype is not None and datatype not in DATATYPES:
            raise UsageError(f'unknown datatype "{datatype}"{nearest(datatype, DATATYPES)}')
        within = [kind.suffix for kind in KINDS if datatype in (None, kind.datatype)]
        raise UsageError(f'unknown suffix "{suffix}"{f" of {datatype}" if datatype else ""}{nearest(suffix, within)}')
    if len(found) > 1:
        folders = " or ".join(kind.datatype for kind in found)
        raise UsageError(f'the suffix "{suffix}" is in several folders: set datatype to {folders}')
    return found[0]


def label(text: object) -> str:
    """Return a text as a label: its letters and digits of ASCII."""
    return "".join(LABEL.findall(str(text)))


def problem_with(entity: str, value: str) -> str | None:
    """Return why a value is not a label of an entity, or None if it is."""
    if entity in CHOICES and value not in CHOICES[entity]:
        return f"{entity} is {' or '.join(CHOICES[entity])}, not {value!r}"
    if entity in INDICES and not (value.isascii() and value.isdigit() and int(value) > 0):
        return f"{entity} is a number from 1, not {value!r}"
    return None if LABEL.fullmatch(value) else f"{entity} has letters and digits only, not {value!r}"


def stem(entities: Mapping[str, str], suffix: str) -> str:
    """Return the name of a file without its extension."""
    return "_".join([*(f"{entity}-{entities[entity]}" for entity in ENTITIES if entity in entities), suffix])


def parsed(name: str) -> tuple[dict[str, str], str]:
    """Return the entities and the suffix of a stem."""
    *pairs, suffix = name.split("_")
    return dict(pair.split("-", 1) for pair in pairs if "-" in pair), suffix


@dataclass(frozen=True, slots=True)
class Named:
    """The kind of a file, and its entities besides subject and session."""

    kind: SuffixKind
    entities: Mapping[str, str]


_REPROIN = re.compile(r"(?:[^:]*:)?([a-z]+)(?:-([A-Za-z0-9]+))?((?:_[a-z]+-[A-Za-z0-9]+)*)(?:_SBRef)?(?:__.*)?")


def reproin(text: str | None) -> Named | None:
    """Return what a protocol says that is named by the convention of ReproIn; None if it is not.

    Such names are ``func-bold_task-rest_run-1`` or ``anat-T1w_acq-highres__comment``
    (https://github.com/ReproNim/reproin). Subject and session come from elsewhere; runs are counted.
    """
    match = _REPROIN.fullmatch((text or "").strip().removeprefix("WIP "))
    if match is None or match[1] not in DATATYPES:
        return None
    pairs = [pair.split("-", 1) for pair in match[3].split("_") if pair]
    if not (pairs or match[2]):  # any word may be a description
        return None
    entities = {entity: value for entity, value in pairs if entity not in ("sub", "ses", "run")}
    suffix = match[2] or {"dwi": "dwi", "func": "bold", "pet": "pet"}.get(match[1], "")
    if "_SBRef" in match[0] and suffix in ("bold", "dwi"):  # which the scanner adds
        suffix = "sbref"
    try:
        kind = kind_of(suffix, match[1])
    except UsageError:
        return None
    is_valid = all(
        entity in kind.entities and problem_with(entity, value) is None for entity, value in entities.items()
    )
    return Named(kind, entities) if is_valid else None

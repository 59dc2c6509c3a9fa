"""The rules of a data set: what each volume is, from a TOML file (docs/bids.md)."""

import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from node.errors import UsageError, broken_rule, nearest
from node.extensions.bids.names import ENTITIES, Named, SuffixKind, kind_of, label, problem_with, reproin
from node.selector import Facts, Selector, compile_selector
from node.selector.fields import FIELDS
from node.selector.fields import Field as FactField

VOLUME_FIELDS: dict[str, FactField] = {
    "volume_suffix": FactField(
        "volume", "text", "what separates the volume from others of its series, such as `e2` or `ph`"
    ),
    "volume_kind": FactField("volume", "text", "`spectra` of MR spectroscopy, else `volume`"),
    "part": FactField(
        "volume", "text", "component of complex images", choices=("mag", "phase", "real", "imag", "fieldmap")
    ),
    "series_parts": FactField("volume", "text", "components of all volumes of the series", several=True),
    "echo": FactField("volume", "number", "rank of its echo among those of the series, from 1"),
    "echo_number": FactField("volume", "number", "Echo Number(s) (0018,0086)", sidecar="EchoNumber"),
    "inversion": FactField("volume", "number", "rank of its inversion time among those of the series, from 1"),
    "image_type": FactField(
        "volume", "text", "values of Image Type (0008,0008) and of the vendor's equivalent", several=True
    ),
    "sequence_details": FactField(
        "volume",
        "text",
        "name of the vendor's sequence, as `PulseSequenceDetails` of the sidecar",
        sidecar="PulseSequenceDetails",
    ),
    "acquisition_type": FactField(
        "volume", "text", "MR Acquisition Type (0018,0023)", choices=("2d", "3d", "1d"), sidecar="MRAcquisitionType"
    ),
    "scanning_sequence": FactField(
        "volume", "text", "values of Scanning Sequence (0018,0020)", several=True, sidecar="ScanningSequence"
    ),
    "sequence_variant": FactField(
        "volume", "text", "values of Sequence Variant (0018,0021)", several=True, sidecar="SequenceVariant"
    ),
    "scan_options": FactField(
        "volume", "text", "values of Scan Options (0018,0022)", several=True, sidecar="ScanOptions"
    ),
    "b_values": FactField("volume", "number", "b-values in s/mm2, of each of its times", several=True),
    "directions": FactField("volume", "number", "number of its times with a diffusion direction"),
    "labelling": FactField(
        "volume",
        "text",
        "kind of arterial spin labelling",
        choices=("pasl", "casl", "pcasl"),
        sidecar="ArterialSpinLabelingType",
    ),
    "phase_direction": FactField("volume", "text", "direction of phase encoding in the patient: `AP`, `PA`, `LR`, ..."),
    "units": FactField("volume", "text", "`Units` of the sidecar, such as `Hz` or `Bq/mL`", sidecar="Units"),
    "tracer": FactField("volume", "text", "`TracerName` of the sidecar", sidecar="TracerName"),
}
"""Fields of a volume that selectors of series do not have."""

RULE_FIELDS: Mapping[str, FactField] = {**FIELDS, **VOLUME_FIELDS}
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
    for name, fact in RULE_FIELDS.items():
        if fact.sidecar:
            value = sidecar.get(fact.sidecar)
            facts[name] = _listed(value) if fact.several else fact.of_sidecar(value)
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


NAMED_BY_RULE = frozenset(ENTITIES) - {"sub", "ses", "run"}
"""Entities that a rule may set: subjects and sessions have tables of their own, and runs are counted."""

AslVolume = Literal["control", "label", "m0scan", "deltam", "cbf", "noRF"]
Label = Annotated[str, BeforeValidator(str)]

HELP = "voxelnode help bids"
"""Lists the fields of rules."""

_FACT = re.compile(r"\{(\w*)\}")


class _Table(BaseModel):
    """A table of the file: an unknown key is refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class DatasetTable(_Table):
    """``[dataset]``."""

    name: str = "Volumes of a voxelnode"
    authors: tuple[str, ...] = ()
    license: str | None = None
    anonymous: bool = True
    dates: Literal["shifted", "real", "omitted"] = "shifted"
    verdicts: tuple[Literal["complete", "suspect", "incomplete"], ...] = ("complete",)
    participants: tuple[Literal["age", "sex"], ...] = ()
    reproin: bool = True
    default_rules: bool = True


class SubjectsTable(_Table):
    """``[subjects]``."""

    labels: Literal["pseudonym", "patient_id"] = "pseudonym"
    map: Path | None = None


class SessionsTable(_Table):
    """``[sessions]``."""

    labels: Literal["number", "pseudonym", "none"] = "number"


class AslContext(_Table):
    """``aslcontext``: the kinds of the volumes of a labelled series; `then` repeats after `first`."""

    first: tuple[AslVolume, ...] = ()
    then: tuple[AslVolume, ...] = Field(min_length=1)

    def of(self, times: int) -> list[str] | None:
        """Return the kind of each volume, or None if `then` does not end with the last one."""
        rounds, left = divmod(times - len(self.first), len(self.then))
        return [*self.first, *self.then * rounds] if rounds >= 0 and left == 0 else None


class Rule(_Table):
    """``[[rules]]``: volumes that fit `where` have this suffix, these entities and fields, or are left out."""

    name: str
    where: str | dict[str, Any]
    suffix: str | None = None
    datatype: str | None = None
    entities: dict[str, Label] = {}
    fields: dict[str, Any] = {}
    aslcontext: AslContext | None = None
    intended_for: tuple[Literal["func", "dwi", "perf", "anat"], ...] = ("func", "dwi", "perf")
    skip: str | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.suffix is None) is (self.skip is None):
            raise ValueError("set either suffix, or skip with the reason")
        if self.suffix is not None:
            try:
                kind = kind_of(_FACT.sub("1", self.suffix), self.datatype)
            except UsageError as error:  # which pydantic does not take for a wrong value
                raise ValueError(str(error)) from error
            _check_names(self, kind)
        return self


def _check_names(rule: Rule, kind: SuffixKind) -> None:
    """Raise ValueError if files of a kind cannot have the entities of a rule, or if it compares unknown facts."""
    for entity, value in rule.entities.items():
        if entity not in NAMED_BY_RULE:
            raise ValueError(f'unknown entity "{entity}"{nearest(entity, sorted(NAMED_BY_RULE))}')
        if entity not in kind.entities:
            raise ValueError(
                f"{kind.datatype}/{kind.suffix} has no {entity}; it may have {', '.join(sorted(kind.entities))}"
            )
        if "{" not in value and (problem := problem_with(entity, value)):
            raise ValueError(problem)
    for name in (name for text in (rule.suffix or "", *rule.entities.values()) for name in _FACT.findall(text)):
        if name not in RULE_FIELDS:
            raise ValueError(f'unknown field "{name}" in braces{nearest(name, RULE_FIELDS, HELP)}')


class _File(_Table):
    dataset: DatasetTable = DatasetTable()
    subjects: SubjectsTable = SubjectsTable()
    sessions: SessionsTable = SessionsTable()
    rules: tuple[Rule, ...] = ()


@dataclass(frozen=True, slots=True)
class Meaning:
    """What a volume is: its name, and what the rule adds to its sidecar."""

    named: Named
    rule: str
    fields: Mapping[str, Any] = field(default_factory=dict)
    aslcontext: AslContext | None = None
    intended_for: tuple[str, ...] = ("func", "dwi", "perf")


class NotExported(Exception):
    """A volume has no place in the data set; the message says why and what can be done."""


@dataclass(frozen=True, slots=True)
class Rules:
    """The rules of one file, compiled; the first rule that fits a volume counts.

    The first `own` rules are of the file, the others are the default rules. Names by the convention of ReproIn count
    before the default rules, but for those that leave out what is no image of the protocol.
    """

    dataset: DatasetTable
    subjects: SubjectsTable
    sessions: SessionsTable
    rules: tuple[tuple[Rule, Selector], ...]
    own: int

    def rule_of(self, facts: Facts) -> Rule | None:
        """Return the first rule that fits a volume."""
        return next((rule for rule, selector in self.rules if selector.matches(facts)), None)

    def meaning_of(self, facts: Facts) -> Meaning:
        """Return what a volume is.

        `facts`: by the names of `RULE_FIELDS`. Raises NotExported: no rule fits, the rule leaves the volume out, or it
        lacks what its name needs.
        """
        number, rule = next(
            ((number, rule) for number, (rule, selector) in enumerate(self.rules) if selector.matches(facts)), (0, None)
        )
        if self.dataset.reproin and (rule is None or (number >= self.own and rule.skip is None)):
            for text in (facts["series_description"], facts["protocol_name"]):
                named = reproin(text)
                if named is not None:
                    return Meaning(_completed(_without_excitation(named, facts), facts), "ReproIn")
        if rule is not None:
            return _meaning(rule, facts)
        shape = " x ".join(f"{facts[name]:g}" for name in ("columns", "rows", "slices", "times"))
        raise NotExported(f"no rule fits: {kind_of_image(facts)}, {shape}")


def kind_of_image(facts: Facts) -> str:
    """Return the kind of sequence in words; of images that have none, the modality."""
    if facts["sequence"] or facts["modality"] in (None, "MR"):
        return str(facts["sequence"] or "a sequence of unknown kind")
    return str(facts["modality"])


def _without_excitation(named: Named, facts: Facts) -> Named:
    """Return the name of a volume of noise, which has the name of its series with another suffix."""
    is_noise = named.kind.suffix == "bold" and "NOISE" in facts["image_type"]
    return Named(kind_of("noRF", "func"), named.entities) if is_noise else named


def _meaning(rule: Rule, facts: Facts) -> Meaning:
    if rule.suffix is None:
        raise NotExported(f'rule "{rule.name}": {rule.skip}')
    kind = kind_of(_filled(rule.suffix, {**facts, "echo": facts["echo"] or 1}), rule.datatype)
    filled = {entity: label(_filled(value, facts)) for entity, value in rule.entities.items()}
    named = _completed(Named(kind, {entity: value for entity, value in filled.items() if value}), facts, rule)
    return Meaning(named, rule.name, rule.fields, rule.aslcontext, rule.intended_for)


def _filled(template: str, facts: Facts) -> str:
    """Return a text with the values of the facts that it names in braces; nothing for missing ones."""

    def value(match: re.Match[str]) -> str:
        fact = facts[match[1]]
        return "" if fact is None else f"{fact:g}" if isinstance(fact, float) else label(fact)

    return _FACT.sub(value, template)


def _completed(named: Named, facts: Facts, rule: Rule | None = None) -> Named:
    """Return a name with the entities that follow from the volume itself.

    Raises NotExported: a required entity is missing, a label is wrong, or the name cannot tell the volume from others
    of its series.
    """
    kind, entities = named.kind, dict(named.entities)
    part = facts["part"] if facts["part"] in ("phase", "real", "imag") else None
    for entity, found in (("echo", facts["echo"]), ("inv", facts["inversion"]), ("part", part)):
        if found is not None and entity in kind.entities:
            entities.setdefault(entity, str(found))
    where = f"{kind.datatype}/{kind.suffix}"
    for entity in sorted(kind.required - entities.keys()):
        raise NotExported(
            f"{where} needs the entity {entity}: add a rule for this series with entities = {{ {entity} = ... }}"
        )
    for entity, value in entities.items():
        if problem := problem_with(entity, value):
            raise NotExported(f"{where}: {problem}")
    suffix = facts["volume_suffix"] or ""
    left = [word for word in suffix.split("-") if word and word not in expressed_words(suffix)]
    if left and not (rule and any("{volume_suffix}" in value for value in rule.entities.values())):
        raise NotExported(
            f"a name in BIDS does not tell this volume ({suffix}) from others of its series: add a rule with an entity "
            'such as acq = "{volume_suffix}"'
        )
    return Named(kind, entities)


def default_rules() -> str:
    """Return the text of the default rules."""
    return files("node.extensions.bids").joinpath("default_rules.toml").read_text(encoding="utf-8")


def read_rules(file: Path | None) -> Rules:
    """Return the rules of a file, followed by the default rules unless it says otherwise; paths count from the file.

    Raises UsageError: the file is missing or wrong; the message names the place, the value and the rule.
    """
    default = read_text(default_rules(), "default rules")
    if file is None:
        return _compiled(default, "default rules", 0)
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{file}: {getattr(error, 'strerror', None) or 'not a text in UTF-8'}") from error
    own = read_text(text, str(file))
    if own.subjects.map is not None:
        subjects = own.subjects.model_copy(update={"map": file.parent / own.subjects.map})
        own = own.model_copy(update={"subjects": subjects})
    count = len(own.rules)
    if own.dataset.default_rules:
        own = own.model_copy(update={"rules": (*own.rules, *default.rules)})
    return _compiled(own, str(file), count)


def read_text(text: str, source: str) -> _File:
    """Return a file of rules by its text. Raises UsageError, as `read_rules` does."""
    try:
        return _File.model_validate(tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{source}: {error}") from error
    except ValidationError as error:
        raise UsageError("\n".join(f"{source}: {_reported(problem, text)}" for problem in error.errors())) from error


def _reported(problem: Any, text: str) -> str:
    """Return one problem of pydantic as the place in the file and what is wrong there."""
    place = list(problem["loc"])
    if place[:1] == ["rules"] and len(place) > 1:
        named = tomllib.loads(text)["rules"][place[1]]
        place[:2] = [
            f"rule {named.get('name') or place[1] + 1!r}" if isinstance(named, dict) else f"rule {place[1] + 1}"
        ]
    tables: dict[str, type[_Table]] = {"dataset": DatasetTable, "subjects": SubjectsTable, "sessions": SessionsTable}
    if problem["type"] == "extra_forbidden":
        table = tables.get(str(place[0]), Rule) if len(place) > 1 else _File
        message = f"unknown key{nearest(str(place[-1]), table.model_fields)}"
    else:
        message = broken_rule(problem["type"], problem["msg"])
    return f"{'.'.join(map(str, place))}: {message}"


def _compiled(file: _File, source: str, own: int) -> Rules:
    compiled = []
    for rule in file.rules:
        try:
            compiled.append((rule, compile_selector(rule.where, RULE_FIELDS)))
        except UsageError as error:
            raise UsageError(f'{source}: rule "{rule.name}": where: {error}') from error
    return Rules(file.dataset, file.subjects, file.sessions, tuple(compiled), own)

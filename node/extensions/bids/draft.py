"""A first file of rules: what names and headers tell of the series of a source, and what somebody has to decide.

Volumes that the rules name already need no new one, unless two descriptions of a study have one name: an `acq` tells
them apart then. The task of a functional series is proposed from its description. What nothing tells is left out by the
file, with the reason, until somebody decides it there.
"""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from node.cli.output import printable
from node.extensions.bids.names import KINDS, LABEL, Kind, Named, kind_of, label, problem_with
from node.extensions.bids.plan import Series, facts_of
from node.extensions.bids.rules import NAMED_BY_RULE, NotExported, Rule, Rules, kind_of_image, read_text
from node.extensions.bids.sources import Source
from node.selector import Facts, Selector

UNDECIDED = "not decided: set a suffix instead of skip"

_OF_TASKS = re.compile(
    r"fmri|rsfmri|bold|func|functional|task|epi|ep2d|mbep2d|ge|gre|fe|sbref|norf|noise|run\d*|mb\d*|sms\d*|mux\d*|p\d|s\d|r\d|"
    r"x\d|tr\d*\w*|te\d*\w*|fa\d+|\d+(p\d+|\.\d+)?mm|\d+x\d+\w*|iso\d*|\d+\w?|ap|pa|lr|rl|wip|cmrr|moco|pace|sense|asset|"
    r"grappa|ipat\d*|acc\d*|\d*vols?|\d*dynamics?|ms|t2|t2star|ax|axial|tra|cor|sag|asc|desc|"
    r"ascending|descending|interleaved|i|is|si|to|pe|epirt|echoes|single|multi|band|multiband"
)
"""Words of a description that say how a functional series was acquired, and not what was done meanwhile."""

_OF_RUNS = re.compile(r"run\d*|\d+|rep\d*|repeat\w*|again")
"""Words of a description that count runs, which are counted by time."""

_PAIRS = re.compile(r"(?<![0-9A-Za-z])([a-z]+)-([0-9A-Za-z]+)")
_UNQUOTED = re.compile(r"[\"'\\*\x00-\x1f\x7f]+")


_WITHOUT_DESCRIPTION = '(series_description == null or series_description == "")'


@dataclass(slots=True)
class Group:
    """Volumes of one description, or one protocol without a description, that one rule fits.

    `named`: their first name, if the rules give one; `problem`: why they have none.
    """

    facts: Facts
    rule: Rule | None
    named: Named | None = None
    problem: str = ""
    studies: set[str] = field(default_factory=set)
    series: set[str] = field(default_factory=set)
    volume_suffixes: set[str | None] = field(default_factory=set)
    times: set[int] = field(default_factory=set)

    @property
    def title(self) -> str:
        return str(self.facts["series_description"] or self.facts["protocol_name"] or "")

    @property
    def name(self) -> str:
        return printable(self.title.strip()) or "no description"

    @property
    def words(self) -> list[str]:
        return LABEL.findall(self.title)

    @property
    def is_left_out(self) -> bool:
        return self.rule is not None and self.rule.skip is not None

    @property
    def shown(self) -> str:
        """What somebody needs to know for an answer: how many series, their size, their sequence."""
        facts = self.facts
        size = " x ".join(f"{facts[name]:g}" for name in ("columns", "rows", "slices", "times") if facts[name])
        told = [f"{len(self.series)} series", size, kind_of_image(facts)]
        return ", ".join([*told, *([f"{facts['repetition_time']:g} s"] if facts["repetition_time"] else [])])


@dataclass(frozen=True, slots=True)
class Draft:
    """The text of a file of rules: how many it proposes, and how many of these nobody has decided."""

    text: str
    proposed: int
    undecided: int


def draft(source: Source, rules: Rules, where: Selector | None = None) -> Draft:
    """Return rules for what `rules` do not name, or give one name although the descriptions differ.

    `where`: the series to look at.
    """
    groups = groups_of(source.series_of(list(source.patients())), rules, where)
    apart = told_apart(groups)
    wanted: list[dict[str, Any] | None] = []
    for group in groups:
        added = apart.get(id(group), "")
        if group.is_left_out or (group.named is not None and not added):
            wanted.append(None)
        else:
            wanted.append(_wanted(group) if group.named is None else _renamed(group, {"acq": added}))
    return written(groups, wanted)


def written(groups: Sequence[Group], wanted: Sequence[Mapping[str, Any] | None]) -> Draft:
    """Return a file of rules: the keys of the rule of each group, None for a group without one.

    Raises UsageError if they are no rules.
    """
    titles = Counter(group.title for group in groups)
    tables, notes, undecided = [], [], 0
    for group, keys in zip(groups, wanted, strict=True):
        if keys is not None:
            undecided += "skip" in keys and str(keys["skip"]).startswith("not decided")
            tables.append(_table(group, keys, is_alone=titles[group.title] == 1))
        elif group.named is not None:
            notes.append(f"{group.named.kind.datatype}/{group.named.kind.suffix}: {group.name}")
        else:
            notes.append(f"left out: {group.name} ({group.problem})")
    text = "".join(
        [
            "# Rules for `voxelnode bids`, proposed from descriptions and headers: read each of them, and change what\n"
            "# is wrong. `voxelnode help bids` describes the keys.\n",
            *(["\n# Without a rule here:\n"] if notes else []),
            *(f"#   {note}\n" for note in sorted(set(notes))),
            *tables,
        ]
    )
    read_text(text, "the draft")
    return Draft(text, len(tables), undecided)


def groups_of(found: Iterable[Series], rules: Rules, where: Selector | None = None) -> list[Group]:
    """Return the groups of the volumes of series, in the order of their descriptions."""
    groups: dict[tuple[str, str], Group] = {}
    for series in found:
        for volume in series.volumes if where is None or where.matches(series.facts) else ():
            if volume.is_recording:
                continue
            facts = facts_of(series, volume).facts
            rule = rules.rule_of(facts)
            group = Group(facts, rule)
            try:
                group.named = rules.meaning_of(facts).named
            except NotExported as reason:
                group.problem = str(reason)
            kind = group.named.kind.suffix if group.named else rule.name if rule else ""
            group = groups.setdefault((group.title.strip().casefold(), kind), group)
            group.studies.add(series.study_instance_uid)
            group.series.add(series.key)
            group.volume_suffixes.add(facts["volume_suffix"])
            group.times.add(int(facts["times"]))
    return [groups[key] for key in sorted(groups)]


def told_apart(groups: Sequence[Group]) -> dict[int, str]:
    """Return the `acq` of groups that have one name in a study, by their `id`; words that count runs tell nothing."""
    by_name: dict[str, list[Group]] = defaultdict(list)
    for group in groups:
        if group.named is not None and "acq" in group.named.kind.entities - group.named.entities.keys():
            named = group.named
            by_name[json.dumps([named.kind.datatype, named.kind.suffix, sorted(named.entities.items())])].append(group)
    found = {}
    for alike in by_name.values():
        for group in alike:
            others = [other for other in alike if other is not group and other.studies & group.studies]
            shared = [{word.casefold() for word in other.words} for other in (group, *others)]
            common = set.intersection(*shared)
            own = [word for word in group.words if word.casefold() not in common]
            left = "".join(word for word in own if not _OF_RUNS.fullmatch(word.casefold()))
            if others and left:
                found[id(group)] = left
    return found


def _wanted(group: Group) -> dict[str, Any]:
    """Return the keys of a rule for volumes without a name; `skip` if nothing tells what they are."""
    rule = group.rule
    suffix, datatype = (rule.suffix, rule.datatype) if rule is not None else (suffix_of(group), None)
    if not suffix:
        return {"skip": UNDECIDED}
    kind = kind_of(re.sub(r"\{\w*\}", "1", suffix), datatype or None)
    entities = entities_of(group, kind, rule.entities if rule is not None else {})
    for entity in sorted(kind.required - entities.keys() - {"echo", "inv"}):
        found = label("".join(words_of_task(group)).lower()) if entity == "task" else ""
        if not found:
            return {"skip": f"not decided: set suffix = {suffix} with entities = {{ {entity} = ... }} instead of skip"}
        entities[entity] = found
    return {"suffix": suffix, **({"datatype": datatype} if datatype else {}), "entities": entities}


def suffix_of(group: Group) -> str | None:
    """Return the suffix that is a word of the description, and is in one folder only."""
    words = {word.casefold() for word in group.words}
    found = {kind.suffix for kind in KINDS if kind.suffix.casefold() in words}
    [suffix] = found if len(found) == 1 else [None]
    return suffix if sum(kind.suffix == suffix for kind in KINDS) == 1 else None


def _renamed(group: Group, added: Mapping[str, str]) -> dict[str, Any]:
    """Return the keys of a rule that gives a name of other rules, and more entities."""
    assert group.named is not None
    kind, rule = group.named.kind, group.rule
    # What rules take from each volume is not the label of the first one.
    own = {entity: value for entity, value in group.named.entities.items() if entity not in ("echo", "inv", "part")}
    entities = rule.entities if rule is not None else own
    suffix = rule.suffix if rule is not None and rule.suffix is not None else kind.suffix
    is_ambiguous = sum(other.suffix == kind.suffix for other in KINDS) > 1
    return {
        "suffix": suffix,
        **({"datatype": kind.datatype} if is_ambiguous else {}),
        "entities": {**entities, **entities_of(group, kind, {}), **added},
    }


def entities_of(group: Group, kind: Kind, known: Mapping[str, str]) -> dict[str, str]:
    """Return the entities of a rule, and those that a description states, such as ``acq-highres``."""
    stated = {
        entity: value
        for entity, value in _PAIRS.findall(group.title)
        if entity in NAMED_BY_RULE & kind.entities and problem_with(entity, value) is None
    }
    return {**known, **stated}


def words_of_task(group: Group) -> list[str]:
    return [word for word in group.words if not _OF_TASKS.fullmatch(word.casefold())]


def _table(group: Group, wanted: Mapping[str, Any], *, is_alone: bool) -> str:
    """Return one ``[[rules]]``."""
    name = "series_description" if group.facts["series_description"] else "protocol_name"
    where = f"{name} == {_quoted(group.title)}" if group.title.strip() else _WITHOUT_DESCRIPTION
    if not is_alone:
        some = ", ".join(_quoted(suffix) for suffix in sorted(filter(None, group.volume_suffixes)))
        either = ["volume_suffix == null"] if None in group.volume_suffixes else []
        either += [f"volume_suffix in [{some}]"] if some else []
        where += f" and ({' or '.join(either)})" if len(either) > 1 else f" and {either[0]}"
        where += " and times == 1" if group.times == {1} else " and times >= 2" if 1 not in group.times else ""
    lines = [f"\n# {printable(group.shown)}", "[[rules]]", f"name = {_toml(group.name)}"]
    lines.append(f"where = {_toml(where)}")
    lines += [f"{key} = {_toml(wanted[key])}" for key in ("suffix", "datatype", "skip") if key in wanted]
    if wanted.get("entities"):
        pairs = ", ".join(f"{entity} = {_toml(value)}" for entity, value in wanted["entities"].items())
        lines.append(f"entities = {{ {pairs} }}")
    return "\n".join(lines) + "\n"


def _quoted(text: str) -> str:
    """Return a text as selectors compare it; what they cannot quote is any text."""
    return f'"{_UNQUOTED.sub("*", text)}"'


def _toml(text: str) -> str:
    """Return a text of one line as a string of TOML."""
    return f"'{text}'" if '"' in text and "'" not in text else json.dumps(text, ensure_ascii=False)

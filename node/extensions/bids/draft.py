"""A first file of rules: what names and headers tell of the series of a source, and what somebody has to decide.

Volumes that the rules name already need no new one, unless two descriptions of a study have one name: an `acq` tells
them apart then. The task of a functional series is proposed from its description. What nothing tells is left out by the
file, with the reason, until somebody decides it there.
"""

import hashlib
import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from node.cli.output import printable
from node.errors import UsageError
from node.extensions.bids.names import ENTITIES, KINDS, LABEL, Named, SuffixKind, kind_of, label, problem_with, stem
from node.extensions.bids.plan import facts_of
from node.extensions.bids.planned import SubjectSeries
from node.extensions.bids.rules import NAMED_BY_RULE, NotExported, Rule, Rules, kind_of_image, read_text
from node.extensions.bids.sources import PatientSource
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
_FIRST_RULE = re.compile(r"^[ \t]*\[\[[ \t]*rules[ \t]*\]\]", re.MULTILINE)
_UNQUOTED = re.compile(r"[\"'\\*\x00-\x1f\x7f]+")
_BETWEEN_PAIRS = re.compile(r"[\s_]+(?![^{}]*\})")

COLUMNS = ("task", "acq", "dir")
"""Entities that have a column of their own; others are written in one, such as ``ce-gad rec-norm``."""

LEFT_OUT = "-"
"""Stands for a kind in the form: these series are left out."""

OF_VOLUME = frozenset({"echo", "inv", "part"})
"""Entities that each volume states itself."""

NO_CELLS: Mapping[str, Mapping[str, str]] = {}

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
        facts_shown = [f"{len(self.series)} series", size, kind_of_image(facts)]
        repetition_ms = facts["repetition_time_ms"]
        return ", ".join([*facts_shown, *([f"{repetition_ms:g} ms"] if repetition_ms else [])])


@dataclass(slots=True)
class DraftRow:
    """A row of the grid: series of one description. `cells`: what the form shows; `keys`: those of the rule, if any."""

    key: str
    group: Group
    cells: dict[str, str]
    keys: Mapping[str, Any] | None = None
    name: str = ""
    problems: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Draft:
    """The text of a file of rules: how many it proposes, and how many of these nobody has decided."""

    text: str
    proposed: int
    undecided: int


def draft(source: PatientSource, rules: Rules, where: Selector | None = None, text: str = "") -> Draft:
    """Return rules for what `rules` do not name, or the default rules give one name although the descriptions differ.

    `where`: the series to look at; `text`: the file of the rules, which the draft has as well.
    """
    groups = groups_of(source.series_of(list(source.patients())), rules, where)
    apart, own = distinguished(groups), [id(rule) for rule, _ in rules.rules[: rules.own]]
    rows = [row_of(group, apart.get(id(group), "") if id(group.rule) not in own else "") for group in groups]
    keys = [{"skip": f"not decided: {row.problems[0]}"} if row.problems else row.keys for row in rows]
    return written(groups, keys, text)


def written(groups: Sequence[Group], wanted: Sequence[Mapping[str, Any] | None], before: str = "") -> Draft:
    """Return a file of rules: the keys of the rule of each group, None for a group without one.

    `before`: a file of rules. Its tables are in the new one, and its rules after the new rules, which count first.
    Raises UsageError if they are no rules.
    """
    first = _FIRST_RULE.search(before)
    start = first.start() if first else len(before)
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
            *(["\n# Without a proposed rule:\n"] if notes else []),
            *(f"#   {note}\n" for note in sorted(set(notes))),
            *([f"\n{before[:start].rstrip()}\n"] if before[:start].strip() else []),
            *tables,
            *([f"\n{before[start:]}"] if first else []),
        ]
    )
    read_text(text, "the draft")
    return Draft(text, len(tables), undecided)


def groups_of(found: Iterable[SubjectSeries], rules: Rules, where: Selector | None = None) -> list[Group]:
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


def distinguished(groups: Sequence[Group]) -> dict[int, str]:
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


def suffix_of(group: Group) -> str | None:
    """Return the suffix that is a word of the description, and is in one folder only."""
    words = {word.casefold() for word in group.words}
    found = {kind.suffix for kind in KINDS if kind.suffix.casefold() in words}
    [suffix] = found if len(found) == 1 else [None]
    return suffix if sum(kind.suffix == suffix for kind in KINDS) == 1 else None


def entities_of(group: Group, kind: SuffixKind) -> dict[str, str]:
    """Return the entities that a description states, such as ``acq-highres``."""
    return {
        entity: value
        for entity, value in _PAIRS.findall(group.title)
        if entity in NAMED_BY_RULE & kind.entities and problem_with(entity, value) is None
    }


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


def kind_text(kind: SuffixKind) -> str:
    return f"{kind.datatype}/{kind.suffix}"


def row_of(group: Group, added: str, form: Mapping[str, Mapping[str, str]] = NO_CELLS) -> DraftRow:
    """Return the row of a group. `added`: the `acq` that tells it apart; `form`: cells that somebody has changed."""
    first = group.named.kind.suffix if group.named else group.rule.name if group.rule else ""
    key = hashlib.sha256(json.dumps([group.title.strip().casefold(), first]).encode()).hexdigest()[:16]
    proposed = _proposed(group, added)
    row = DraftRow(key, group, dict(form.get(key, proposed)))
    kind = _chosen_kind(row)
    is_as_before = row.cells == proposed and (group.is_left_out or (group.named is not None and not added))
    if kind is None:
        row.keys = None if is_as_before else {"skip": "left out by hand" if row.cells["kind"] else UNDECIDED}
        return row
    entities = _entities(row, kind)
    row.name = f"{kind.datatype}/{stem({'sub': '*', **entities}, kind.suffix)}"
    if is_as_before:
        row.problems = []  # the rules of now name it so
    if row.problems or is_as_before:
        return row
    is_ambiguous = sum(other.suffix == kind.suffix for other in KINDS) > 1
    datatype = {"datatype": kind.datatype} if is_ambiguous else {}
    row.keys = {"suffix": _suffix(group, kind), **datatype, "entities": _templates(group, entities)}
    return row


def _proposed(group: Group, added: str) -> dict[str, str]:
    """Return the cells of a row before somebody changes them."""
    if group.is_left_out:
        return {"kind": LEFT_OUT, "more": "", **dict.fromkeys(COLUMNS, "")}
    kind, entities = None, {}
    if group.named is not None:
        kind = group.named.kind
        entities = {name: value for name, value in group.named.entities.items() if name not in OF_VOLUME}
    elif group.rule is not None and group.rule.suffix is not None:
        kind = kind_of(re.sub(r"\{\w*\}", "1", group.rule.suffix), group.rule.datatype)
        entities = dict(group.rule.entities)
    elif (suffix := suffix_of(group)) is not None:
        kind = kind_of(suffix)
    if kind is not None:
        entities |= entities_of(group, kind) | ({"acq": added} if added else {})
        task = label("".join(word for word in group.words if not _OF_TASKS.fullmatch(word.casefold())).lower())
        if "task" in kind.required and task:
            entities.setdefault("task", task)
    more = " ".join(f"{name}-{entities[name]}" for name in ENTITIES if name in entities and name not in COLUMNS)
    cells = {"kind": kind_text(kind) if kind is not None else "", "more": more}
    return cells | {name: entities.get(name, "") for name in COLUMNS}


def _chosen_kind(row: DraftRow) -> SuffixKind | None:
    """Return the kind that a row has; None: left out, or not decided."""
    if row.cells["kind"] in ("", LEFT_OUT):
        return None
    datatype, _, suffix = row.cells["kind"].partition("/")
    try:
        return kind_of(suffix, datatype)
    except UsageError as error:
        row.problems.append(str(error))
        return None


def _entities(row: DraftRow, kind: SuffixKind) -> dict[str, str]:
    """Return the entities of a row, and note what is wrong with them."""
    found = {name: row.cells[name] for name in COLUMNS if row.cells[name]}
    for pair in filter(None, _BETWEEN_PAIRS.split(row.cells["more"])):
        name, dash, value = pair.partition("-")
        if not dash or name not in NAMED_BY_RULE:
            row.problems.append(f'{pair}: write an entity, a dash and a label, such as "ce-gad"')
        else:
            found[name] = value
    where = kind_text(kind)
    for name, value in found.items():
        if name not in kind.entities:
            row.problems.append(f"{where} has no {name}; it may have {', '.join(sorted(kind.entities))}")
        elif "{" not in value and (problem := problem_with(name, value)):
            row.problems.append(problem)
    row.problems += [f"{where} needs {name}" for name in sorted(kind.required - found.keys() - {"echo", "inv"})]
    return found


def _suffix(group: Group, kind: SuffixKind) -> str:
    """Return the suffix for a rule: that of the rule before, which may depend on the volume, if it gives this kind."""
    rule = group.rule
    before = rule.suffix if rule is not None and group.named is not None and group.named.kind == kind else None
    return before or kind.suffix


def _templates(group: Group, entities: Mapping[str, str]) -> dict[str, str]:
    """Return the labels for a rule: where the rule before takes one from the volume, and nobody has changed it, so does
    this one."""
    if group.rule is None or group.named is None:
        return dict(entities)
    before, now = group.rule.entities, group.named.entities
    return {
        name: before[name] if name in before and now.get(name) == value else value for name, value in entities.items()
    }

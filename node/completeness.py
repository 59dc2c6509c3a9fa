"""Decide whether a quiet series is complete, from counts, its reception, and findings in its instances. Pure.

The list of instances in an ended Modality Performed Procedure Step decides. What the sender says that it has, asked by
C-FIND, decides where two sources agree. Counts in headers are hints, because senders give them different
meanings: a count that is not reached is reported, and no conversion waits for it. Every fact that speaks against
completeness is in the reason. Where only a weak fact does, or another contradicts it, the series is suspect.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from node.dicom.counts import (
    IMAGES_IN_ACQUISITION,
    IMAGES_OF_ALL_TIMES,
    SERIES_RELATED_INSTANCES,
    InstanceCounts,
    announced_counts,
    holes,
)
from node.errors import counted

State = Literal["complete", "suspect", "incomplete"]
Rule = Literal[
    "acknowledged",
    "conflict",
    "versions",
    "mpps",
    "c-find",
    "geometry",
    "times",
    "headers",
    "instance-numbers",
    "spacing",
    "siblings",
    "forced",
    "association",
    "quiet",
]
"""The rule that decided: instances that were acknowledged and are not here, or whose files are damaged; instances that
were set aside, because other series have their UIDs; versions that were set aside, or that are not the same as others
of their UIDs; the list of the performed procedure step; the count of the sender; gaps in space, or times that lack
slices; whole times that are missing; counts in headers; missing Instance Numbers; distances that differ from those
stated; other series of the protocol, by their counts or because they seem to be of the same acquisition; the end
of the longest wait; an association that was not released; only that no more instances were received."""

Party = Literal["", "sender", "cut", "node"]
"""Whose end of an association is held against a series: nobody's; the sender's, which did not release it; the same in
the middle of an instance; the node's, before the series was quiet."""

Certainty = Literal["verified", "no gap seen", "suspect", "incomplete"]
"""The word for people: a complete series is verified only if a count was announced and is reached."""

CERTAINTIES: tuple[Certainty, ...] = ("incomplete", "suspect", "no gap seen", "verified")
"""The least certain first."""

PART_OF_ACQUISITION = (
    "other series of the study seem to be of the same acquisition: protocol, Frame of Reference UID and matrix are the "
    "same, and so is Series Number, or Series Numbers and Acquisition Numbers follow each other; `voxelnode convert` "
    "joins such series if all headers prove it"
)

COUNTED_RULES: tuple[Rule, ...] = ("mpps", "c-find", "headers")
"""Rules that compare with an announced count."""

ACKNOWLEDGED: Rule = "acknowledged"
C_FIND = "C-FIND"
MPPS = "Performed Series Sequence (0040,0340)"
COPIES_LEFT_OUT = "of the same content left out"
"""The end of a reason that counts further files of the same instances."""
MAX_NAMED = 10
"""UIDs of missing instances that a reason names."""


@dataclass(frozen=True, slots=True)
class Performed:
    """What ended performed procedure steps list of a series (PS3.4 F.7.2).

    `listed`: number of instances in their lists.
    `missing`: number of those that are not stored.
    `named`: SOP Instance UIDs of at most `MAX_NAMED` of the missing ones.
    `unlisted`: number of stored instances that are in no list.
    """

    listed: int
    missing: int = 0
    named: tuple[str, ...] = ()
    unlisted: int = 0


def performed(listed: Collection[str], stored: Collection[str]) -> Performed:
    """Compare the SOP Instance UIDs that performed procedure steps list of a series with those that are stored."""
    missing = sorted(set(listed).difference(stored))
    return Performed(len(set(listed)), len(missing), tuple(missing[:MAX_NAMED]), len(set(stored).difference(listed)))


@dataclass(frozen=True, slots=True)
class Reported:
    """What the sender of a series says that it has, by C-FIND (PS3.4 C.4.1).

    `received`: number of instances that were stored when it was asked; its word counts only for these.
    `instances`: its *Number of Series Related Instances* (0020,1209), else the length of its list; None if it gives
        neither.
    `missing`: number of the instances in its list that are not stored; None: it was not asked for a list, or gave none.
    `named`: SOP Instance UIDs of at most `MAX_NAMED` of these.
    `problem`: why nothing is known, to be read after "the sender"; empty: it answered.
    """

    received: int
    instances: int | None = None
    missing: int | None = None
    named: tuple[str, ...] = ()
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Expectation:
    """The facts about a series that are known before its pixels are read.

    `received`: number of stored instances.
    `announced`, tuple of (int, str): counts that headers announce, each with its source, most likely first.
    `holes`: Number of Instance Numbers missing between the smallest and the largest.
    `reported`: what the sender says that it has; None: it was not asked.
    `aborted`: who ended the association of the last instance otherwise than by release, if nothing was received after
        it.
    `forced`: instances are still being received, but the longest wait is over.
    `siblings`: numbers of instances of the other closed series of its study that have the same protocol.
    `split`: another series of the study has the same protocol and announces as many times: each may hold one of them.
    `is_part`: other series of the study seem to be of the same acquisition.
    `performed`: the lists of ended performed procedure steps; None: no step lists this series.
    `lost`: number of instances that were acknowledged and are not here.
    `damaged`: number of stored instances whose files are known to be missing or damaged.
    `aside`: number of its instances that were set aside because their SOP Instance UIDs are current in other series.
    `versions`: number of undecided versions that were set aside of instances that are current in it.
    `copies`: number of files that have the SOP Instance UIDs of the others; a node stores each instance once.
    """

    received: int
    announced: tuple[tuple[int, str], ...] = ()
    holes: int = 0
    reported: Reported | None = None
    aborted: Party = ""
    forced: bool = False
    siblings: tuple[int, ...] = ()
    split: bool = False
    is_part: bool = False
    performed: Performed | None = None
    lost: int = 0
    damaged: int = 0
    aside: int = 0
    versions: int = 0
    copies: int = 0


@dataclass(frozen=True, slots=True)
class Evidence:
    """A fact that speaks against completeness, as part of a sentence, without patient data.

    `missing` says in words what seems to be missing, and `count` how many instances, if known. A `doubtful` fact has
    innocent causes, or another one contradicts it.
    """

    rule: Rule
    fact: str
    missing: str
    count: int | None = None
    doubtful: bool = False


@dataclass(frozen=True, slots=True)
class Findings:
    """What a conversion has found of the completeness of a series; a later verdict needs no pixels.

    `evidence`: facts in its instances and volumes, the strongest first.
    `placed`: the planes have positions in the patient, so a gap would have been found.
    `times`: largest number of planes at one position; 0 if unknown.
    `has_images`: false: counts of images were copied, and say nothing of it.
    `holes`: see `Expectation`; here, without the numbers of reports that are far from those of images. None: unknown.
    `forced`: see `Expectation`.
    """

    evidence: tuple[Evidence, ...] = ()
    placed: bool = False
    times: int = 0
    has_images: bool = True
    forced: bool = False
    holes: int | None = None


def findings_of(document: Mapping[str, Any]) -> Findings:
    """Return the findings that `dataclasses.asdict` has made a document of."""
    return Findings(**{**document, "evidence": tuple(Evidence(**one) for one in document["evidence"])})


@dataclass(frozen=True, slots=True)
class Completeness:
    """Whether a series is complete, the rule that decided, and the reason as a sentence.

    `missing` is the number of missing instances, or None if unknown; `missing_detail` says in words what seems to be
    missing, empty if nothing does or if it is unknown. `missing_at_sender`: the sender lacks it, too.
    """

    state: State
    rule: Rule
    expected: int | None
    expected_source: str | None
    received: int
    missing: int | None
    reason: str
    missing_detail: str = ""
    missing_at_sender: bool = False

    def document(self) -> dict[str, Any]:
        """Return what a sidecar has of it: the reason says what the sender has."""
        return {name: value for name, value in asdict(self).items() if name != "missing_at_sender"}

    @property
    def certainty(self) -> Certainty:
        """How certain it is that nothing is missing, in words for people."""
        return certainty(self.state, self.rule)


def certainty(state: State, rule: Rule) -> Certainty:
    """Return the word for people for a verdict and the rule that decided."""
    if state != "complete":
        return state
    return "verified" if rule in COUNTED_RULES else "no gap seen"


def expectation(instances: Sequence[InstanceCounts], **known: Any) -> Expectation:
    """Return the known facts about a series: what the attributes of its instances say, and other fields in `known`."""
    return Expectation(len(instances), tuple(announced_counts(instances)), holes(instances), **known)


def _without_counts_of_images(known: Expectation) -> Expectation:
    """Return what is known of a series without images: counts of images were copied, and say nothing of it.

    Nor do Instance Numbers: senders number reports in the study, or as 99.
    """
    of_instances = tuple(count for count in known.announced if count[1] == SERIES_RELATED_INSTANCES)
    return replace(known, announced=of_instances, holes=0)


_NOT_CONVERTED = Findings()


def verdict_of(known: Expectation, found: Findings = _NOT_CONVERTED) -> Completeness:
    """Return whether a series is complete, by what is known of it now and what its conversion has found.

    Without `found`, nothing is known of its instances but that they were received.
    """
    if found.forced:
        known = replace(known, forced=True)
    if found.holes is not None:
        known = replace(known, holes=found.holes)
    if not found.has_images:
        known = _without_counts_of_images(known)
    if known.lost or known.damaged:
        facts = lost_instances(known.lost) if known.lost else "", damaged_files(known.damaged) if known.damaged else ""
        reason, total, missing = "; ".join(filter(None, facts)), known.received + known.lost, known.lost + known.damaged
        return Completeness(
            "incomplete", ACKNOWLEDGED, total, "acknowledgments", total - missing, missing, reason, reason
        )
    verdict = _with_conflicts(_judged(known, found), known)
    if not known.copies:
        return verdict
    copies = counted(known.copies, "copy", "copies")
    return replace(verdict, reason=f"{verdict.reason}; {copies} {COPIES_LEFT_OUT}")


def _with_conflicts(verdict: Completeness, known: Expectation) -> Completeness:
    """Return a verdict that names what was set aside: it may be what seems to be missing, or the true content."""
    if not known.aside:
        if not known.versions:
            return verdict
        versions = counted(known.versions, "version was", "versions were")
        fact = f"{versions} set aside, with other bytes under the same SOP Instance UIDs: `voxelnode conflicts`"
        if verdict.state == "complete":
            return replace(verdict, state="suspect", rule="versions", reason=f"{fact}; {verdict.reason}")
        return replace(verdict, reason=f"{verdict.reason}; {fact}")
    instances = counted(known.aside, "instance was", "instances were")
    fact = f"{instances} set aside, because other series have the same SOP Instance UIDs: `voxelnode conflicts`"
    is_all = verdict.state == "complete" or (verdict.missing or 0) == known.aside
    total, missing = known.received + known.aside, max(known.aside, verdict.missing or 0)
    is_more = verdict.expected is not None and verdict.expected >= total
    return replace(
        verdict,
        state="incomplete",
        rule="conflict",
        expected=verdict.expected if is_more else total,
        expected_source=verdict.expected_source if is_more else "acknowledgments",
        missing=missing,
        reason=fact if is_all else f"{fact}; {verdict.reason}",
        missing_detail="; ".join(filter(None, (f"{instances} set aside", "" if is_all else verdict.missing_detail))),
    )


def _judged(known: Expectation, found: Findings) -> Completeness:
    if known.performed is not None:
        return _by_list(known.performed, known.received)
    if found.times > 1:
        known = replace(known, split=False)
    gaps = max((one.count or 0 for one in found.evidence if one.rule == "instance-numbers"), default=0)
    count = _count(known, found.times, known.received + gaps)
    expected, source = count if count else (None, None)
    state: State
    rule: Rule
    against: list[Evidence] = []
    if against := _weighed(known, found.evidence, count):
        if expected is None and all(finding.doubtful for finding in against) and (short := _cut_short(known)):
            against.insert(0, Evidence(*short, ""))
        state = "suspect" if all(finding.doubtful for finding in against) else "incomplete"
        rule = next(finding.rule for finding in against if finding.doubtful == (state == "suspect"))
        reason = "; ".join(finding.fact for finding in against) + _received(known, count, against)
    elif expected is not None:
        state, rule = "complete", "headers"
        reason = f"{known.received} of {counted(expected, 'instance')} that {source} announces"
    else:
        state, rule, reason = _without_count(known, found.placed)
    missing = max(0, expected - known.received) if expected is not None else (0 if state == "complete" else None)
    if state != "complete" and not missing:
        decisive = sorted(against, key=lambda finding: finding.doubtful)
        missing = next((finding.count for finding in decisive if finding.count), None) or known.holes or None
    detail = "; ".join(dict.fromkeys(finding.missing for finding in against if finding.missing))
    verdict = Completeness(state, rule, expected, source, known.received, missing, reason, detail)
    return verdict if known.reported is None else _with_reported(verdict, known.reported)


def _with_reported(verdict: Completeness, reported: Reported) -> Completeness:
    """Return a verdict with what the sender has said that it has, unless other instances are here by now.

    Its word decides with a second source. A list names what is not here. As many as are here are complete, and cast
    doubt on missing numbers and on counts in headers, but on no gap in space. A count alone that is greater makes a
    series suspect, and one that is smaller is only reported: a sender may have deleted what it has sent.
    """
    received, has = verdict.received, reported.instances
    if reported.received != received or verdict.rule in (ACKNOWLEDGED, "mpps"):
        return verdict
    if reported.missing:
        total = received + reported.missing
        named = _named(reported.named, reported.missing)
        fact = f"{received} of {counted(total, 'instance')} that the sender lists (C-FIND); missing: {named}"
        detail = "; ".join(filter(None, (verdict.missing_detail, f"instances {named}")))
        return replace(
            verdict, state="incomplete", rule="c-find", expected=total, expected_source=C_FIND,
            missing=reported.missing, reason=_beside(fact, verdict), missing_detail=detail,
        )  # fmt: skip
    if has == received or (has is not None and has > received and reported.missing == 0):
        counts = "" if has == received else f", which counts {has}"
        if verdict.state == "complete" or verdict.rule in ("association", "forced"):
            fact = f"{received} of {counted(received, 'instance')} that the sender has (C-FIND){counts}"
            return replace(
                verdict, state="complete", rule="c-find", expected=received, expected_source=C_FIND, missing=0,
                reason=fact,
            )  # fmt: skip
        doubtful = verdict.rule in ("headers", "instance-numbers", "times")
        return replace(
            verdict,
            state="suspect" if doubtful else verdict.state,
            reason=f"{verdict.reason}; the sender has {received} as well (C-FIND){counts}",
            missing_at_sender=True,
        )
    if has is not None and has > received:
        fact = f"{received} of {counted(has, 'instance')} that the sender has (C-FIND), of which it gave no list"
        if verdict.state == "incomplete":
            return replace(verdict, reason=f"{verdict.reason}; {fact}")
        return replace(
            verdict, state="suspect", rule="c-find", expected=has, expected_source=C_FIND, missing=has - received,
            reason=_beside(fact, verdict), missing_detail=verdict.missing_detail or counted(has - received, "instance"),
        )  # fmt: skip
    said = reported.problem or ("does not say how many it has (C-FIND)" if has is None else f"has {has} (C-FIND)")
    return replace(verdict, reason=f"{verdict.reason}; the sender {said}")


def _beside(fact: str, verdict: Completeness) -> str:
    """Return a fact, followed by what else speaks against completeness."""
    return fact if verdict.state == "complete" else f"{fact}; {verdict.reason}"


def _named(uids: Sequence[str], count: int) -> str:
    """Return the first of so many missing instances in words."""
    return ", ".join(uids) + (f" and {count - len(uids)} more" if count > len(uids) else "")


def lost_instances(count: int) -> str:
    """Return in words that instances are lost."""
    return counted(count, "instance was acknowledged and is", "instances were acknowledged and are") + " not here"


def damaged_files(count: int) -> str:
    """Return in words that files are not as received."""
    files = "the file of 1 instance is" if count == 1 else f"the files of {count} instances are"
    return f"{files} missing or damaged"


def _by_list(performed: Performed, received: int) -> Completeness:
    """Return whether every instance is stored that performed procedure steps list."""
    here = performed.listed - performed.missing
    reason = f"{here} of {counted(performed.listed, 'instance')} that the performed procedure step lists (MPPS)"
    if performed.unlisted:
        reason += f", and {performed.unlisted} more that it does not list"
    named = _named(performed.named, performed.missing)
    if performed.missing:
        reason += f"; missing: {named}"
    state: State = "incomplete" if performed.missing else "complete"
    detail = f"instances {named}" if performed.missing else ""
    return Completeness(state, "mpps", performed.listed, MPPS, received, performed.missing, reason, detail)


def _weighed(known: Expectation, findings: Sequence[Evidence], count: tuple[int, str] | None) -> list[Evidence]:
    """Return the findings together with those in the counts.

    A count that agrees casts doubt on missing numbers, and outweighs a count of times; so does another series that may
    hold the other times. Volumes of other dimensions than declared stay doubtful.
    """
    agrees = count is not None and count[0] == known.received
    parts = [Evidence("siblings", PART_OF_ACQUISITION, "", doubtful=True)] if known.is_part else []
    weighed = [
        replace(finding, doubtful=True) if agrees and finding.rule in ("instance-numbers", "times") else finding
        for finding in findings
        if finding.rule != "headers" or finding.doubtful or not (agrees or known.split)
    ]
    if count is not None and known.received < count[0]:
        expected, source = count
        fact = f"{known.received} of {counted(expected, 'instance')} that {source} announces"
        missing = expected - known.received
        by_count = Evidence("headers", fact, "" if weighed else counted(missing, "instance"), missing)
        gaps = [finding for finding in weighed if finding.rule in ("geometry", "times")]
        others = [finding for finding in weighed if finding not in gaps and finding.rule != "headers"]
        return [*gaps, by_count, *others, *parts]
    siblings = frozenset(known.siblings)
    if not agrees and len(known.siblings) > 1 and len(siblings) == 1 and known.received < max(siblings):
        usual = max(siblings)
        missing = usual - known.received
        fact = (
            f"{len(known.siblings)} other series of this protocol have {counted(usual, 'instance')} each, "
            f"this one has {known.received}"
        )
        weighed.append(Evidence("siblings", fact, counted(missing, "instance") + " at an end", missing, doubtful=True))
    return [*weighed, *parts]


def _count(known: Expectation, times: int, least: int) -> tuple[int, str] | None:
    """Return the count to compare with: a matching one, else the smallest that is not reached.

    `least`: the instances that are here and those whose Instance Numbers are missing between theirs. They contradict a
    smaller count that is not reached: it counts a part of the series.
    """
    announced = known.announced
    if known.split:
        announced = tuple(count for count in announced if count[1] != IMAGES_OF_ALL_TIMES)
    elif times == 1 and any(source == IMAGES_OF_ALL_TIMES for _, source in announced):
        # (0020,1002) counts one temporal position of several here.
        announced = tuple(count for count in announced if count[1] != IMAGES_IN_ACQUISITION)
    if not announced:
        return None
    fitting = [count for count in announced if count[0] == known.received]
    above = sorted(count for count in announced if count[0] > known.received)
    if fitting or not above:
        return (*fitting, max(announced))[0]
    return next((count for count in above if count[0] >= least), None)


def _received(known: Expectation, count: tuple[int, str] | None, against: Sequence[Evidence]) -> str:
    """Return the number of instances and the announced one as the end of a reason, unless the reason has them."""
    if any(finding.rule == "headers" for finding in against):
        return ""
    announced = "" if count is None else f"; {count[1]} announces {count[0]}"
    return f"; {_instances(known)} received{announced}"


def _instances(known: Expectation) -> str:
    return f"{known.received} instance{'' if known.received == 1 else 's'}"


_ABORTED: Mapping[Party, str] = {
    "sender": "the sender did not release its association",
    "cut": "the association of the sender ended in the middle of an instance,",
    "node": "this node, not the sender, ended the association",
}


def _cut_short(known: Expectation) -> tuple[Rule, str] | None:
    """Return the rule and the fact by which more of a series is to be expected; None if nothing says so."""
    received = _instances(known)
    if known.forced:
        return "forced", f"instances are still received; {received} received when the longest wait was over"
    if known.aborted:
        return "association", f"{_ABORTED[known.aborted]} after {received}; nothing was received since"
    return None


def _without_count(known: Expectation, placed: bool) -> tuple[State, Rule, str]:
    received = _instances(known)
    if (short := _cut_short(known)) is not None:
        return "incomplete", *short
    if known.holes and not placed:
        return "incomplete", "instance-numbers", f"{known.holes} Instance Numbers are missing among {received}"
    if placed:
        return "complete", "geometry", f"{received} without a gap; the sender did not announce a count"
    return "complete", "quiet", f"{received} received; the sender did not announce a count"

"""Who sees what, as docs/access.md says it, in plain sets: the oracle of tests/web/test_who_sees_what.py.

It knows nothing of tables, of SQL and of HTTP. A series is a key of two UIDs. What a key says of its series (patient,
modality, called AE title) is arithmetic on these, so that what comes again is what it was.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

ROLES = ("read", "write", "admin")
PROJECT_ROLES = ("read", "write", "manage")
WHOLE = ""
"""In the place of a series: the whole study."""

STUDIES = tuple(f"1.2.90{number}" for number in range(1, 6))


class Key(NamedTuple):
    """A series, or a study if `series` is `WHOLE`."""

    study: str
    series: str = WHOLE

    @property
    def named(self) -> str:
        """Patient ID in the files of the study."""
        return f"ID-{int(self.study[-1]) % 3}"

    @property
    def modality(self) -> str:
        return "MR" if self.series.endswith(".3") else "CT"

    @property
    def called(self) -> str:
        """AE title that the series is sent to."""
        return "TRIAL" if self.series.endswith(".2") else "VOXELNODE"

    @property
    def description(self) -> str:
        return f"Described {self.series}"

    def instance(self, number: int) -> str:
        return f"{self.series}.{number}"


SERIES = tuple(Key(study, f"{study}.{number}") for study in STUDIES for number in (1, 2, 3))


@dataclass
class Project:
    """What is in a project, and who."""

    serial: int
    contents: set[Key] = field(default_factory=set)
    by_rule: set[Key] = field(default_factory=set)
    rule: str = ""
    called: str = ""
    members: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Link:
    """What a link shows."""

    target: Key
    made_by: str
    may_download: bool


@dataclass(frozen=True)
class Token:
    """Whose a token is, and the project that it is for; None: all that the account sees."""

    account: str
    project: str | None = None


@dataclass(frozen=True)
class Trashed:
    """What a deletion has moved to the trash."""

    number: int
    study: str
    instances: Mapping[Key, frozenset[int]]


@dataclass(frozen=True)
class Kept:
    """What an account saw when it asked for a download."""

    account: str
    series: frozenset[Key]
    projects: frozenset[int]


class Model:
    """A node, as far as it matters who sees what of it."""

    def __init__(self) -> None:
        self.held: dict[Key, set[int]] = {}
        self.projects: dict[str, Project] = {}
        self.roles: dict[str, str] = {}
        self.limited: set[str] = set()
        self.labels: dict[Key, set[str]] = {}
        self.into: dict[str, str] = {}
        self.links: dict[str, Link] = {}
        self.tokens: dict[str, Token] = {}
        self.trash: list[Trashed] = []
        self.kept: dict[str, Kept] = {}
        self._serial = 0

    # What is there

    def arrive(self, key: Key, numbers: Iterable[int]) -> None:
        if key not in self.held:
            for project in self.projects.values():
                if project.called == key.called:
                    project.contents.add(key)
        self.held.setdefault(key, set()).update(numbers)

    def of_study(self, study: str, among: Iterable[Key] | None = None) -> set[Key]:
        return {key for key in (self.held if among is None else among) if key.study == study}

    def targeted(self, target: Key) -> set[Key]:
        """The series that a key means."""
        return {key for key in self.of_study(target.study) if target.series in (WHOLE, key.series)}

    def is_there(self, target: Key) -> bool:
        return bool(self.targeted(target))

    def delete(self, target: Key, number: int) -> None:
        gone = {key: frozenset(self.held.pop(key)) for key in self.targeted(target)}
        self.trash.append(Trashed(number, target.study, gone))
        self._forget_patients()

    def restore(self, trashed: Trashed) -> None:
        self.trash.remove(trashed)
        for key, numbers in trashed.instances.items():
            self.arrive(key, numbers)

    def empty(self, trashed: Trashed) -> None:
        """The labels of a study go with its last files, and so do its links."""
        self.trash.remove(trashed)
        study = trashed.study
        if not any(one.study == study for one in self.trash):
            self.labels = {key: found for key, found in self.labels.items() if key.study != study or self.is_there(key)}
        if not self.of_study(study):
            self.links = {token: link for token, link in self.links.items() if link.target.study != study}

    # Patients

    def patient(self, key: Key) -> str:
        """Patient ID of whoever the patient of a study is now."""
        return self.into_whom(key.named)

    def into_whom(self, person: str) -> str:
        while person in self.into:
            person = self.into[person]
        return person

    def persons(self) -> set[str]:
        """Patients with studies, and those merged into them."""
        roots = {self.patient(key) for key in self.held}
        return roots | {person for person in self.into if self.into_whom(person) in roots}

    def merge(self, source: str, target: str) -> None:
        self.into[source] = target

    def separate(self, person: str) -> None:
        del self.into[person]
        self._forget_patients()

    def _forget_patients(self) -> None:
        there = self.persons()
        self.into = {source: target for source, target in self.into.items() if source in there}

    # Projects

    def set_project(self, name: str, *, rule: str | None = None, called: str | None = None) -> None:
        if name not in self.projects:
            self._serial += 1
            self.projects[name] = Project(self._serial)
        project = self.projects[name]
        if called is not None:
            project.called = called
        if rule is not None:
            project.rule, project.by_rule = rule, set()
        if rule:
            self.follow()

    def remove_project(self, name: str) -> None:
        self.projects.pop(name, None)
        self.tokens = {secret: token for secret, token in self.tokens.items() if token.project != name}

    def put(self, name: str, target: Key) -> bool:
        if self.is_there(target):
            self.projects[name].contents.add(target)
        return self.is_there(target)

    def take(self, name: str, target: Key) -> None:
        self.projects[name].contents.discard(target)

    def follow(self) -> None:
        """Apply all rules."""
        for project in self.projects.values():
            if project.rule:
                project.by_rule = {key for key in self.held if RULES[project.rule](self, key, set(self.held))}

    def labelled(self, key: Key) -> set[str]:
        return self.labels.get(key, set()) | self.labels.get(Key(key.study), set())

    def in_project(self, name: str) -> set[Key]:
        project = self.projects.get(name)
        if project is None:
            return set()
        by_hand = {key for key in self.held if {key, Key(key.study)} & project.contents}
        return by_hand | (project.by_rule & self.held.keys())

    # Accounts

    def is_limited(self, account: str) -> bool:
        return account in self.limited and self.roles.get(account) != "admin"

    def sees(self, account: str, role: str = "read") -> set[Key]:
        """The series that an account sees, or those of which it has a role in their projects."""
        if account not in self.roles:
            return set()
        return self.of_projects(self.memberships(account, role)) if self.is_limited(account) else set(self.held)

    def of_projects(self, names: Iterable[str]) -> set[Key]:
        return set[Key]().union(*map(self.in_project, names))

    def may_have_token(self, account: str, project: str) -> bool:
        known = self.memberships(account) if self.is_limited(account) else self.projects
        return account in self.roles and project in known

    def sees_by(self, token: Token) -> set[Key]:
        """The series that a token shows."""
        seen = self.sees(token.account)
        if token.project is None:
            return seen
        is_open = not self.is_limited(token.account) or token.project in self.memberships(token.account)
        return self.in_project(token.project) if is_open else set()

    def memberships(self, account: str, role: str = "read") -> list[str]:
        enough = PROJECT_ROLES[PROJECT_ROLES.index(role) :]
        return [name for name, project in self.projects.items() if project.members.get(account) in enough]

    def may_write(self, account: str, target: Key) -> bool | None:
        """Whether an account may label what a key means; None: it does not see that."""
        if not self.targeted(target) & self.sees(account):
            return None
        is_writer = self.roles.get(account) in ("write", "admin")
        return is_writer and self.targeted(target) <= self.sees(account, "write")

    def set_role(self, account: str, role: str) -> None:
        self.roles[account] = role
        if role == "read" or self.is_limited(account):
            self._end_links(account)

    def limit(self, account: str) -> None:
        self.limited.add(account)
        if self.is_limited(account):
            self._end_links(account)

    def release(self, account: str) -> None:
        self.limited.discard(account)
        for project in self.projects.values():
            project.members.pop(account, None)

    def remove(self, account: str) -> None:
        del self.roles[account]
        self.tokens = {secret: token for secret, token in self.tokens.items() if token.account != account}
        for project in self.projects.values():
            project.members.pop(account, None)
        self._end_links(account)

    def set_member(self, name: str, account: str, role: str) -> bool:
        """Return whether an administrator could do that."""
        of_node = self.roles.get(account)
        if of_node in (None, "admin") or (of_node == "read" and role != "read"):
            return False
        self.projects[name].members[account] = role
        self.limit(account)
        return True

    def _end_links(self, account: str) -> None:
        self.links = {token: link for token, link in self.links.items() if link.made_by != account}

    # Links, downloads

    def shown(self, link: Link) -> set[Key]:
        return self.targeted(link.target)

    def keep(self, number: str, account: str, study: str) -> None:
        serials = frozenset(self.projects[name].serial for name in self.memberships(account))
        seen = frozenset(self.of_study(study, self.sees(account)))
        self.kept[number] = Kept(account, seen, serials if self.is_limited(account) else frozenset())

    def may_fetch(self, number: str, account: str) -> bool:
        kept = self.kept[number]
        if kept.account != account or account not in self.roles:
            return False
        serials = {self.projects[name].serial for name in self.memberships(account)}
        return not self.is_limited(account) or (kept.series <= self.sees(account) and kept.projects <= serials)

    # What follows from a set of series

    def studies(self, seen: Iterable[Key]) -> set[str]:
        return {key.study for key in seen}

    def instances(self, seen: Iterable[Key]) -> set[str]:
        return {key.instance(number) for key in seen for number in self.held[key]}

    def patients(self, seen: Iterable[Key], *, is_limited: bool) -> dict[str, int]:
        """Patient IDs with the number of their studies; somebody who was merged has none, and is seen by a study."""
        seen = list(seen)
        found = {key.named: 0 for key in seen} if is_limited else dict.fromkeys(self.persons(), 0)
        for study in self.studies(seen):
            patient = self.patient(Key(study))
            found[patient] = found.get(patient, 0) + 1
        return found

    def found_by_person(self, person: str, seen: Iterable[Key], *, is_limited: bool) -> set[Key]:
        """The series of a patient, whom queries know by the names of all who were merged into it and are seen."""
        seen = set(seen)
        known = self.patients(seen, is_limited=is_limited)
        return {key for key in seen if person in known and self.patient(key) == self.into_whom(person)}

    def counted_labels(self, seen: set[Key]) -> dict[str, tuple[int, int]]:
        """Labels, each with the numbers of studies and of series that have it."""
        found: dict[str, tuple[int, int]] = {}
        for target in {*seen, *(Key(study) for study in self.studies(seen))}:
            for label in self.labels.get(target, ()):
                studies, series = found.get(label, (0, 0))
                found[label] = (studies + (target.series == WHOLE), series + (target.series != WHOLE))
        return found

    def is_whole(self, study: str, seen: set[Key]) -> bool:
        return self.of_study(study) <= seen


RULES: Mapping[str, Callable[[Model, Key, set[Key]], bool]] = {
    'patient_id == "ID-1"': lambda model, key, seen: model.patient(key) == "ID-1",
    'patient_id == "ID-2"': lambda model, key, seen: model.patient(key) == "ID-2",
    'labels == "trial"': lambda model, key, seen: "trial" in model.labelled(key),
    'modality == "MR"': lambda model, key, seen: key.modality == "MR",
    "study_series > 2": lambda model, key, seen: len(model.of_study(key.study, seen)) > 2,
    f'series_description == "{SERIES[1].description}"': lambda model, key, seen: key == SERIES[1],
}
"""Rules of projects, and which series they select for somebody who sees some."""

"""Who sees what: random changes and random questions, by HTTP and by DIMSE, whose answers a model knows beforehand.

`tests.web.seen` has the model. What is not seen answers as what does not exist, byte for byte but for the identifiers
that were asked for; these have the same lengths.
"""

from __future__ import annotations

import csv
import inspect
import re
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from io import BytesIO, StringIO
from pathlib import Path
from typing import Any, TypeVar
from zipfile import ZipFile

import httpx2
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test
from pydicom import FileDataset, dcmread
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, MRImageStorage
from pynetdicom import AE, build_context, build_role, evt

from node.association.listener import Listener
from node.dicom import uids
from node.errors import VoxelnodeError
from node.extensions.projects.rules import Rules
from node.index.engine.narrowed import MAX_LISTED
from node.index.engine.scope import Scope, within
from node.index.nouns.accounts import Role
from node.receive.ingest import Announced, Origin
from node.web.access import is_for_projects
from node.web.credentials import digest, new_token
from tests import make
from tests.ingest import indexed
from tests.made_once import copy_root, decoder
from tests.protocol.conftest import associate, data_set_bytes, identifier
from tests.web.conftest import PASSWORD, Site, every_route, open_site, until
from tests.web.seen import PROJECT_ROLES, ROLES, RULES, SERIES, STUDIES, WHOLE, Key, Link, Model, Token
from tests.web.test_projects import body_of, query_of, url_of

One = TypeVar("One")

ACCOUNTS = ("anna", "ben", "cleo", "dora", "eve")
BOSS = "boss"
PROJECTS = ("alpha", "beta", "gamma")
PEERS: dict[str, tuple[str, ...] | None] = {"ALPHA": ("alpha",), "BETAGAMMA": ("beta", "gamma"), "ASKER": None}
"""Peers, each with its projects; None: it sees the whole node."""

LABELS = ("trial", "seen")
CONVERTED = (SERIES[0], SERIES[3])
LATER = (SERIES[5], SERIES[11], SERIES[13])
THERE = {key: (1, 2, 3) if key in CONVERTED else (1,) for key in SERIES if key not in LATER}
"""Series that are there from the beginning, with their instances; some have volumes."""

# Some more often than others, so that many things happen to the same.
accounts, projects = st.sampled_from((*ACCOUNTS, "anna", "eve", "eve")), st.sampled_from((*PROJECTS, "alpha"))
series = st.sampled_from((*SERIES, *SERIES[:6], *SERIES[:6]))
targets = st.sampled_from([Key(study) for study in (*STUDIES, STUDIES[0])]) | series
numbers = st.integers(0, 11)


@cache
def instance_of(key: Key, number: int) -> FileDataset:
    """An instance, always with the same bytes."""
    person = {"PatientID": key.named, "PatientName": f"Name^{key.named}", "PatientBirthDate": "19700101"}
    many = make.mr_series if key.modality == "MR" else make.ct_series
    described = {"SeriesDescription": key.description, "SeriesNumber": int(key.series[-1])}
    *_, ds = many(number, rows=8, columns=8, study_uid=key.study, series_uid=key.series, **person, **described)
    ds.FrameOfReferenceUID = f"{key.series}.0"
    ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = key.instance(number)
    return ds


def take(site: Site, key: Key, there: Iterable[int]) -> None:
    """Bring instances of a series in, sent to its AE title."""
    origin = Origin("dicom", "MODALITY", key.called, "127.0.0.1:1")
    for number in there:
        ds = instance_of(key, number)
        announced = Announced(ds.SOPClassUID, ds.SOPInstanceUID, ds.file_meta.TransferSyntaxUID)
        incoming = site.store.ingest.begin(announced, origin)
        incoming.take_fragment(data_set_bytes(ds))
        indexed(incoming)


@dataclass
class World:
    """What all examples share: a root to begin with, and a peer that instances are moved to."""

    root: Path
    port: int = 0
    moved: set[str] = field(default_factory=set)
    asked: Counter[str] = field(default_factory=Counter)
    changed: Counter[str] = field(default_factory=Counter)

    def tables(self) -> dict[str, Any]:
        peers: dict[str, Any] = {
            title.lower(): {"ae_title": title} | ({"may": ["query", "retrieve"], "projects": names} if names else {})
            for title, names in PEERS.items()
        }
        peers["store"] = {"ae_title": "STORE", "host": "127.0.0.1", "port": self.port or 1}
        return {"dicom": {"host": "127.0.0.1", "port": 0}, "peers": peers}

    def open(self, root: Path) -> Site:
        return open_site(root, self.tables(), authentication="always").serving()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    world = World(tmp_path_factory.mktemp("world") / "root")
    site = world.open(world.root)
    for name in (BOSS, *ACCOUNTS):
        site.account(name, Role.ADMIN if name == BOSS else Role.WRITE)
    for key in CONVERTED:
        take(site, key, THERE[key])
    site.convert()
    for key, there in THERE.items():
        if key not in CONVERTED:
            take(site, key, there)
    site.close()

    def store(event: Any) -> int:
        world.moved.add(str(event.request.AffectedSOPInstanceUID))
        return 0x0000

    ae = AE("STORE")
    for sop_class in (CTImageStorage, MRImageStorage):
        ae.add_supported_context(sop_class, [ExplicitVRLittleEndian])
    server = ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_STORE, store)])
    world.port = server.server_address[1]
    yield world
    server.shutdown()


def uids_in(text: str, beginning: str, dots: int) -> set[str]:
    """The UIDs in a text that stand behind something, and have so many components."""
    return set(re.findall(rf"{beginning}(1(?:\.\d+){{{dots - 1}}})(?![\d.])", text))


class WhoSeesWhat(RuleBasedStateMachine):
    """A node, and what it is to be like."""

    def __init__(self, world: World) -> None:
        super().__init__()
        self.world, self.model = world, Model()
        self.folder = Path(tempfile.mkdtemp(prefix="who-sees-what-"))
        copy_root(world.root, self.folder / "root")
        self.site = world.open(self.folder / "root")
        store = self.site.store
        self.act = store.actions.by_name
        self.listener = Listener(
            self.site.services.settings, store.ingest, store.metrics, decoder(), lambda refused: None, store.audit
        )
        added = self.listener.added
        [self.follower] = [one for one in added.services if isinstance(one, Rules)]
        self.listener.added = replace(added, services=())  # what they do is a step of its own: see `follow`
        self.host, self.port = self.listener.start()
        self.peers: dict[str, Any] = {}
        self.got: set[str] = set()
        self.http = self.site.client()
        self.secrets: dict[str, str] = {}
        self.given_tokens: list[str] = []
        self.turn = self.step = 0
        self.model.roles = dict.fromkeys(ACCOUNTS, "write") | {BOSS: "admin"}
        for key, there in THERE.items():
            self.model.arrive(key, there)
        self.volumes = set(CONVERTED)
        # Without these, most accounts would see nothing for long, and nothing would be from before.
        for project, account, key in zip(PROJECTS, ACCOUNTS, (SERIES[0], SERIES[3], SERIES[0]), strict=False):
            self.set_project(project)
            self.member(project, account, "read")
            self.put(project, key)
        self.limit("dora")
        self.prepare("eve", SERIES[0])
        self.make_link(Key(STUDIES[0]), "eve", download=True)

    def teardown(self) -> None:
        for association in self.peers.values():
            association.release()
        self.listener.stop_now()
        self.site.close()
        shutil.rmtree(self.folder)

    def one_like(self, account: str) -> str:
        """This account, or the next one that there is."""
        names = (*ACCOUNTS[ACCOUNTS.index(account) :], *ACCOUNTS, BOSS)
        return next(name for name in names if name in self.model.roles)

    # Changes

    def change(self, action: str, /, **arguments: Any) -> Any:
        """Do an action; return None if it was refused."""
        self.world.changed[action] += 1
        try:
            return self.act[action](who="test", **arguments)
        except VoxelnodeError:
            return None

    @rule(key=series, count=st.integers(1, 2))
    def arrive(self, key: Key, count: int) -> None:
        there = self.model.held.get(key, set())
        new = [number for number in range(1, 10) if number not in there][:count]
        take(self.site, key, new)
        self.world.changed["arrive"] += 1
        self.model.arrive(key, new)

    def set_project(self, project: str) -> None:
        assert self.change("set-project", name=project) is not None
        self.model.set_project(project)

    @rule(project=projects, text=st.sampled_from(["", *RULES]))
    def set_rule(self, project: str, text: str) -> None:
        assert self.change("set-project", name=project, rule=text) is not None
        self.model.set_project(project, rule=text)

    @rule(project=projects, called=st.sampled_from(["", "TRIAL", "VOXELNODE"]))
    def set_called(self, project: str, called: str) -> None:
        assert self.change("set-project", name=project, called_ae_title=called) is not None
        self.model.set_project(project, called=called)

    @rule(project=projects)
    def remove_project(self, project: str) -> None:
        assert (self.change("remove-project", name=project) is not None) == (project in self.model.projects)
        self.model.remove_project(project)

    @rule(project=projects, named=targets)
    def put(self, project: str, named: Key) -> None:
        done = self.change("change-project-contents", name=project, add=[named])
        expected = project in self.model.projects and self.model.put(project, named)
        assert (done is not None) == expected

    @rule(project=projects, named=targets)
    def take(self, project: str, named: Key) -> None:
        done = self.change("change-project-contents", name=project, remove=[named])
        assert (done is not None) == (project in self.model.projects)
        if done is not None:
            self.model.take(project, named)

    @rule(project=projects, account=accounts, role=st.sampled_from(PROJECT_ROLES))
    def member(self, project: str, account: str, role: str) -> None:
        done = self.change("set-project-member", name=project, account=account, role=role)
        expected = project in self.model.projects and self.model.set_member(project, account, role)
        assert (done is not None) == expected

    @rule(project=projects, account=accounts)
    def no_member(self, project: str, account: str) -> None:
        done = self.change("remove-project-member", name=project, account=account)
        known = self.model.projects.get(project)
        assert (done is not None) == (known is not None and known.members.pop(account, None) is not None)

    @rule(account=accounts)
    def limit(self, account: str) -> None:
        self.change("limit-account", account=account, is_limited=True)
        self.model.limit(account)

    @rule(account=accounts)
    def release(self, account: str) -> None:
        self.change("limit-account", account=account, is_limited=False)
        self.model.release(account)

    @rule(account=accounts, role=st.sampled_from(ROLES))
    def set_role(self, account: str, role: str) -> None:
        if account in self.model.roles:
            assert self.change("set-role", name=account, role=role) is not None
        else:
            self.site.account(account, Role[role.upper()])
        self.model.set_role(account, role)

    @rule(account=accounts)
    def remove_account(self, account: str) -> None:
        if account in self.model.roles:
            assert self.change("remove-account", name=account) is not None
            self.model.remove(account)

    @rule(account=accounts)
    def make_token(self, account: str) -> None:
        if account in self.model.roles:
            secret = self.site.token(account)
            self.model.tokens[secret] = Token(account)
            self.given_tokens.append(secret)

    @rule(account=accounts, project=projects)
    def make_token_for_project(self, account: str, project: str) -> None:
        secret = new_token()
        given = {"name": account, "label": secret[-8:], "sha256": digest(secret), "expires_at": None}
        done = self.change("add-token", **given, project=project)
        assert (done is not None) == self.model.may_have_token(account, project)
        if done is not None:
            self.model.tokens[secret] = Token(account, project)
            self.given_tokens.append(secret)

    @rule(number=numbers)
    def revoke_token(self, number: int) -> None:
        for secret, token in picked(self.model.tokens.items(), number):
            assert self.change("remove-token", name=token.account, label=secret[-8:]) is not None
            del self.model.tokens[secret]

    @rule(named=targets, label=st.sampled_from(LABELS), given=st.booleans())
    def label(self, named: Key, label: str, given: bool) -> None:
        labels = self.model.labels.get(named, set()) - {label} | ({label} if given else set())
        done = self.change("set-labels", study=named.study, series=named.series, labels=sorted(labels))
        assert (done is not None) == self.model.is_there(named)
        if done is not None:
            self.model.labels[named] = labels

    @rule(named=targets)
    def comment(self, named: Key) -> None:
        self.change("comment", study=named.study, series=named.series, comment=f"said of {named}")

    @rule()
    def follow(self) -> None:
        """The service of the rules has a step."""
        self.follower.step()
        self.model.follow()

    @rule(named=targets)
    def delete(self, named: Key) -> None:
        level, uid = ("series", named.series) if named.series else ("study", named.study)
        done = self.change("delete", level=level, uid=uid, study_instance_uid=named.study)
        assert (done is not None) == self.model.is_there(named)
        if done is not None:
            with self.site.store.index.reading() as index:
                number = int(index.trash.all()[0]["number"])
            self.volumes -= self.model.targeted(named)
            self.model.delete(named, number)

    @rule(number=numbers)
    def restore(self, number: int) -> None:
        for trashed in picked(self.model.trash, number):
            assert self.change("restore-trash", number=trashed.number) is not None
            self.model.restore(trashed)

    @rule(number=numbers)
    def empty(self, number: int) -> None:
        for trashed in picked(self.model.trash, number):
            assert self.change("empty-trash", number=trashed.number) is not None
            self.model.empty(trashed)

    @rule(source=series, other=series)
    def merge(self, source: Key, other: Key) -> None:
        persons, into = self.persons(), self.model.into
        pair = [persons.get(one.named) for one in (source, other)]
        done = self.change("merge-patients", source=pair[0] or 999, target=pair[1] or 999)
        may = None not in pair and source.named != other.named and not {source.named, other.named} & into.keys()
        assert (done is not None) == may
        if may:
            self.model.merge(source.named, other.named)

    @rule(of=series)
    def separate(self, of: Key) -> None:
        done = self.change("separate-patient", patient=self.persons().get(of.named, 999))
        assert (done is not None) == (of.named in self.model.into)
        if done is not None:
            self.model.separate(of.named)

    @rule(named=targets, account=accounts, download=st.booleans())
    def make_link(self, named: Key, account: str, download: bool) -> None:
        """An account makes a link by REST."""
        account = self.one_like(account)
        wanted = {"days": 1, "series_instance_uid": named.series, "download": download}
        path = f"/api/v1/studies/{named.study}/shares"
        answer = self.ask(account, "POST", path, by_password=True, json=wanted)
        may = self.model.roles[account] != "read" and not self.model.is_limited(account)
        expected = (201 if self.model.is_there(named) else 400) if may else 403
        assert answer.status_code == expected, answer.text
        if answer.status_code == 201:
            token = answer.json()["path"].rpartition("/")[2]
            self.model.links[token] = Link(named, account, download)
            self.secrets[token] = str(answer.json()["id"])

    @rule(number=numbers)
    def revoke_link(self, number: int) -> None:
        for token in picked(self.model.links, number):
            assert self.change("revoke-share", number=int(self.secrets[token])) is not None
            del self.model.links[token]

    # Questions

    def ask(
        self, account: str, method: str, path: str, *, by_password: bool = False, **options: Any
    ) -> httpx2.Response:
        """Ask in the name of an account, and look for what it does not see anywhere in the answer."""
        self.world.asked["http"] += 1
        tokens = [secret for secret, token in self.model.tokens.items() if token == Token(account)]
        self.turn += 1
        if tokens and not by_password and self.turn % 2:
            options["headers"] = {**options.get("headers", {}), "Authorization": f"Bearer {tokens[0]}"}
        else:
            options["auth"] = (account, PASSWORD)
        answer = self.http.request(method, path, follow_redirects=False, **options)
        assert answer.status_code < 500, (method, path, answer.text)
        if not path.startswith("/api/v1/projects"):  # whose rules name some
            asked = f"{answer.request.url} {options}"
            self.has_no_foreign(answer, asked, self.model.sees(account), is_limited=self.model.is_limited(account))
        return answer

    def has_no_foreign(self, answer: httpx2.Response, asked: str, seen: set[Key], *, is_limited: bool) -> None:
        if not is_limited:
            return
        text = answer.content.decode("latin-1") + str(answer.headers)
        hidden = {one for key in SERIES if key not in seen for one in (key.series, key.description)}
        hidden |= set(STUDIES) - self.model.studies(seen)
        known = {key.named for key in seen} | {self.model.patient(key) for key in seen}
        hidden |= {f"Name^{key.named}" for key in SERIES if key.named not in known}
        pattern = "|".join(map(re.escape, sorted(hidden, key=len, reverse=True)))
        found = set(re.findall(rf"(?<![\w.])(?:{pattern})(?![\w])", text)) if hidden else set()
        assert not {one for one in found if one not in asked}, (asked, found)

    def persons(self) -> dict[str, int]:
        """Row ids of patients by Patient ID."""
        items = self.ask(BOSS, "GET", "/api/v1/patients", params={"limit": 1000}).json()["items"]
        return {one["patient_id"]: one["id"] for one in items}

    @rule(number=numbers)
    def ask_by_token(self, number: int) -> None:
        """By a token, which may be none any more."""
        for secret in picked(self.given_tokens, number):
            self.world.asked["http"] += 1
            answer = self.http.get("/api/v1/series", headers={"Authorization": f"Bearer {secret}"})
            token = self.model.tokens.get(secret)
            assert answer.status_code == (401 if token is None else 200)
            if token is not None:
                found = {Key(one["study_instance_uid"], one["series_instance_uid"]) for one in answer.json()["items"]}
                assert found == self.model.sees_by(token)

    def items(self, account: str, path: str, **params: Any) -> list[dict[str, Any]]:
        answer = self.ask(account, "GET", f"/api/v1/{path}", params={"limit": 1000, "total": True, **params})
        assert answer.status_code == 200, answer.text
        found: list[dict[str, Any]] = answer.json()["items"]
        assert answer.json()["total"] == len(found)
        return found

    @invariant()
    def somebody_sees_what_they_are_to_see(self) -> None:
        """What changes shows in lists, and in what was made before: downloads, links, and lists of projects."""
        self.step += 1
        turn, rest = divmod(self.step, 4)
        self.ask_series(ACCOUNTS[self.step % len(ACCOUNTS)], SERIES[0], 0)
        match rest:
            case 0:
                self.ask_prepared(BOSS, turn)
            case 1:
                self.ask_link(turn)
            case 2:
                self.export(PROJECTS[turn % len(PROJECTS)])

    @rule(account=accounts, key=series, number=numbers)
    def ask_series(self, account: str, key: Key, number: int) -> None:
        account = self.one_like(account)
        seen = self.model.sees(account)
        ways: list[tuple[dict[str, str], set[Key]]] = [
            ({}, seen),
            ({"study_instance_uid": key.study}, self.model.of_study(key.study, seen)),
            ({"series_instance_uid": key.series}, seen & {key}),
            ({"modality": key.modality}, {one for one in seen if one.modality == key.modality}),
            *(({"where": text}, {one for one in seen if fits(self.model, one, seen)}) for text, fits in RULES.items()),
        ]
        params, expected = ways[number % len(ways)]
        found = self.items(account, "series", **params)
        assert {Key(one["study_instance_uid"], one["series_instance_uid"]) for one in found} == expected, params
        for one in found:
            held = self.model.held[Key(one["study_instance_uid"], one["series_instance_uid"])]
            assert one["instances"] == len(held)

    @rule(account=accounts, key=series, number=numbers)
    def ask_studies(self, account: str, key: Key, number: int) -> None:
        account = self.one_like(account)
        seen = self.model.sees(account)
        label = LABELS[number % 2]
        ways: list[tuple[dict[str, str], Callable[[str, set[Key]], bool]]] = [
            ({}, lambda study, of: True),
            ({"words": f"Name {key.named}"}, lambda study, of: self.model.patient(Key(study)) == key.named),
            ({"patient_id": key.named}, lambda study, of: self.model.patient(Key(study)) == key.named),
            ({"description": key.description}, lambda study, of: key in of),
            ({"modality": key.modality}, lambda study, of: any(one.modality == key.modality for one in of)),
            ({"label": label}, lambda study, of: any(label in self.model.labelled(one) for one in of)),
        ]
        params, fits = ways[number % len(ways)]
        expected = {
            study: of for study in self.model.studies(seen) if fits(study, of := self.model.of_study(study, seen))
        }
        found = {one["study_instance_uid"]: one for one in self.items(account, "studies", **params)}
        assert found.keys() == expected.keys(), params
        for study, of in expected.items():
            one = found[study]
            assert (one["series"], one["instances"]) == (len(of), len(self.model.instances(of)))
            assert sum(one["states"].values()) == len(of)
            assert set(one["modalities"]) == {key.modality for key in of}
            assert one["patient_id"] == self.model.patient(Key(study))
            marks = self.model.labels.get(Key(study), set()).union(*(self.model.labels.get(key, set()) for key in of))
            assert set(one["labels"]) in (marks, self.model.labels.get(Key(study), set()))
            single = self.ask(account, "GET", f"/api/v1/studies/{study}")
            assert single.json() == one

    @rule(account=accounts)
    def ask_patients(self, account: str) -> None:
        account = self.one_like(account)
        expected = self.model.patients(self.model.sees(account), is_limited=self.model.is_limited(account))
        found = {one["patient_id"]: one["studies"] for one in self.items(account, "patients")}
        assert found == expected

    @rule(account=accounts, key=series)
    def ask_instances(self, account: str, key: Key) -> None:
        account = self.one_like(account)
        seen = self.model.sees(account)
        found = {one["sop_instance_uid"] for one in self.items(account, "instances")}
        assert found == self.model.instances(seen)
        found = {one["sop_instance_uid"] for one in self.items(account, "instances", study_instance_uid=key.study)}
        assert found == self.model.instances(self.model.of_study(key.study, seen))

    @rule(account=accounts, path=st.sampled_from(["volumes", "exclusions", "failures"]))
    def ask_conversions(self, account: str, path: str) -> None:
        account = self.one_like(account)
        seen = self.model.sees(account)
        found = {Key(one["study_instance_uid"], one["series_instance_uid"]) for one in self.items(account, path)}
        assert found <= seen
        assert path != "volumes" or found == seen & self.volumes

    def events_of(self, account: str) -> list[dict[str, Any]]:
        """The events of the whole node that an account is told of, oldest first."""
        seen, told = self.model.sees(account), []
        for one in reversed(self.items(BOSS, "history")):
            study, key = one["study_instance_uid"], Key(one["study_instance_uid"], one["series_instance_uid"] or WHOLE)
            is_of_study = one["series_instance_uid"] is None
            is_whole = study in self.model.studies(seen) and self.model.is_whole(study, seen)
            is_told = is_whole if is_of_study else key in seen
            if is_told or not self.model.is_limited(account):
                told.append(one)
        return told

    @rule(account=accounts)
    def ask_history(self, account: str) -> None:
        account = self.one_like(account)
        assert self.items(account, "history") == self.events_of(account)[::-1]

    @rule(account=accounts, number=numbers)
    def ask_stream(self, account: str, number: int) -> None:
        account = self.one_like(account)
        expected = [one["id"] for one in self.events_of(account)]
        after = expected[number] if number < len(expected) else 0
        expected, told = [one for one in expected if one > after], []
        if not expected:
            return
        self.world.asked["http"] += 1
        options: dict[str, Any] = {"auth": (account, PASSWORD), "params": {"after": after}}
        with self.http.stream("GET", "/api/v1/events", **options) as answer:
            for line in answer.iter_lines():
                if line.startswith("id: "):
                    told.append(int(line.removeprefix("id: ")))
                    if len(told) == len(expected):
                        break
        assert told == expected

    @rule(account=accounts, named=targets)
    def ask_marks(self, account: str, named: Key) -> None:
        account = self.one_like(account)
        seen = self.model.sees(account)
        answer = self.ask(account, "GET", "/api/v1/labels").json()["items"]
        found = {one["label"]: (one["studies"], one["series"]) for one in answer}
        assert found == self.model.counted_labels(seen)
        whole = self.ask(BOSS, "GET", f"/api/v1/studies/{named.study}/comments")
        answer = self.ask(account, "GET", f"/api/v1/studies/{named.study}/comments")
        if not self.model.of_study(named.study, seen):
            assert answer.status_code == 404
            return
        expected = [
            one
            for one in whole.json()["items"]
            if one["series_instance_uid"] is None or Key(named.study, one["series_instance_uid"]) in seen
        ]
        assert answer.json()["items"] == expected

    @rule(account=accounts, named=targets, label=st.sampled_from(LABELS))
    def set_label(self, account: str, named: Key, label: str) -> None:
        """An account gives one label, and takes all others."""
        account = self.one_like(account)
        of_series = f"?series_instance_uid={named.series}" if named.series else ""
        path = f"/api/v1/studies/{named.study}/labels{of_series}"
        answer = self.ask(account, "PUT", path, json={"labels": [label]})
        may = self.model.may_write(account, named)
        expected = 403 if self.model.roles[account] == "read" else {None: 404, False: 403, True: 200}[may]
        assert answer.status_code == expected, answer.text
        if answer.status_code == 200:
            self.model.labels[named] = {label}

    @rule(account=accounts, project=projects, named=targets)
    def manage(self, account: str, project: str, named: Key) -> None:
        """An account puts something into a project."""
        account = self.one_like(account)
        add = {"study_instance_uid": named.study, "series_instance_uid": named.series}
        model, path = self.model, f"/api/v1/projects/{project}/contents"
        answer = self.ask(account, "POST", path, json={"add": [add]})
        if model.roles[account] == "read":
            expected = 403
        elif not model.is_limited(account):
            expected = 404 if project not in model.projects else 403 if model.roles[account] == "write" else None
            expected = expected or (200 if model.is_there(named) else 400)
        elif project not in model.memberships(account):
            expected = 404
        elif project not in model.memberships(account, "manage"):
            expected = 403
        elif not model.targeted(named) & model.sees(account):
            expected = 404
        else:
            expected = 200 if model.targeted(named) <= model.sees(account, "manage") else 403
        assert answer.status_code == expected, answer.text
        if expected == 200:
            self.model.put(project, named)

    @rule(account=accounts, key=series, number=numbers, level=st.sampled_from(["studies", "series", "instances"]))
    def ask_qido(self, account: str, key: Key, number: int, level: str) -> None:
        account = self.one_like(account)
        model, seen = self.model, self.model.sees(account)
        of_person = model.found_by_person(key.named, seen, is_limited=model.is_limited(account))
        ways: list[tuple[dict[str, str], set[Key]]] = [
            ({}, seen),
            ({"StudyInstanceUID": key.study}, model.of_study(key.study, seen)),
            ({"PatientID": key.named}, of_person),
            ({"PatientName": f"Name^{key.named}"}, of_person),
            ({"PatientName": f"name {key.named}", "fuzzymatching": "true"},
             of_person),
            ({"SeriesInstanceUID": key.series}, seen & {key}),
            ({"SeriesDescription": key.description, "includefield": "all"}, seen & {key}),
            ({"Modality": key.modality}, {one for one in seen if one.modality == key.modality}),
            ({"SOPInstanceUID": key.instance(1)}, {one for one in seen & {key} if 1 in model.held[one]}),
        ]  # fmt: skip
        params, expected = ways[number % len(ways)]
        if level == "studies" and "Modality" in params:
            params = {"ModalitiesInStudy": key.modality}
        answer = self.ask(account, "GET", f"/dicom-web/{level}", params=params)
        assert answer.status_code in (200, 204), answer.text
        found = answer.json() if answer.status_code == 200 else []
        tag = {"studies": "0020000D", "series": "0020000E", "instances": "00080018"}[level]
        listed = [one[tag]["Value"][0] for one in found]
        assert len(listed) == len(set(listed))
        wanted = {
            "studies": model.studies(expected),
            "series": {one.series for one in expected},
            "instances": {key.instance(1)} & model.instances(expected)
            if "SOPInstanceUID" in params
            else model.instances(expected),
        }[level]
        assert set(listed) == wanted, params
        if level == "studies":
            for one in found:
                of = model.of_study(one[tag]["Value"][0], seen)
                counts = [one[count]["Value"][0] for count in ("00201206", "00201208")]
                assert counts == [len(of), len(model.instances(of))]
                assert set(one["00080061"]["Value"]) == {each.modality for each in of}

    @rule(account=accounts, key=series, number=numbers)
    def ask_wado(self, account: str, key: Key, number: int) -> None:
        """Instances, metadata and pictures, of a study or of a series."""
        account = self.one_like(account)
        seen = self.model.sees(account)
        target = Key(key.study) if number % 2 else key
        expected = self.model.instances(self.model.targeted(target) & seen)
        path = f"/dicom-web/studies/{target.study}" + (f"/series/{target.series}" if target.series else "")
        what, accept = [
            ("/metadata", "application/dicom+json"),
            ("", 'multipart/related; type="application/dicom"; transfer-syntax=*'),
            ("/rendered", "multipart/related; type=image/png"), ("", "application/zip"), ("/bulkdata", "*/*"),
            ("/thumbnail", "image/png"),
        ][number % 6]  # fmt: skip
        answer = self.ask(account, "GET", path + what, headers={"Accept": accept})
        assert (answer.status_code == 200) == bool(expected), answer.text[:500]
        if not expected:
            assert answer.status_code == 404
        elif what == "/metadata":
            assert {one["00080018"]["Value"][0] for one in answer.json()} == expected
        elif "zip" in accept:
            assert self.zipped(answer) == expected
        elif what != "/thumbnail":
            assert uids_in(answer.content.decode("latin-1"), "/instances/", 5) == expected

    def zipped(self, answer: httpx2.Response) -> set[str]:
        """SOP Instance UIDs of the files of a ZIP file."""
        with ZipFile(BytesIO(answer.content)) as file:
            contents = [file.read(name) for name in file.namelist() if name != "DICOMDIR"]
        instances = [one for one in contents if one[128:132] == b"DICM"]
        return {str(dcmread(BytesIO(one), stop_before_pixels=True).SOPInstanceUID) for one in instances}

    @rule(account=accounts, key=series, number=numbers)
    def ask_list(self, account: str, key: Key, number: int) -> None:
        """The list of studies as page, as rows, and as CSV file."""
        account = self.one_like(account)
        model, seen = self.model, self.model.sees(account)
        form = [{}, {"words": key.named}, {"label": LABELS[0]}, {"description": key.description}][number % 4]
        expected = {
            study
            for study in model.studies(seen)
            if ("words" not in form or model.patient(Key(study)) == key.named)
            and ("label" not in form or any(LABELS[0] in model.labelled(one) for one in model.of_study(study, seen)))
            and ("description" not in form or key in model.of_study(study, seen))
        }
        if number % 3 == 0:
            answer = self.ask(account, "POST", "/studies.csv", data=form)
            assert {row["study_instance_uid"] for row in csv.DictReader(StringIO(answer.text))} == expected
            return
        answer = self.ask(account, "POST", "/", data=form, headers={"hx-request": "true"} if number % 3 == 1 else {})
        assert uids_in(answer.text, "/studies/", 3) == expected
        if number % 3 == 2 and seen:
            assert f"{len(model.studies(seen))} stud" in re.sub(r"<[^>]+>", "", answer.text)
            assert set(re.findall(r'name="modalities" value="(\w+)"', answer.text)) == {one.modality for one in seen}
            offered = set(re.findall(rf'<option value="({"|".join(LABELS)})"', answer.text))
            assert offered == model.counted_labels(seen).keys()
        answer = self.ask(account, "GET", "/news", params={"since": 0})
        assert answer.status_code == 200

    @rule(account=accounts, key=series, page=st.sampled_from(["", "/list", "/cards", "/series-list", "/row"]))
    def ask_study_page(self, account: str, key: Key, page: str) -> None:
        account = self.one_like(account)
        expected = {one.series for one in self.model.of_study(key.study, self.model.sees(account))}
        answer = self.ask(account, "POST" if page == "/series-list" else "GET", f"/studies/{key.study}{page}")
        assert answer.status_code == (200 if expected else 404)
        if expected and page != "/row":
            assert uids_in(answer.text, f"/studies/{key.study}/series/", 4) == expected

    @rule(account=accounts, key=series)
    def ask_series_page(self, account: str, key: Key) -> None:
        account = self.one_like(account)
        seen = self.model.sees(account)
        answer = self.ask(account, "GET", f"/studies/{key.study}/series/{key.series}")
        assert answer.status_code == (200 if key in seen else 404)
        if key in seen:
            assert uids_in(answer.text, f"/studies/{key.study}/series/", 4) <= {one.series for one in seen}

    @rule(account=accounts, key=series, number=numbers)
    def ask_zip(self, account: str, key: Key, number: int) -> None:
        account = self.one_like(account)
        target = Key(key.study) if number % 2 else key
        expected = self.model.instances(self.model.targeted(target) & self.model.sees(account))
        of_series = f"/series/{target.series}" if target.series else ""
        answer = self.ask(account, "GET", f"/studies/{target.study}{of_series}/dicom.zip")
        assert answer.status_code == (200 if expected else 404)
        if expected:
            assert self.zipped(answer) == expected

    @rule(account=accounts)
    def ask_projects(self, account: str) -> None:
        account = self.one_like(account)
        model = self.model
        known = model.memberships(account) if model.is_limited(account) else list(model.projects)
        found = self.ask(account, "GET", "/api/v1/projects").json()["items"]
        assert {one["name"]: one["series"] for one in found} == {name: len(model.in_project(name)) for name in known}

    @rule(number=numbers)
    def ask_link(self, number: int) -> None:
        for secret in picked(self.secrets, number):
            self.world.asked["http"] += 2
            page, files = (self.http.get(f"/shared/{secret}{what}") for what in ("", "/dicom.zip"))
            link = self.model.links.get(secret)
            if link is None:
                assert {page.status_code, files.status_code} <= {404, 429}
                del self.secrets[secret]  # an address may try few that are wrong
                return
            shown = self.model.shown(link)
            assert page.status_code == (200 if shown else 404), page.text
            assert uids_in(page.text, "Described ", 4) == {key.series for key in shown}
            assert files.status_code == (200 if shown and link.may_download else 404)
            if files.status_code == 200:
                assert self.zipped(files) == self.model.instances(shown)

    @rule(account=accounts, key=series)
    def prepare(self, account: str, key: Key) -> None:
        """An account has a download made, and waits for it."""
        account = self.one_like(account)
        if sum(one.account == account for one in self.model.kept.values()) > 6:
            return
        seen = self.model.of_study(key.study, self.model.sees(account))
        answer = self.ask(account, "GET", f"/studies/{key.study}/medium.zip")
        assert answer.status_code == (303 if seen else 404)
        if seen:
            number = answer.headers["location"].rpartition("/")[2]
            self.model.keep(number, account, key.study)
            until(lambda: "ready" in self.ask(account, "GET", f"/downloads/{number}/progress").text)
            assert self.zipped(self.ask(account, "GET", f"/downloads/{number}/file")) == self.model.instances(seen)

    @rule(account=accounts, number=numbers)
    def ask_prepared(self, account: str, number: int) -> None:
        for kept in picked(self.model.kept, number):
            owner = self.model.kept[kept].account
            account = account if number % 5 == 4 and account in self.model.roles else self.one_like(owner)
            answer = self.ask(account, "GET", f"/downloads/{kept}/file")
            absent = self.ask(account, "GET", "/downloads/999999/file")
            if self.model.may_fetch(kept, account):
                assert answer.status_code == 200
            else:
                assert bare(answer, [kept]) == bare(absent, ["999999"])

    # What is not seen

    @rule(account=accounts, key=series, number=st.integers(0, 999))
    def ask_foreign(self, account: str, key: Key, number: int) -> None:
        """A route that names a series that is not seen, or a study, answers as for one that is not there."""
        account = self.one_like(account)
        seen = self.model.sees(account)
        if not self.model.is_limited(account) or key in seen:
            return
        is_part = bool(self.model.of_study(key.study, seen))
        routes = self.routes(is_part)
        method, path = routes[number % len(routes)]
        other = Key(key.study, f"{key.study}.9") if is_part else Key("1.2.999", "1.2.999.9")
        answers = []
        for one in (key, other):
            values = values_of(one)
            sent = body_of(path, values) if method in ("POST", "PUT") else {}
            answer = self.ask(account, method, url_of(path, values), params=query_of(path, values), **sent)
            answers.append(bare(answer, list(values.values())))
        assert answers[0] == answers[1], (method, path)

    @rule(account=accounts, number=numbers)
    def ask_foreign_row(self, account: str, number: int) -> None:
        """A row id of what is not seen answers as one that is not there."""
        account = self.one_like(account)
        seen, model = self.model.sees(account), self.model
        if not model.is_limited(account):
            return
        paths: dict[str, str] = {}
        patients = model.patients(seen, is_limited=True)
        paths |= {str(row): "/api/v1/patients/{}" for name, row in self.persons().items() if name not in patients}
        for one in self.items(BOSS, "volumes"):
            if Key(one["study_instance_uid"], one["series_instance_uid"]) not in seen:
                way = ("", "/file", "/sources", f"/file/{one['name']}")[number % 4]
                paths[str(one["id"])] = f"/api/v1/volumes/{{}}{way}"
        for row, path in list(paths.items())[number % 3 :: 3]:
            absent = "9" * len(row)
            answers = [bare(self.ask(account, "GET", path.format(id_)), [id_]) for id_ in (row, absent)]
            assert answers[0] == answers[1], path
            assert answers[0][0] == 404

    def routes(self, is_part: bool) -> list[tuple[str, str]]:
        """Routes for members, with methods, that name a series or, if none is seen of its study, a study."""
        found = []
        for path, route in every_route(self.site.app.routes):
            names = set(re.findall(r"{(\w+)(?::path)?}", path))
            of_series = {"series", "series_instance_uid", "sop_instance_uid", "instance"}
            named = of_series if is_part else of_series | {"study", "study_instance_uid"}
            if is_for_projects(route.endpoint) and (names & named or path == "/dicom-web/wado"):
                found += [(method, path) for method in sorted(route.methods or ())]
        return sorted(found)

    @rule(one=accounts, other=accounts, key=series, number=numbers)
    def ask_with_etag(self, one: str, other: str, key: Key, number: int) -> None:
        """The entity tag that somebody else got says nothing, unless the answers are the same."""
        one, other = self.one_like(one), self.one_like(other)
        paths = [
            f"/api/v1/studies/{key.study}", f"/api/v1/studies/{key.study}/series/{key.series}",
            f"/api/v1/instances/{key.instance(1)}", f"/api/v1/studies/{key.study}/labels",
            f"/dicom-web/studies/{key.study}/metadata", f"/dicom-web/studies/{key.study}/series/{key.series}/metadata",
            "/dicom-web/studies", "/dicom-web/series", f"/dicom-web/studies/{key.study}/series",
            f"/dicom-web/studies/{key.study}", f"/dicom-web/studies/{key.study}/series/{key.series}/thumbnail",
            f"/api/v1/instances/{key.instance(1)}/file",
        ]  # fmt: skip
        path = paths[number % len(paths)]
        first = self.ask(one, "GET", path)
        tag = first.headers.get("etag")
        if tag is None:
            return
        plain = self.ask(other, "GET", path)
        asked = self.ask(other, "GET", path, headers={"If-None-Match": tag})
        if asked.status_code == 304:
            assert plain.status_code == 200
            assert plain.headers["etag"] == tag
            is_alike = plain.content == first.content or path.startswith("/dicom-web/studies/")
            assert is_alike
        elif "multipart" not in plain.headers.get("content-type", ""):
            assert bare(asked, []) == bare(plain, [])
            assert plain.status_code != 200 or plain.headers["etag"] != tag

    # Peers

    def peer(self, title: str) -> Any:
        """An association of a peer, which stays open."""
        if title not in self.peers or not self.peers[title].is_established:

            def store(event: Any) -> int:
                self.got.add(str(event.request.AffectedSOPInstanceUID))
                return 0x0000

            classes = (CTImageStorage, MRImageStorage)
            wanted = [build_context(one, [ExplicitVRLittleEndian]) for one in classes]
            models = [uids.STUDY_ROOT_FIND, uids.PATIENT_ROOT_FIND, uids.STUDY_ROOT_GET, uids.STUDY_ROOT_MOVE]
            self.peers[title] = associate(
                self, *map(build_context, models), *wanted, title=title,
                ext_neg=[build_role(one, scp_role=True) for one in classes], evt_handlers=[(evt.EVT_C_STORE, store)],
            )  # fmt: skip
            assert self.peers[title].is_established
        return self.peers[title]

    def seen_by(self, title: str) -> set[Key]:
        names = PEERS[title]
        return set(self.model.held) if names is None else self.model.of_projects(names)

    def found(self, title: str, model: str, level: str, **keys: Any) -> list[Any]:
        self.world.asked["dimse"] += 1
        answers = list(self.peer(title).send_c_find(identifier(level, **keys), model))
        assert answers[-1][0].Status == 0x0000
        return [answer for _, answer in answers[:-1]]

    @rule(title=st.sampled_from(list(PEERS)), key=series, number=numbers)
    def c_find(self, title: str, key: Key, number: int) -> None:
        model, seen = self.model, self.seen_by(title)
        root = uids.STUDY_ROOT_FIND
        of_person = model.found_by_person(key.named, seen, is_limited=PEERS[title] is not None)
        ways: list[tuple[dict[str, str], set[Key]]] = [
            ({}, seen),
            ({"PatientID": key.named}, of_person),
            ({"PatientName": f"Name^{key.named}"}, of_person),
            ({"ModalitiesInStudy": key.modality}, {one for one in seen if one.modality == key.modality}),
        ]
        keys, expected = ways[number % len(ways)]
        counts = {"NumberOfStudyRelatedSeries": None, "NumberOfStudyRelatedInstances": None}
        asked = {"StudyInstanceUID": "", "ModalitiesInStudy": "", **counts, **keys}
        found = {one.StudyInstanceUID: one for one in self.found(title, root, "STUDY", **asked)}
        assert found.keys() == model.studies(expected)
        for study, one in found.items():
            of = model.of_study(study, seen)
            numbers = one.NumberOfStudyRelatedSeries, one.NumberOfStudyRelatedInstances
            assert numbers == (len(of), len(model.instances(of)))
        of = model.of_study(key.study, seen)
        found_series = self.found(title, root, "SERIES", StudyInstanceUID=key.study, SeriesInstanceUID="")
        assert {one.SeriesInstanceUID for one in found_series} == {one.series for one in of}
        keys = {"StudyInstanceUID": key.study, "SeriesInstanceUID": key.series}
        images = self.found(title, root, "IMAGE", **keys, SOPInstanceUID="")
        assert {one.SOPInstanceUID for one in images} == model.instances(of & {key})

    @rule(title=st.sampled_from(list(PEERS)))
    def c_find_patients(self, title: str) -> None:
        model, seen = self.model, self.seen_by(title)
        names = ("NumberOfPatientRelatedStudies", "NumberOfPatientRelatedSeries", "NumberOfPatientRelatedInstances")
        found = self.found(title, uids.PATIENT_ROOT_FIND, "PATIENT", PatientID="", **dict.fromkeys(names))
        expected = {}
        for patient in {model.patient(key) for key in seen}:
            of = {key for key in seen if model.patient(key) == patient}
            expected[patient] = (len(model.studies(of)), len(of), len(model.instances(of)))
        assert {one.PatientID: tuple(one[name].value for name in names) for one in found} == expected

    @rule(title=st.sampled_from(list(PEERS)), key=series, whole=st.booleans(), move=st.booleans())
    def c_get_or_move(self, title: str, key: Key, whole: bool, move: bool) -> None:
        target = Key(key.study) if whole else key
        expected = self.model.instances(self.model.targeted(target) & self.seen_by(title))
        answers = []
        for one in (target, Key("1.2.999", "1.2.999.9" if target.series else WHOLE)):
            keys = {"StudyInstanceUID": one.study} | ({"SeriesInstanceUID": one.series} if one.series else {})
            asked = identifier("SERIES" if one.series else "STUDY", **keys)
            self.got.clear()
            self.world.moved.clear()
            self.world.asked["dimse"] += 1
            peer = self.peer(title)
            if move:
                responses = list(peer.send_c_move(asked, "STORE", uids.STUDY_ROOT_MOVE))
            else:
                responses = list(peer.send_c_get(asked, uids.STUDY_ROOT_GET))
            if one == target:
                assert (self.world.moved if move else self.got) == expected
            answers.append([str(status) for status, _ in responses])
            if expected:
                return
        assert answers[0] == answers[1]

    @rule(project=projects)
    def export(self, project: str) -> None:
        """What commands read with `--project`."""
        self.world.asked["commands"] += 1
        with within(Scope(projects=(project,))), self.site.store.index.reading() as index:
            found = {Key(*key) for key in index.facts.selected()}
        assert found == self.model.in_project(project)


def picked(among: Iterable[One], number: int) -> list[One]:
    """One of several, or none if there are none."""
    known = list(among)
    return [known[number % len(known)]] if known else []


def values_of(key: Key) -> dict[str, str]:
    instance = key.instance(1)
    names = {"study": key.study, "series": key.series, "instance": instance}
    return {**names, "study_instance_uid": key.study, "series_instance_uid": key.series, "sop_instance_uid": instance,
            "id": "999999", "patient": "999999", "name": "volume.nii.gz"}  # fmt: skip


def bare(answer: httpx2.Response, identifiers: list[str]) -> tuple[int, str, Mapping[str, str]]:
    """An answer without the identifiers of the request, and without the date."""
    known = sorted({one for one in identifiers if one in str(answer.request.url)}, key=len, reverse=True)
    pattern = re.compile("|".join(rf"(?<![\w.]){re.escape(one)}(?![\w.])" for one in known) or r"(?!)")
    headers = {name: pattern.sub("?", value) for name, value in answer.headers.items() if name != "date"}
    return answer.status_code, pattern.sub("?", answer.content.decode("latin-1")), headers


def run(world: World, examples: int, steps: int, *, derandomize: bool) -> None:
    world.asked.clear()
    run_state_machine_as_test(
        lambda: WhoSeesWhat(world),
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            derandomize=derandomize,
            deadline=None,
            database=None,
            print_blob=True,
            suppress_health_check=list(HealthCheck),
        ),
    )
    print(dict(world.asked), dict(world.changed))


@pytest.fixture(params=[MAX_LISTED, 0], ids=["listed", "looked up"])
def _views(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both kinds of views that a scope can have."""
    monkeypatch.setattr("node.index.engine.narrowed.MAX_LISTED", request.param)


@pytest.mark.slow
@pytest.mark.usefixtures("_views")
def test_each_question_is_asked_of_a_node_with_something_of_everything(world: World) -> None:
    """Not what happens to be drawn."""
    machine = WhoSeesWhat(world)
    questions = ["set_label", "manage", *(name for name in dir(machine) if name.startswith(("ask_", "c_")))]
    try:
        machine.merge(SERIES[3], SERIES[0])
        machine.put("alpha", SERIES[4])
        machine.member("gamma", "ben", "manage")
        machine.label(Key(STUDIES[0]), "trial", given=True)
        machine.label(SERIES[4], "seen", given=True)
        machine.comment(SERIES[0])
        machine.comment(SERIES[1])
        machine.set_rule("beta", 'patient_id == "ID-1"')
        machine.set_called("gamma", "TRIAL")
        machine.put("alpha", Key(STUDIES[4]))
        machine.arrive(SERIES[13], 2)
        machine.delete(SERIES[7])
        machine.make_token("cleo")
        machine.make_token_for_project("eve", "gamma")
        machine.make_token_for_project("ben", "gamma")
        for number in range(12):
            machine.ask_with_etag("eve", "cleo", SERIES[0], number)  # who sees all of the study, and a part
        for number in range(11):
            if number == 5:
                machine.take("alpha", SERIES[4])
                machine.separate(SERIES[3])
                machine.restore(0)
                machine.member("gamma", "eve", "write")
                machine.no_member("beta", "ben")
                machine.set_rule("beta", "study_series > 2")
                machine.follow()
                machine.arrive(SERIES[11], 1)
                machine.follow()
            if number == 8:
                machine.release("ben")
                machine.limit("ben")
                machine.set_rule("beta", "")
            drawn = {
                "account": ACCOUNTS[number % 4], "one": ACCOUNTS[number % 5], "other": ACCOUNTS[number % 3],
                "key": SERIES[(0, 1, 4, 3, 6)[number % 5]], "named": Key(STUDIES[number % 2]), "number": number,
                "level": ("studies", "series", "instances")[number % 3], "title": list(PEERS)[number % 3],
                "label": "seen", "project": PROJECTS[number % 3],
                "page": ("", "/list", "/cards", "/series-list", "/row")[number % 5], "whole": number % 2 == 0,
                "path": ("volumes", "exclusions", "failures")[number % 3], "move": number % 4 < 2,
            }  # fmt: skip
            for name in questions:
                question = getattr(machine, name)
                question(**{one: drawn[one] for one in inspect.signature(question).parameters})
            for place in range(number, 200, 11):
                machine.ask_foreign("cleo", SERIES[(1, 4, 9)[place % 3]], place)
    finally:
        machine.teardown()


@pytest.mark.slow
@pytest.mark.usefixtures("_views")
def test_each_account_and_peer_is_told_of_what_it_sees_and_of_nothing_else(world: World) -> None:
    """The same requests every time."""
    run(world, 6, 40, derandomize=True)


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.usefixtures("_views")
def test_whatever_happens_each_account_and_peer_is_told_of_what_it_sees_and_of_nothing_else(world: World) -> None:
    """Other requests every time."""
    run(world, 120, 60, derandomize=False)

"""Who sees what while projects, members, contents and patients change: one table of questions, asked after each step.

tests/web/test_projects.py asks each route for what is not seen, and tests/protocol/test_projects.py asks as peers do.
"""

import csv
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from io import BytesIO, StringIO
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import httpx2
import pytest
from pydicom import dcmread

from node.index.rows.narrowed import MAX_LISTED
from node.index.rules.people.accounts import Role
from tests import make
from tests.made_once import copy_root
from tests.web.conftest import PASSWORD, Site, open_site

STUDIES = {"A": "1.2.901", "B": "1.2.902", "C": "1.2.903"}
PATIENTS = {"A": "ID-1", "B": "ID-2", "C": "ID-3"}
CONVERTED = {"A1", "B1"}
THERE = {"A1", "A2", "A3", "B1", "B2", "C1"}
"""The series of the beginning, each of two instances; those with 3 are of modality MR."""

ALL = "A1 A2 A3 B1 B2 C1"


def uid(name: str) -> str:
    """The UID of a study, such as A, or of a series, such as A1."""
    return ".".join((STUDIES[name[0]], *name[1:]))


def take(site: Site, *names: str) -> None:
    for name in names:
        many = make.mr_series if name.endswith("3") else make.ct_series
        person = {"PatientID": PATIENTS[name[0]], "PatientName": f"Name^{PATIENTS[name[0]]}"}
        described = {"SeriesDescription": f"Described {uid(name)}", "SeriesNumber": int(name[1])}
        instances = many(2, rows=8, columns=8, study_uid=uid(name[0]), series_uid=uid(name), **person, **described)
        for number, ds in enumerate(instances, 1):
            ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = f"{uid(name)}.{number}"
        site.take(*instances)


def items(key: str) -> Callable[[httpx2.Response], set[str]]:
    """Values of a key in a list of REST, whose total is that of its items."""

    def found(answer: httpx2.Response) -> set[str]:
        listed = answer.json()["items"]
        assert answer.json()["total"] in (None, len(listed))
        return {str(one[key]) for one in listed}

    return found


def elements(tag: str) -> Callable[[httpx2.Response], set[str]]:
    """Values of an attribute in DICOM JSON."""
    return lambda answer: {one[tag]["Value"][0] for one in answer.json()} if answer.status_code == 200 else set()


def matches(pattern: str) -> Callable[[httpx2.Response], set[str]]:
    return lambda answer: set(re.findall(rf"{pattern}(?![\d.])", answer.content.decode("latin-1")))


def members(answer: httpx2.Response) -> set[str]:
    """SOP Instance UIDs of the files of a ZIP file."""
    if answer.status_code == 404:
        return set()
    with ZipFile(BytesIO(answer.content)) as file:
        contents = [file.read(name) for name in file.namelist()]
    instances = [dcmread(BytesIO(one), stop_before_pixels=True) for one in contents if one[128:132] == b"DICM"]
    return {str(ds.SOPInstanceUID) for ds in instances}


Names = Callable[[set[str]], Iterable[str]]


def studies(seen: set[str]) -> set[str]:
    return {uid(name[0]) for name in seen}


def series(seen: set[str]) -> set[str]:
    return {uid(name) for name in seen}


def instances(seen: set[str]) -> set[str]:
    return {f"{uid(name)}.{number}" for name in seen for number in (1, 2)}


def of(study: str, names: Names = series) -> Names:
    return lambda seen: names({name for name in seen if name.startswith(study)})


def of_modality(modality: str, names: Names = series) -> Names:
    return lambda seen: names({name for name in seen if name.endswith("3") == (modality == "MR")})


REST, WEB, A = "/api/v1", "/dicom-web", "1.2.901"
DICOM = 'multipart/related; type="application/dicom"; transfer-syntax=*'
QUESTIONS: dict[str, tuple[str, str, dict[str, Any], Callable[[httpx2.Response], set[str]], Names]] = {
    "series": ("GET", f"{REST}/series", {"total": True}, items("series_instance_uid"), series),
    "series of a study": ("GET", f"{REST}/series", {"study_instance_uid": A}, items("series_instance_uid"), of("A")),
    "series that fit": ("GET", f"{REST}/series", {"where": 'modality == "MR"'}, items("series_instance_uid"),
                        of_modality("MR")),
    "series of long studies": ("GET", f"{REST}/series", {"where": "study_series > 2"}, items("series_instance_uid"),
                               lambda seen: of("A")(seen) if sum(name[0] == "A" for name in seen) > 2 else ()),
    "studies": ("GET", f"{REST}/studies", {"total": True}, items("study_instance_uid"), studies),
    "studies of a modality": ("GET", f"{REST}/studies", {"modality": "MR"}, items("study_instance_uid"),
                              of_modality("MR", studies)),
    "studies of a description": ("GET", f"{REST}/studies", {"description": "Described 1.2.901.2"},
                                 items("study_instance_uid"), of("A2", studies)),
    "instances": ("GET", f"{REST}/instances", {"total": True}, items("sop_instance_uid"), instances),
    "volumes": ("GET", f"{REST}/volumes", {}, items("series_instance_uid"), lambda seen: series(seen & CONVERTED)),
    "qido studies": ("GET", f"{WEB}/studies", {}, elements("0020000D"), studies),
    "qido series": ("GET", f"{WEB}/series", {"includefield": "all"}, elements("0020000E"), series),
    "qido instances": ("GET", f"{WEB}/instances", {}, elements("00080018"), instances),
    "qido modality": ("GET", f"{WEB}/series", {"Modality": "CT"}, elements("0020000E"), of_modality("CT")),
    "qido instance": ("GET", f"{WEB}/instances", {"SOPInstanceUID": f"{A}.2.1"}, elements("00080018"),
                      lambda seen: {f"{A}.2.1"} if "A2" in seen else ()),
    "metadata": ("GET", f"{WEB}/studies/{A}/metadata", {}, elements("00080018"), of("A", instances)),
    "files": ("GET", f"{WEB}/studies/{A}", {"accept": DICOM}, matches(r"/instances/(1\.2\.901\.\d\.\d)"),
              of("A", instances)),
    "pictures": ("GET", f"{WEB}/studies/{A}/series/{A}.2/rendered", {"accept": "multipart/related; type=image/png"},
                 matches(r"/instances/(1\.2\.901\.\d\.\d)"), of("A2", instances)),
    "zip of dicomweb": ("GET", f"{WEB}/studies/{A}", {"accept": "application/zip"}, members, of("A", instances)),
    "zip of the page": ("GET", f"/studies/{A}/dicom.zip", {}, members, of("A", instances)),
    "list": ("POST", "/", {}, matches(r"/studies/(1\.2\.\d+)"), studies),
    "csv": ("POST", "/studies.csv", {}, lambda answer: {
        row["study_instance_uid"] for row in csv.DictReader(StringIO(answer.text))}, studies),
    "page of a study": ("GET", f"/studies/{A}", {}, matches(rf"/studies/{A}/series/(1\.2\.901\.\d)"), of("A")),
    "cards of a study": ("GET", f"/studies/{A}/cards", {}, matches(rf"/studies/{A}/series/(1\.2\.901\.\d)"), of("A")),
}  # fmt: skip
"""Method, path and parameters; what an answer tells, and what it is to tell to somebody who sees some series."""


@dataclass
class World:
    """A node, its callers, and what each of them is to see."""

    site: Site
    seen: dict[str, set[str]] = field(default_factory=dict)
    patients: dict[str, str] = field(default_factory=lambda: dict(PATIENTS))
    steps: int = 0
    tagged: dict[tuple[str, str], bytes] = field(default_factory=dict)

    def do(self, action: str, /, **arguments: Any) -> Any:
        return self.site.store.actions.by_name[action](who="test", **arguments)

    def put(self, project: str, *names: str, remove: bool = False) -> None:
        contents = [(uid(name[0]), uid(name) if name[1:] else "") for name in names]
        self.do("change-project-contents", name=project, **{"remove" if remove else "add": contents})

    def member(self, project: str, account: str, role: str = "read") -> None:
        self.do("set-project-member", name=project, account=account, role=role)

    def see(self, **seen: str) -> None:
        """From this step on, callers see these series; the others see what they saw."""
        self.seen |= {caller: set(names.split()) for caller, names in seen.items()}
        self.steps += 1
        for turn, caller in enumerate(self.seen):
            for number, name in enumerate(QUESTIONS):
                if number == 0 or (self.steps + turn + number) % 4 == 0:
                    self.ask(caller, name)
            self.ask_counts(caller)

    def ask(self, caller: str, name: str) -> None:
        method, path, params, reported, expected = QUESTIONS[name]
        answer = self.answered(caller, method, path, params)
        assert reported(answer) == set(expected(self.seen[caller])), (caller, name, self.steps)

    def answered(self, caller: str, method: str, path: str, params: dict[str, Any]) -> httpx2.Response:
        """Ask, and look for what the caller does not see anywhere in the answer."""
        answer = self.site.client(auth=(caller, PASSWORD)).request(method, path, params=params)
        assert answer.status_code in (200, 204, 404), answer.text
        seen, text = self.seen[caller], answer.content.decode("latin-1") + str(answer.headers)
        hidden = {uid(name) for name in {*THERE, "C2"} - seen if uid(name) not in f"{path} {params}"}
        persons = {self.patients[name[0]] for name in seen} | {PATIENTS[name[0]] for name in seen}
        hidden |= {f"Name^{person}" for person in set(PATIENTS.values()) - persons}
        if hidden:
            found = re.findall(rf"(?<![\w.])(?:{'|'.join(map(re.escape, hidden))})(?![\w])", text)
            assert not found, (caller, path, params, self.steps)
        if "etag" in answer.headers and "multipart" not in answer.headers["content-type"]:
            known = self.tagged.setdefault((f"{path} {params}", answer.headers["etag"]), answer.content)
            assert known == answer.content, "one entity tag for what two callers see"
        return answer

    def ask_counts(self, caller: str) -> None:
        """Numbers of studies, labels, comments and patients are those of what is seen."""
        seen = self.seen[caller]
        for one in self.answered(caller, "GET", f"{REST}/studies", {}).json()["items"]:
            of_study = {name for name in seen if uid(name[0]) == one["study_instance_uid"]}
            assert (one["series"], one["instances"]) == (len(of_study), 2 * len(of_study))
            assert set(one["modalities"]) == {"MR" if name.endswith("3") else "CT" for name in of_study}
            assert one["patient_id"] == self.patients[min(of_study)[0]]
        labels = self.answered(caller, "GET", f"{REST}/labels", {}).json()["items"]
        counted = {"whole": (int(uid("A") in studies(seen)), 0), "part": (0, int("A2" in seen))}
        assert {one["label"]: (one["studies"], one["series"]) for one in labels} == {
            label: count for label, count in counted.items() if any(count)
        }
        comments = self.answered(caller, "GET", f"{REST}/studies/{A}/comments", {})
        said = {one["comment"] for one in comments.json()["items"]} if comments.status_code == 200 else set()
        assert said == {f"said of {name}" for name in ("A1", "A2") if name in seen}
        patients = self.answered(caller, "GET", f"{REST}/patients", {}).json()["items"]
        reported = {one["patient_id"] for one in patients if one["studies"]}
        assert reported == {self.patients[name[0]] for name in seen}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    site = open_site(tmp_path_factory.mktemp("world") / "root", authentication="always")
    take(site, *sorted(CONVERTED))
    site.convert()
    take(site, *sorted(THERE - CONVERTED))
    site.close()
    return site.root


@pytest.fixture(params=[MAX_LISTED, 0], ids=["listed", "looked up"])
def world(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> Iterator[World]:
    """A node with both kinds of views that a scope can have."""
    monkeypatch.setattr("node.index.rows.narrowed.MAX_LISTED", request.param)
    copy_root(root, tmp_path / "root")
    with open_site(tmp_path / "root", authentication="always") as site:
        yield World(site)


@pytest.mark.sample(0, 1)
@pytest.mark.timeout(600)
def test_each_account_is_told_of_what_it_sees_and_of_nothing_else(world: World) -> None:
    """anna is in alpha, ben in alpha and beta, cleo in gamma, eve in no project; boss and will see the whole node."""
    for name in ("anna", "ben", "cleo", "eve", "will"):
        world.site.account(name, Role.WRITE)
    world.site.account("boss", Role.ADMIN)
    world.do("set-labels", study=uid("A"), series="", labels=["whole"])
    world.do("set-labels", study=uid("A"), series=uid("A2"), labels=["part"])
    for name in ("A1", "A2"):
        world.do("comment", study=uid("A"), series=uid(name), comment=f"said of {name}")
    world.see(**dict.fromkeys(("anna", "ben", "cleo", "eve", "will", "boss"), ALL))

    for project in ("alpha", "beta", "gamma"):
        world.do("set-project", name=project)
    for project, account in (("alpha", "anna"), ("alpha", "ben"), ("beta", "ben"), ("gamma", "cleo")):
        world.member(project, account)
    world.do("limit-account", account="eve", is_limited=True)
    world.see(anna="", ben="", cleo="", eve="")

    world.put("alpha", "A")
    world.put("beta", "B1", "C")
    world.put("gamma", "A2")
    world.see(anna="A1 A2 A3", ben="A1 A2 A3 B1 C1", cleo="A2")

    take(world.site, "C2")  # later than its study came into a project
    world.see(ben="A1 A2 A3 B1 C1 C2", will=f"{ALL} C2", boss=f"{ALL} C2")

    world.put("alpha", "A", remove=True)
    world.put("alpha", "A1", "A3")
    world.see(anna="A1 A3", ben="A1 A3 B1 C1 C2")

    world.do("set-project", name="gamma", rule='modality == "MR"')
    world.see(cleo="A2 A3")
    world.do("set-project", name="gamma", rule="study_series > 2")
    world.see(cleo="A1 A2 A3")
    world.do("set-project", name="gamma", rule="")
    world.see(cleo="A2")

    patients = world.answered("boss", "GET", f"{REST}/patients", {}).json()["items"]
    row = {one["patient_id"]: one["id"] for one in patients}
    world.do("merge-patients", source=row["ID-2"], target=row["ID-1"])
    world.patients["B"] = "ID-1"
    world.see()
    world.do("separate-patient", patient=row["ID-2"])
    world.patients["B"] = "ID-2"
    world.see()

    world.do("delete", level="series", uid=uid("A3"), study_instance_uid=uid("A"))
    world.see(anna="A1", ben="A1 B1 C1 C2", will="A1 A2 B1 B2 C1 C2", boss="A1 A2 B1 B2 C1 C2")
    with world.site.store.index.reading() as index:
        number = index.trash.all()[0]["number"]
    world.do("restore-trash", number=number)
    world.see(anna="A1 A3", ben="A1 A3 B1 C1 C2", will=f"{ALL} C2", boss=f"{ALL} C2")

    world.member("beta", "anna", "write")
    world.do("remove-project-member", name="beta", account="ben")
    world.see(anna="A1 A3 B1 C1 C2", ben="A1 A3")
    world.do("set-role", name="cleo", role="admin")
    world.see(cleo=f"{ALL} C2")
    world.do("set-role", name="cleo", role="write")
    world.see(cleo="A2")
    world.do("remove-project", name="beta")
    world.do("set-project", name="beta")  # another one of its name
    world.see(anna="A1 A3")
    world.do("limit-account", account="ben", is_limited=False)
    world.do("limit-account", account="eve", is_limited=True)
    world.see(ben=f"{ALL} C2")
    world.do("limit-account", account="ben", is_limited=True)
    world.see(ben="")

"""Projects: what accounts see, and that nothing else is told to them, by any route."""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx2
import pytest

import node
from node.api import Role, UsageError
from node.index.rows.models.levels import Base
from node.index.rows.narrowed import RULES
from node.web.access import declared
from node.web.credentials import digest, new_token
from tests import make
from tests.web.conftest import PASSWORD, Site, every_route, open_site, until
from tests.web.test_administration import signed_in
from tests.web.test_every_route import body_of, query_of

SERIES = {"1.2.901.1": "1.2.901", "1.2.901.2": "1.2.901", "1.2.902.1": "1.2.902", "1.2.903.1": "1.2.903",
          "1.2.904.1": "1.2.904"}  # fmt: skip
"""The series of the node, with their studies; the last one is in no project."""

CONTENTS: dict[str, list[tuple[str, str]]] = {
    "alpha": [("1.2.901", ""), ("1.2.902", "")],
    "beta": [("1.2.902", ""), ("1.2.903", "1.2.903.1")],
    "gamma": [("1.2.901", "1.2.901.2")],
}
MEMBERS = {"anna": ["alpha"], "ben": ["beta"], "cleo": ["gamma"], "dora": ["beta", "gamma"], "eve": []}
SEEN = {
    "anna": {"1.2.901.1", "1.2.901.2", "1.2.902.1"},
    "ben": {"1.2.902.1", "1.2.903.1"},
    "cleo": {"1.2.901.2"},
    "dora": {"1.2.901.2", "1.2.902.1", "1.2.903.1"},
    "eve": set(),
}
"""The series that each account sees."""


def as_account(site: Site, name: str) -> httpx2.Client:
    return site.client(auth=(name, PASSWORD))


def enter(site: Site) -> None:
    """Make accounts, projects and series, each with a name of its own for the patient."""
    for name in MEMBERS:
        site.account(name, Role.READ)
    site.account("admin", Role.ADMIN)
    admin = as_account(site, "admin")
    for project in CONTENTS:
        assert admin.put(f"/api/v1/projects/{project}", json={}).json() == {"project": project, "new": True}
    for name, projects in MEMBERS.items():
        site.store.actions.by_name["limit-account"](account=name, is_limited=True, who="test")
        for project in projects:
            assert admin.put(f"/api/v1/projects/{project}/members/{name}", json={"role": "read"}).status_code == 200
    for series, study in SERIES.items():
        person = {"PatientID": f"ID-{study}", "PatientName": f"Name^{study}"}
        site.take(*make.ct_series(3, study_uid=study, series_uid=series, **person))
    for project, contents in CONTENTS.items():
        add = [{"study_instance_uid": study, "series_instance_uid": series} for study, series in contents]
        answer = admin.post(f"/api/v1/projects/{project}/contents", json={"add": add})
        assert answer.json() == {"added": len(add), "removed": 0}


def listed(client: httpx2.Client, path: str, name: str) -> set[str]:
    return {item[name] for item in client.get(path).json()["items"]}


EMPTY = frozenset(
    {
        "accounts", "audit_lines", "awaited_senders", "conflicts", "host_removals", "hosts", "leases",
        "limited_accounts", "lost_instances", "object_removals", "open_associations", "owed_events", "owed_images",
        "performed_series",
        "performed_steps", "project_contents",
        "recovery_codes", "rejections", "results", "senders", "sent_instances", "statements", "subscribers", "tokens",
        "tombstones", "trash", "web_sessions",
    }
)  # fmt: skip
"""Tables of the core of which they see nothing."""


def test_each_table_has_a_rule_of_what_members_of_projects_see_of_it() -> None:
    """A new table is empty for them; somebody decides whether it stays so: in `RULES`, or in `EMPTY`."""
    for rules in RULES.values():
        assert set(Base.metadata.tables) == rules.keys() | EMPTY
        assert not rules.keys() & EMPTY


OWN_THREADS = {
    "web/server.py": "the server itself",
    "web/monitoring.py": "reads the whole index by `within`, for nobody in particular",
    "extensions/dicomweb/store_transaction.py": "stores, which members do not",
}
"""Files with threads that were looked at."""


def test_threads_that_answer_members_have_their_scope() -> None:
    """A thread without a copy of the context reads the whole index."""
    package = Path(node.__file__).parent
    marked = [path for path in package.glob("extensions/*/*.py") if "MEMBERS" in path.read_text("utf-8")]
    rooms = {package / "web", package / "extensions/deidentify", *(path.parent for path in marked)}
    bare = re.compile(r"(\.submit\(|\bThread\(|\bTimer\(|run_in_executor\()(?!copy_context\(\)\.run\b)")
    starting = {path for room in rooms for path in room.rglob("*.py") if bare.search(path.read_text("utf-8"))}
    assert {path.relative_to(package).as_posix() for path in starting} == OWN_THREADS.keys()


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with open_site(tmp_path_factory.mktemp("shared") / "root", authentication="always").serving() as site:
        enter(site)
        site.convert()
        yield site


ABSENT = {"study": "1.2.999", "series": "1.2.999.1", "instance": "1.2.999.1.1"}


def parameters_of(admin: httpx2.Client, series: str) -> dict[str, str]:
    """What stands for the parameters of paths, for a series that is there."""
    study = SERIES[series]
    instance = admin.get("/api/v1/instances", params={"series_instance_uid": series}).json()["items"][0]
    volume = admin.get("/api/v1/volumes", params={"series_instance_uid": series}).json()["items"][0]
    download = admin.get(f"/studies/{study}/medium.zip", follow_redirects=False).headers["location"]
    comment = admin.post(f"/api/v1/studies/{study}/comments", json={"comment": f"Name^{study}"}).json()["id"]
    return {**_uids(study, series, instance["sop_instance_uid"]), "id": str(volume["id"]), "name": volume["name"],
            **dict.fromkeys(("number", "work"), download.rpartition("/")[2]), "comment": str(comment),
            "patient": str(admin.get(f"/api/v1/studies/{study}").json()["patient"])}  # fmt: skip


def _uids(study: str, series: str, instance: str) -> dict[str, str]:
    return {
        "study_instance_uid": study, "series_instance_uid": series, "sop_instance_uid": instance,
        "study": study, "series": series, "instance": instance,
    }  # fmt: skip


CONSTANT = {"frames": "1", "revision": "1", "path": "7FE00010", "slug": "not-found", "topic": "none", "aetitle": "ANY"}


def url_of(path: str, values: Mapping[str, str]) -> str:
    known = {**CONSTANT, **values}
    if "/patients/" in path:
        known["id"] = values["patient"]
    return re.sub(r"{(\w+)(:path)?}", lambda found: known[found[1]], path)


def reported(answer: httpx2.Response, values: Mapping[str, str]) -> tuple[object, ...]:
    """What an answer tells, without the identifiers of the request."""
    text = answer.text
    headers = {name: answer.headers.get(name) for name in ("etag", "content-type", "location", "warning")}
    text += json.dumps(headers)
    asked = f"{answer.request.url} {answer.request.content.decode()}"
    for value in (value for value in values.values() if value in asked):
        text = re.sub(rf"(?<![\w.]){re.escape(value)}(?![\w.])", "?", text)
    return answer.status_code, text


@pytest.mark.slow
def test_no_route_tells_of_what_is_not_in_a_project_of_the_caller(shared: Site) -> None:
    """A route that is new, and open to members of projects, needs values for its parameters here."""
    admin = as_account(shared, "admin")
    for name in ("walt", "fay"):
        shared.account(name, Role.WRITE)
        assert admin.put(f"/api/v1/projects/beta/members/{name}", json={"role": "manage"}).status_code == 200
    foreign = {**parameters_of(admin, "1.2.901.1"), "project": "alpha", "account": "anna"}
    own = {**parameters_of(admin, "1.2.902.1"), "project": "beta", "account": "fay"}
    absent = {**_uids(*ABSENT.values()), "id": "999999", "name": foreign["name"], "patient": "999999",
              **dict.fromkeys(("number", "work"), "999999"), "comment": "999999", "project": "nothing",
              "account": "nobody"}  # fmt: skip
    marks = [mark for study in ("1.2.901", "1.2.904") for mark in (f"ID-{study}", f"Name^{study}", f"{study}.1")]
    walked, shown, changed = 0, 0, 0
    walt = as_account(shared, "walt")
    for path, route in every_route(shared.app.routes):
        for method in sorted((route.methods or set()) - {"HEAD"}):
            if path == "/api/v1/events" or not declared(route).in_project:
                continue
            answers = []
            for values in (foreign, absent):
                url, query = url_of(path, values), query_of(path, values)
                sent = body_of(method, path, values) if method in ("POST", "PUT") else {}
                answer = walt.request(method, url, params=query, follow_redirects=False, **sent)
                text = answer.text.replace(url, "")
                for value in query.values():
                    text = text.replace(value, "")
                assert answer.status_code < 500, (method, path)
                if "{" in path:
                    answers.append(reported(answer, values))
                else:
                    assert not [mark for mark in marks if mark in text], (method, path)
            assert len({*answers}) <= 1, (method, path, answers)
            walked += 1
            sent = body_of(method, path, own) if method in ("POST", "PUT") else {}
            answer = walt.request(method, url_of(path, own), params=query_of(path, own), follow_redirects=False, **sent)
            is_change = method != "GET" and answer.status_code in (200, 201, 202, 303)
            shown, changed = (
                shown + (method == "GET" and "{" in path and answer.status_code == 200),
                changed + is_change,
            )
    assert walked > 115
    assert shown > 50, "the same routes show what is seen"
    assert changed > 15, "and change what may be changed"
    for name in ("walt", "fay"):
        shared.store.actions.by_name["remove-account"](name=name, who="test")


@pytest.mark.slow
def test_the_pages_are_of_what_a_member_sees_and_offer_nothing_that_changes_it(shared: Site) -> None:
    ben = signed_in(shared, "ben")
    listed = ben.get("/").text
    assert {study for study in set(SERIES.values()) if f"/studies/{study}" in listed} == {"1.2.902", "1.2.903"}
    assert "2 studies" in re.sub(r"<[^>]+>", "", listed)
    assert re.findall(r'<li><a href="([^"]+)"', listed) == ["/"], "the pages of the node are not for members"
    found = ben.post("/", data={"words": "1.2.9"}, headers={"hx-request": "true"}).text
    assert "Name^1.2.901" not in found
    assert "1.2.902" in found
    for page in (listed, ben.get("/studies/1.2.902").text, ben.get("/studies/1.2.902/series/1.2.902.1").text):
        targets = set(re.findall(r'(?:action|href)="([^"]+)"', page))
        changing = {
            one for one in targets if re.search("reconvert|send|delete|labels|comments|shares|bids|compare", one)
        }
        assert not changing, changing
    assert ben.get("/studies/1.2.901").status_code == 404
    for path in ("/queue", "/problems", "/work", "/status", "/routes", "/upload"):
        assert ben.get(path).status_code == 403, path

    assert "Signed in as ben" in ben.get("/account").text
    made = ben.get("/studies/1.2.902/medium.zip").headers["location"]
    until(lambda: "The file is ready" in ben.get(made).text)
    assert ben.get(f"{made}/file").status_code == 200
    admin = as_account(shared, "admin")
    assert admin.delete("/api/v1/projects/beta/members/ben").status_code == 200
    assert ben.get(f"{made}/file").status_code == 404, "what was made ends with what is seen"
    assert admin.put("/api/v1/projects/beta/members/ben", json={"role": "read"}).status_code == 200

    changed = ben.post("/account/password", data={"current": PASSWORD, "new": f"{PASSWORD}!", "again": f"{PASSWORD}!"})
    assert changed.headers["location"] == "/login"
    assert ben.get("/account").status_code != 200
    shared.account("ben", Role.READ)


def test_members_change_what_their_role_lets_them(shared: Site) -> None:
    """wren may write in alpha and read in beta; maud manages alpha and gamma, and reads beta."""
    admin = as_account(shared, "admin")
    projects = {"wren": {"alpha": "write", "beta": "read"}, "maud": {"alpha": "manage", "gamma": "manage"}}
    for name, roles in projects.items():
        shared.account(name, Role.READ)
        refused = admin.put(f"/api/v1/projects/alpha/members/{name}", json={"role": roles["alpha"]})
        assert (refused.status_code, f"account role {name} write" in refused.text) == (400, True), refused.text
        shared.store.actions.by_name["set-role"](name=name, role="write", who="test")
        for project, role in roles.items():
            member = f"/api/v1/projects/{project}/members/{name}"
            assert admin.put(member, json={"role": role}).status_code == 200
    wren, maud = as_account(shared, "wren"), as_account(shared, "maud")
    whole, part, read, foreign = "1.2.901", "1.2.902", "1.2.903", "1.2.904"

    # Of what is in alpha. What is in beta alone is read, and what is in neither is not there.
    for path, body in (("labels", {"labels": ["seen"]}), ("comments", {"comment": "fine"}), ("reconvert", None)):
        method = "PUT" if path == "labels" else "POST"
        answers = {
            study: wren.request(method, f"/api/v1/studies/{study}/{path}", json=body).status_code
            for study in (whole, part, read, foreign, ABSENT["study"])
        }
        assert set([answers[whole], answers[part]]) <= {200, 201, 202}, (path, answers)
        assert [answers[read], answers[foreign], answers[ABSENT["study"]]] == [403, 404, 404], (path, answers)
    assert wren.post(f"/api/v1/studies/{whole}/comments", json={"comment": "twice"}).status_code == 201
    comments = [
        one for one in admin.get(f"/api/v1/studies/{whole}/comments").json()["items"] if one["written_by"] == "wren"
    ]
    assert sorted(one["comment"] for one in comments) == ["fine", "twice"]
    mine, theirs = (
        comments[0]["id"],
        admin.post(f"/api/v1/studies/{foreign}/comments", json={"comment": "x"}).json()["id"],
    )
    assert [wren.delete(f"/api/v1/comments/{one}").status_code for one in (mine, mine, theirs)] == [200, 404, 404]
    assert as_account(shared, "ben").put(f"/api/v1/studies/{part}/labels", json={"labels": []}).status_code == 403

    # A study that is not seen as a whole has labels for others, too: its series that are seen can have some.
    assert maud.put(f"/api/v1/studies/{whole}/labels", json={"labels": ["a"]}).status_code == 200
    admin.post("/api/v1/projects/alpha/contents", json={"remove": [{"study_instance_uid": whole}]})
    assert maud.put(f"/api/v1/studies/{whole}/labels", json={"labels": ["b"]}).status_code == 403
    of_series = f"/api/v1/studies/{whole}/labels?series_instance_uid=1.2.901"
    assert maud.put(f"{of_series}.2", json={"labels": ["b"]}).status_code == 200
    assert maud.put(f"{of_series}.1", json={"labels": ["b"]}).status_code == 404
    admin.post("/api/v1/projects/alpha/contents", json={"add": [{"study_instance_uid": whole}]})

    # The pages offer what the role lets do.
    pages = signed_in(shared, "wren")
    assert "reconvert" in pages.get(f"/studies/{whole}").text
    assert f"/studies/{whole}/links" not in pages.get(f"/studies/{whole}").text
    assert not re.search("/(reconvert|labels|comments)", pages.get(f"/studies/{read}/series/1.2.903.1").text)
    assert pages.post(f"/studies/{whole}/labels", data={"label": "by page"}).status_code == 303
    assert pages.post(f"/studies/{read}/labels", data={"label": "by page"}).status_code == 403
    assert "by page" in admin.get(f"/api/v1/studies/{whole}/labels").json()["labels"]

    # Who manages a project says who else is in it, and which series of projects that it manages are.
    contents = "/api/v1/projects/gamma/contents"
    add = {study: maud.post(contents, json={"add": [{"study_instance_uid": study}]}).status_code
           for study in (part, read, foreign)}  # fmt: skip
    assert add == {part: 200, read: 404, foreign: 404}
    assert part in {
        one["study_instance_uid"] for one in as_account(shared, "cleo").get("/api/v1/series").json()["items"]
    }
    assert maud.post(contents, json={"remove": [{"study_instance_uid": part}]}).json()["removed"] == 1
    assert {one["account"] for one in maud.get("/api/v1/projects/gamma/members").json()["items"]} == {
        "cleo", "dora", "maud",
    }  # fmt: skip
    shared.account("whole", Role.WRITE)
    refused = [
        maud.put(f"/api/v1/projects/gamma/members/{name}", json={"role": "read"}) for name in ("whole", "nobody")
    ]
    assert [one.status_code for one in refused] == [400, 400]
    assert refused[0].text.replace("whole", "nobody") == refused[1].text, "nothing tells which accounts there are"
    assert maud.put("/api/v1/projects/gamma/members/ben", json={"role": "read"}).status_code == 200
    assert maud.delete("/api/v1/projects/gamma/members/ben").status_code == 200
    for path in ("/api/v1/projects/beta/members/ben", "/api/v1/projects/delta/members/ben"):
        assert maud.put(path, json={"role": "read"}).status_code == 404, path
    assert wren.put("/api/v1/projects/alpha/members/ben", json={"role": "read"}).status_code == 403
    assert wren.put("/api/v1/projects/beta/members/ben", json={"role": "read"}).status_code == 403
    assert as_account(shared, "whole").get("/api/v1/projects/alpha/members").status_code == 403
    assert maud.put("/api/v1/projects/gamma", json={"rule": 'modality == "CT"'}).status_code == 403


@pytest.mark.slow
def test_a_token_is_for_one_project(start_site: Any) -> None:
    site = start_site(authentication="always").serving()
    enter(site)
    site.account("whole", Role.WRITE)
    accounts = site.store.actions.by_name

    def token(name: str, project: str, **limits: Any) -> str:
        made = new_token()
        given = {"sha256": digest(made), "expires_at": None, "project": project, **limits}
        accounts["add-token"](name=name, label=made[-8:], who="test", **given)
        return made

    def seen(made: str) -> set[str] | int:
        answer = site.client(headers={"authorization": f"Bearer {made}"}).get("/api/v1/series")
        return {one["series_instance_uid"] for one in answer.json()["items"]} if answer.status_code == 200 else 401

    dora, whole, boss = token("dora", "gamma"), token("whole", "gamma"), token("admin", "gamma")
    assert seen(dora) == seen(whole) == seen(boss) == {"1.2.901.2"}
    for name in ("eve", "anna"):
        with pytest.raises(UsageError, match="sees no project 'gamma'"):
            token(name, "gamma")
    client = {name: site.client(headers={"authorization": f"Bearer {made}"}) for name, made in
              (("dora", dora), ("whole", whole), ("admin", boss))}  # fmt: skip
    labels = "/api/v1/studies/1.2.901/labels?series_instance_uid=1.2.901.2"
    marked = {name: one.put(labels, json={"labels": [name]}).status_code
              for name, one in client.items()}  # fmt: skip
    assert marked == {"dora": 403, "whole": 200, "admin": 200}, "the role is that of the account, at most write"
    for one in client.values():
        assert one.delete("/api/v1/studies/1.2.901").status_code == 403
        assert one.get("/api/v1/projects/gamma/members").status_code == 403, "no role above write"
        assert one.get("/api/v1/studies/1.2.902").status_code == 404
    with site.store.index.reading() as index:
        [listed] = next(one.tokens for one in index.accounts.listed() if one.name == "admin")
    assert listed.project == "gamma"
    pages = signed_in(site, "dora")
    form = {"label": "by page", "days": "1", "role": "read", "project": "beta"}
    assert "<option>beta</option>" in pages.get("/account").text
    assert "<option>alpha</option>" not in pages.get("/account").text
    made = re.search(r"vxn_[\w-]+", pages.post("/account/tokens", data=form).text)
    assert seen(made[0]) == {"1.2.902.1", "1.2.903.1"}
    assert pages.post("/account/tokens", data=form | {"label": "no", "project": "alpha"}).status_code == 400

    # It ends with the role in the project, and with the project: one of its name later is another.
    admin = as_account(site, "admin")
    admin.delete("/api/v1/projects/gamma/members/dora")
    assert seen(dora) == set()
    admin.delete("/api/v1/projects/gamma")
    admin.put("/api/v1/projects/gamma", json={})
    assert [seen(one) for one in (dora, whole, boss)] == [401, 401, 401]


@pytest.mark.slow
def test_what_an_account_has_made_before_shows_nothing_that_it_sees_no_more(shared: Site) -> None:
    """gail saw the whole node, then study 1.2.901 in its projects, then one of its series."""
    shared.account("gail", Role.WRITE)
    admin, gail, by_link = as_account(shared, "admin"), as_account(shared, "gail"), shared.client()
    study = "1.2.901"
    member = "/api/v1/projects/{}/members/gail"

    def made() -> str:
        number = gail.get(f"/studies/{study}/medium.zip").headers["location"]
        until(lambda: "The file is ready" in gail.get(number).text)
        return f"{number}/file"

    def linked() -> str:
        return str(gail.post(f"/api/v1/studies/{study}/shares", json={"download": True}).json()["path"])

    whole, link = made(), linked()
    assert [one.status_code for one in (gail.get(whole), by_link.get(link))] == [200, 200]
    for project in ("alpha", "gamma"):
        assert admin.put(member.format(project), json={"role": "read"}).status_code == 200
    assert by_link.get(link).status_code == 404, "the links of members, who make none, have ended"
    of_alpha = made()
    assert [gail.get(one).status_code for one in (whole, of_alpha)] == [200, 200]
    contents = "/api/v1/projects/alpha/contents"
    assert admin.post(contents, json={"remove": [{"study_instance_uid": study}]}).status_code == 200
    assert [gail.get(one).status_code for one in (f"/studies/{study}", whole, of_alpha)] == [200, 404, 404]
    assert admin.post(contents, json={"add": [{"study_instance_uid": study}]}).status_code == 200

    # An administrator sees everything, also one that will see projects only when it is none any more.
    actions = shared.store.actions.by_name
    actions["set-role"](name="gail", role="admin", who="test")
    link = linked()
    actions["limit-account"](account="gail", is_limited=True, who="test")
    assert by_link.get(link).status_code == 200
    actions["set-role"](name="gail", role="write", who="test")
    assert by_link.get(link).status_code == 404
    actions["remove-account"](name="gail", who="test")


@pytest.mark.slow
def test_a_stream_has_the_events_of_what_is_seen(shared: Site) -> None:
    reported, expected = set(), SEEN["ben"]
    with as_account(shared, "ben").stream("GET", "/api/v1/events", params={"after": 0}) as answer:
        for line in answer.iter_lines():
            if line.startswith("data: "):
                event = json.loads(line.removeprefix("data: "))
                assert event["series_instance_uid"] in {None, *expected}
                assert event["study_instance_uid"] in {SERIES[one] for one in expected}
                reported.add(event["series_instance_uid"])
                if reported >= expected:
                    break

"""Every route x everybody who asks: what a node answers is what routes declare, and what docs/access.md has.

tests/web/test_projects.py asks each route for what members do not see, tests/web/test_who_sees_what.py what is seen.
"""

import datetime as dt
import re
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import pytest
from fastapi import APIRouter, Depends, FastAPI
from starlette.responses import Response
from starlette.routing import BaseRoute, Mount, Route, WebSocketRoute
from starlette.staticfiles import StaticFiles

from node.api import Role, UsageError
from node.index.rules.work.messages import PendingEvent
from node.web.access import ADMINS, ANYBODY, READERS, SAFE_METHODS, WRITERS, Allow, CurrentCall, declared
from node.web.credentials import digest, new_token
from node.web.principal import COOKIE
from tests import access_table, make
from tests.access_table import ASKERS, JOB, LINK, NOBODY, TOKEN_OF_PROJECT, Asker, answer, requests
from tests.web.conftest import PASSWORD, Site, open_site
from tests.web.test_security import raw, request_head, status_of

STUDY, SERIES = "1.2.901", "1.2.901.1"


def test_the_document_has_every_request_and_whom_it_is_for() -> None:
    """`python -m tests.access_table` writes it."""
    assert access_table.DOCUMENT.read_text(encoding="utf-8") == access_table.written()


@pytest.mark.slow
def test_openapi_has_whom_each_operation_is_for(empty: Site) -> None:
    paths, compared = empty.client().get("/api/v1/openapi.json").json()["paths"], 0
    for (method, path), allowed in requests(empty.app.routes).items():
        operation = paths.get(path.replace(":path}", "}"), {}).get(method.lower())
        if operation is not None:
            of_document = {
                key: operation[key] for key in operation if key in ("x-role", "x-role-in-project", "x-job-token")
            }
            assert of_document == allowed.in_openapi(), (method, path)
            compared += 1
    assert compared == sum(len(of_path) for of_path in paths.values()) > 60


@dataclass
class Walked:
    """A started node, and those who ask it."""

    site: Site
    accounts: dict[Asker, str] = field(default_factory=dict)
    """Those who sign in with a browser, and their names."""
    tokens: dict[Asker, str] = field(default_factory=dict)
    values: dict[str, str] = field(default_factory=dict)
    """What stands for the parameters of paths: the series in the project of the members, and what is not there."""

    def client(self, asker: Asker) -> httpx2.Client:
        """A new client of somebody."""
        client = self.site.network_client(headers={"Origin": self.site.url})
        if asker in self.accounts:
            entered = client.post("/login", data={"name": self.accounts[asker], "password": PASSWORD})
            assert entered.status_code == 303
        else:
            client.headers["Authorization"] = f"Bearer {self.tokens[asker]}"
        if asker is LINK:
            client.cookies.set(COOKIE, self.tokens[asker])
        return client

    def token(self, name: str, **limits: Any) -> str:
        made, now = new_token(), self.site.services.ingest.now()
        self.site.services.index.accounts.add_token(name, made[-8:], digest(made), None, now, **limits)
        return made

    def ask(self, client: httpx2.Client, method: str, path: str, **changed: str) -> httpx2.Response:
        """Ask a route; a stream without an end is read as far as its head."""
        values = {**self.values, **changed}
        url = re.sub(r"{(\w+)(:path)?}", lambda found: values[found[1]], path)
        with client.stream(method, url, params=query_of(path, values), **body_of(method, path, values)) as response:
            if path == "/api/v1/events" and response.status_code == 200:
                return httpx2.Response(200)
            response.read()
        return response


ABSENT = {
    **dict.fromkeys(("id", "number", "work", "entry", "conflict", "share"), "999999"),
    **dict.fromkeys(("hook", "peer", "section", "cause"), "nothing"),
    "route": "-", "destination": "NOWHERE", "action": "retry", "decision": "keep", "aetitle": "ANY", "frames": "1",
    "revision": "1", "path": "7FE00010", "slug": "not-found", "topic": "pages", "file": "mask.nii.gz",
    "name": "nothing", "share_token": "wrong",
}  # fmt: skip
"""What is not there, or needs no instance: those who may ask change nothing."""


def query_of(path: str, values: Mapping[str, str]) -> dict[str, str]:
    if path == "/dicom-web/wado":
        names = {"studyUID": "study", "seriesUID": "series", "objectUID": "instance"}
        return {"requestType": "WADO", **{name: values[value] for name, value in names.items()}}
    return {name: values[name] for name in ("study", "series")} if "/selected/" in path else {}


def body_of(method: str, path: str, values: Mapping[str, str]) -> dict[str, Any]:
    """What a change needs before it looks at what may be changed, and what ends no session of who asks."""
    if method in SAFE_METHODS:
        return {}
    if not path.startswith("/api/"):
        return {"data": {**query_of(path, values), "label": "walked", "comment": "walked", "session": "999999"}}
    bodies = {
        "labels": {"labels": ["walked"]}, "comments": {"comment": "walked"}, "{account:path}": {"role": "read"},
        "contents": {"add": [{"study_instance_uid": values["study"], "series_instance_uid": values["series"]}]},
        "medium": {"study_instance_uids": [values["study"]]}, "progress": {"percent": 1},
    }  # fmt: skip
    last = path.rpartition("/")[2]
    return {"json": bodies[last]} if last in bodies else {}


@pytest.fixture(scope="module")
def walked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Walked]:
    site = open_site(tmp_path_factory.mktemp("walked") / "root", authentication="always").serving()
    act, found, accounts = site.store.actions.by_name, Walked(site), site.services.index.accounts
    site.take(*make.ct_series(2, study_uid=STUDY, series_uid=SERIES))
    act["set-project"](name="trial", who="test")
    act["change-project-contents"](name="trial", add=[(STUDY, SERIES)], who="test")
    for asker in ASKERS:
        if asker.role and asker is not TOKEN_OF_PROJECT:
            name = found.accounts[asker] = "-".join(filter(None, (asker.role, asker.in_project)))
            site.account(name, Role.WRITE if asker.in_project else Role[asker.role.upper()])
            if asker.in_project:
                act["set-project-member"](name="trial", account=name, role=asker.in_project, who="test")
                accounts.set_role(name, Role[asker.role.upper()])
    site.account("other", Role.READ)
    act["set-project-member"](name="trial", account="other", role="read", who="test")
    pending = PendingEvent("walked", "series-quiet", site.services.ingest.now(), STUDY, SERIES)
    job, token = site.store.index.jobs.begin("hook", pending, pending.happened_at, dt.timedelta(days=1))
    admin = site.client(auth=("admin", PASSWORD))
    shared = admin.post(f"/api/v1/studies/{STUDY}/shares", json={}).json()["path"].rpartition("/")[2]
    comment = admin.post(f"/api/v1/studies/{STUDY}/comments", json={"comment": "walked"}).json()["id"]
    instance = admin.get("/api/v1/instances").json()["items"][0]["sop_instance_uid"]
    found.tokens = {JOB: token, LINK: shared, TOKEN_OF_PROJECT: found.token("write", project="trial"), NOBODY: "vxn_x"}
    found.values = {
        **ABSENT, **dict.fromkeys(("study", "study_instance_uid"), STUDY), "job": job.job_id, "comment": str(comment),
        **dict.fromkeys(("series", "series_instance_uid"), SERIES), "project": "trial", "account": "other",
        **dict.fromkeys(("instance", "sop_instance_uid"), instance),
    }  # fmt: skip
    yield found
    site.close()


UIDS = "study", "series", "instance", "study_instance_uid", "series_instance_uid", "sop_instance_uid"


@pytest.mark.sample(0, 4)
@pytest.mark.parametrize("asker", ASKERS, ids=lambda asker: asker.name)
def test_each_request_is_answered_as_its_route_declares(
    walked: Walked, asker: Asker, monkeypatch: pytest.MonkeyPatch
) -> None:
    site, client, wrong = walked.site, walked.client(asker), []
    monkeypatch.setattr(site.app.state.access._known._guessed_links, "require_try", lambda pair, **_: None)
    found, roles = requests(site.app.routes), ("read", "write", "admin")
    for (method, path), allowed in found.items():
        changed = {"share_token": walked.tokens[LINK]} if asker is LINK else {}
        if asker.role == "admin" and method not in SAFE_METHODS:
            changed = {**dict.fromkeys(UIDS, "1.2.999"), "comment": "999999", "project": "nothing"}  # deletes nothing
        answered, expected = walked.ask(client, method, path, **changed), answer(asker, allowed)
        status = str(answered.status_code)
        if asker is TOKEN_OF_PROJECT and method == "POST" and path.startswith("/account/"):
            assert status in ("403", "422"), "an account is changed in a session only"
            continue
        is_refused = status in ("401", "403") or (allowed.who == "link" and "no such link" in answered.text)
        if is_refused != (expected != "yes") or (is_refused and status != expected):
            wrong.append((method, path, expected, status, answered.request.url))
        if status == "401" and method != "HEAD":
            assert "Bearer" in answered.headers["www-authenticate"], (method, path)
            assert answered.json()["remedy"]
        if path == "/logout":
            client = walked.client(asker)
    assert not wrong, "\n".join(map(str, wrong))
    assert len(found) > 280
    alerts = [line for line in site.audited("Security Alert") if line["event"]["type"]["code"] == "110132"]
    name = walked.accounts.get(asker)
    reported = {line["detail"] for line in alerts if line["participants"][0]["user"] == name}
    refused = {"read": roles[1:], "write": roles[2:], "read-manage": ("write",)}
    assert reported == {
        f"the role is {name.partition('-')[0]}; the request requires {role}" for role in refused.get(name, ())
    }


def forgetful() -> APIRouter:
    router = APIRouter(dependencies=[Depends(lambda: None)])
    router.add_api_route("/forgotten", lambda: {})
    return router


def inheriting(*methods: str, own: Any = ()) -> APIRouter:
    router = APIRouter(dependencies=READERS)
    router.add_api_route("/inherited", lambda: {}, methods=[*methods], dependencies=own)
    return router


@pytest.mark.parametrize(
    ("routes", "reason"),
    [
        (forgetful().routes, "/forgotten does not declare"),
        ([Route("/plain", lambda request: Response())], "/plain does not declare"),
        ([WebSocketRoute("/socket", lambda socket: None)], "/socket does not declare"),
        ([Mount("/files", StaticFiles(directory="/"))], "/files does not declare"),
        ([Mount("/app", FastAPI())], "/app does not declare"),
        (inheriting("POST").routes, "/inherited may change something"),
        (inheriting("GET", "DELETE").routes, "/inherited may change something"),
        (inheriting("GET", "HEAD").routes, None),
        (inheriting("POST", own=READERS).routes, None),
        (inheriting("POST", own=WRITERS).routes, None),
    ],
)
def test_a_route_that_does_not_declare_whom_it_allows_stops_the_start(
    routes: list[BaseRoute], reason: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("node.web.application.ROUTES", routes)
    with nullcontext() if reason is None else pytest.raises(UsageError, match=reason):
        open_site(tmp_path / "root").close()


@pytest.mark.parametrize("dependencies", [(), ANYBODY], ids=["nobody", "anybody"])
def test_a_call_of_a_route_that_asks_nobody_is_refused(guarded: Site, dependencies: Any) -> None:
    async def forgotten(call: CurrentCall) -> dict[str, str]:
        return {"account": call.account.name}

    guarded.app.add_api_route("/forgotten", forgotten, dependencies=dependencies)
    assert guarded.client(auth=("admin", PASSWORD)).get("/forgotten").status_code == 401


def test_each_declaration_of_a_route_counts_and_the_strictest_is_reported() -> None:
    router = APIRouter(dependencies=READERS)
    router.add_api_route("/one", lambda: {}, dependencies=ADMINS)
    router.add_api_route("/two", lambda: {}, dependencies=ANYBODY)
    assert [declared(route) for route in router.routes] == [Allow("admin"), Allow("read")]


def test_of_two_credentials_the_header_counts(guarded: Site) -> None:
    session = guarded.client(headers={"Origin": guarded.origin})
    assert session.post("/login", data={"name": "admin", "password": PASSWORD}).status_code == 303
    asked = {
        "token of a reader": (f"Bearer {guarded.token('reader')}", 403),
        "wrong token": ("Bearer vxn_x", 401),
        "of no job": ("Bearer vxnjob_x", 401),
        "no scheme": ("x", 401),
    }
    for name, (header, status) in asked.items():
        assert session.get("/api/v1/trash", headers={"Authorization": header}).status_code == status, name
    assert session.get("/api/v1/trash").status_code == 200


SPELLINGS = (
    "/administration/", "//administration", "/./administration", "/static/../administration", "/Administration",
    "/static/..%2fadministration", "/static/%2e%2e/administration", "/shared/x/../../administration",
    "/healthz/../administration", "/login/..%2fadministration", "/administration;x", "/administration%00",
    "/administration%2f", "/shared/..%2f..%2fadministration", "/api/v1/jobs/x/../../trash", "/static//etc/passwd",
    "/static/..%2f..%2f..%2fetc%2fpasswd", "/api/v1/trash?x=/static/", "/api/v1/trash#/static/",
)  # fmt: skip


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS", "POST", "TRACE"])
def test_no_spelling_of_a_path_opens_anything(guarded: Site, method: str) -> None:
    for path in SPELLINGS:
        with raw(guarded) as connection:
            connection.sendall(request_head(method, path, "Content-Length: 0", "X-Original-URL: /healthz"))
            assert status_of(connection) in (307, 400, 401, 404, 405), path

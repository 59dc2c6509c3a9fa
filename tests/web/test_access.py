"""Who may ask for what: accounts, tokens, sessions, roles (fault W5)."""

import base64
import datetime as dt
import re
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext, suppress
from pathlib import Path
from unittest.mock import Mock

import httpx2
import pytest
from fastapi import Request
from starlette.requests import HTTPConnection

from node.control.care import rebuild_index
from node.errors import UsageError
from node.extensions.pages.operation import badges
from node.index.rows.records import Client, ListedToken, Share
from node.index.rows.scope import current_scope, within
from node.index.rules.people.accounts import MAX_SESSIONS, KnownAccount, NoSuchAccount, Role
from node.runtime.budget import Caller
from node.web import access
from node.web.access import READERS, Call, identified
from node.web.credentials import STEP_SECONDS, code_of, covers, digest, new_token
from node.web.errors import Forbidden, NotAuthenticated, ResourceNotFound, TooManyTries
from node.web.files import Streamed
from node.web.principal import COOKIE, Principal
from node.web.sessions import FREE_TRIES, MAX_CONCURRENT_HASHES, MAX_WAITING_HASHES
from tests import make
from tests.pace import idle_seconds, now
from tests.web.conftest import DEADLINE_SECONDS, PASSWORD, Site, StartSite, every_route, open_site

API = "/api/v1/studies"
BASIC = ("reader", PASSWORD)


def logged_in(site: Site, name: str) -> httpx2.Client:
    """A browser in which an account is logged in."""
    client = site.client(headers={"Origin": site.origin})
    assert client.post("/login", data={"name": name, "password": PASSWORD}).status_code == 303
    return client


def test_on_loopback_no_account_is_needed(empty: Site) -> None:
    assert empty.client().get(API).status_code == 200


def seconds_to_end(lines: Iterable[str]) -> float:
    """How long a stream goes on until it ends, or is cut, whichever comes first."""
    began = now()
    with suppress(httpx2.RemoteProtocolError):
        list(lines)
    return idle_seconds(began, 5)


ENDS: dict[str, tuple[str, Callable[[Site, str, httpx2.Client], object]]] = {
    "the account is removed": ("token", lambda site, token, _: site.services.index.accounts.remove("leaver")),
    "the token is revoked": (
        "token", lambda site, token, _: site.services.index.accounts.remove_token("leaver", token[-8:])
    ),
    "the role changes": ("token", lambda site, token, _: site.services.index.accounts.set_role("leaver", Role.WRITE)),
    "the password changes, by session": (
        "session", lambda site, token, _: site.account("leaver", Role.READ, "another long password")
    ),
    "the password changes": (
        "password", lambda site, token, _: site.account("leaver", Role.READ, "another long password")
    ),
    "the session ends": ("session", lambda site, token, client: client.post("/logout")),
    "the account leaves a project": (
        "password",
        lambda site, token, _: site.store.actions.by_name["remove-project-member"](
            name="left", account="leaver", who="test"
        ),
    ),
    "a project is removed": (
        "password", lambda site, token, _: site.store.actions.by_name["remove-project"](name="left", who="test")
    ),
}  # fmt: skip
"""What ends an event stream, and by what that was opened."""


@pytest.mark.slow
@pytest.mark.parametrize("end", ENDS)
def test_an_event_stream_ends_with_what_opened_it(guarded: Site, end: str) -> None:
    by, change = ENDS[end]
    guarded.account("leaver", Role.READ)
    if "project" in end:
        actions = guarded.store.actions.by_name
        actions["set-project"](name="left", who="test")
        actions["set-project-member"](name="left", account="leaver", role="read", who="test")
    token = guarded.token("leaver")
    if by == "session":
        client = logged_in(guarded, "leaver")
    elif by == "token":
        client = guarded.client(headers={"Authorization": f"Bearer {token}"})
    else:
        client = guarded.client(auth=("leaver", PASSWORD))
    with client.stream("GET", "/api/v1/events") as answer:
        lines = answer.iter_lines()
        assert next(lines).startswith(":")
        change(guarded, token, client)
        assert seconds_to_end(lines) < 5


def test_a_person_is_led_to_the_form_and_back(guarded: Site) -> None:
    client = guarded.client(headers={"Accept": "text/html", "Origin": guarded.origin})
    answer = client.get("/studies/1.2.3?x=1")
    assert answer.status_code == 303
    assert answer.headers["location"] == "/login?next=%2Fstudies%2F1.2.3%3Fx%3D1"
    form = client.get(answer.headers["location"])
    assert form.status_code == 200
    assert "/studies/1.2.3?x=1" in form.text
    answer = client.post("/login", data={"name": "reader", "password": PASSWORD, "next": "/studies/1.2.3?x=1"})
    assert answer.headers["location"] == "/studies/1.2.3?x=1"


def test_an_open_page_whose_session_has_ended_is_led_back_to_itself_without_its_search(guarded: Site) -> None:
    current = f"{guarded.origin}/studies/1.2.3#words=schmidt"
    answer = guarded.client().get("/badges", headers={"HX-Request": "true", "HX-Current-URL": current})
    assert answer.headers["hx-redirect"] == "/login?next=%2Fstudies%2F1.2.3"


@pytest.mark.parametrize(
    "elsewhere", ["//evil.example", "/\\evil.example", "https://evil.example", "javascript:1", "/\r\nX: y"]
)
def test_the_login_leads_nowhere_else(guarded: Site, elsewhere: str) -> None:
    client = guarded.client(headers={"Origin": guarded.origin})
    answer = client.post("/login", data={"name": "reader", "password": PASSWORD, "next": elsewhere})
    assert answer.headers["location"] == "/"


def test_a_session_is_a_cookie_that_scripts_cannot_read(guarded: Site) -> None:
    client = guarded.client(headers={"Origin": guarded.origin})
    cookie = client.post("/login", data={"name": "reader", "password": PASSWORD}).headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=strict" in cookie
    assert client.get(API).status_code == 200


def test_a_logout_ends_the_session_on_the_server(guarded: Site) -> None:
    client = logged_in(guarded, "reader")
    value = client.cookies[COOKIE]
    assert client.post("/logout").status_code == 303
    assert guarded.client(cookies={COOKIE: value}).get(API).status_code == 401
    audited = guarded.audited("User Authentication")
    assert [(line["detail"], line["event"]["type"]["code"]) for line in audited] == [
        ("Login", "110122"), ("Logout", "110123"),
    ]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(
    ("paths", "looks"),
    [
        ([API], ((0, 200), (61, 401))),
        ([API], ((40, 200), (80, 200), (120, 200))),
        (["/news?since=0", "/badges", "/queue/rows", "/status/numbers"], ((20, 200), (40, 200), (59, 200), (61, 401))),
    ],
    ids=["not used", "used", "a page that is left open"],
)
def test_a_session_lasts_as_long_as_a_person_uses_it(
    start_site: StartSite, paths: list[str], looks: tuple[tuple[int, int], ...]
) -> None:
    site = start_site(authentication="always", session_hours=1)
    site.account("reader", Role.READ)
    client, access = logged_in(site, "reader"), site.app.state.access
    for minutes, status in looks:
        access.sessions.now = lambda minutes=minutes: dt.datetime.now(dt.UTC) + dt.timedelta(minutes=minutes)
        for path in paths:
            assert client.get(path).status_code == status, (minutes, path)


@pytest.mark.slow
def test_another_password_logs_out_and_shuts_out_the_old_one(guarded: Site) -> None:
    browser, script = logged_in(guarded, "reader"), guarded.client(auth=BASIC)
    assert script.get(API).status_code == 200
    assert script.get(API).status_code == 200  # not hashed again
    guarded.account("reader", Role.READ, "another horse battery")
    assert browser.get(API).status_code == 401
    assert script.get(API).status_code == 401


def test_an_account_that_is_removed_takes_its_tokens_and_sessions_along(guarded: Site) -> None:
    browser, token = logged_in(guarded, "reader"), guarded.token("reader")
    script = guarded.client(headers={"Authorization": f"Bearer {token}"})
    assert script.get(API).status_code == 200
    guarded.services.index.accounts.remove("reader")
    assert browser.get(API).status_code == 401
    assert script.get(API).status_code == 401


def test_a_token_opens_until_it_is_over_or_revoked(guarded: Site) -> None:
    now = dt.datetime.now(dt.UTC)
    good, over = guarded.token("reader", now + dt.timedelta(hours=1)), guarded.token("reader", now)

    def status(token: str) -> int:
        return guarded.client(headers={"Authorization": f"Bearer {token}"}).get(API).status_code

    assert (status(good), status(over), status("vxn_guess"), status("vxn_" + "A" * 3000)) == (200, 401, 401, 401)
    reported = [(line["detail"], line["outcome"]) for line in guarded.audited("User Authentication")]
    assert reported == [("a wrong or expired token", 4)], "once for one address"
    guarded.services.index.accounts.remove_token("reader", good[-8:])
    assert status(good) == 401


@pytest.mark.slow
def test_an_account_is_logged_in_in_so_many_browsers_and_the_oldest_gives_way(guarded: Site) -> None:
    access = guarded.app.state.access
    cookies = [access.sessions.log_in("reader", PASSWORD, "127.0.0.1") for _ in range(MAX_SESSIONS + 1)]
    statuses = [guarded.client(cookies={COOKIE: value}).get(API).status_code for value in (cookies[0], cookies[1])]
    assert statuses == [401, 200]


def test_no_secret_is_kept_as_it_is(guarded: Site) -> None:
    token = guarded.token("reader")
    value = logged_in(guarded, "reader").cookies[COOKIE]
    guarded.store.index.about.set("flushed", "yes")
    kept = b"".join(path.read_bytes() for path in guarded.root.glob("index.sqlite*"))
    for secret in (token, value, PASSWORD):
        assert secret.encode() not in kept


@pytest.mark.parametrize(
    "shown", ["Basic !!!", "Basic Zm9v", "Basic /w==", "Negotiate abc", "Bearer", "Basic " + "A" * 3000, "\xff"]
)
def test_credentials_that_make_no_sense_are_refused_also_where_none_are_needed(empty: Site, shown: str) -> None:
    assert empty.client().get(API, headers={b"Authorization": shown.encode("latin-1")}).status_code == 401


@pytest.mark.slow
def test_the_name_stays_after_a_wrong_password(guarded: Site) -> None:
    client = guarded.client(headers={"Origin": guarded.origin})
    answer = client.post("/login", data={"name": 'reader"><b>', "password": "wrong horse battery"})
    assert answer.status_code == 401
    assert 'value="reader&#34;&gt;&lt;b&gt;"' in answer.text
    assert "wrong horse" not in answer.text


def test_the_wrong_password_is_refused_and_audited_without_it(guarded: Site) -> None:
    assert guarded.client(auth=("reader", "wrong horse battery")).get(API).status_code == 401
    [line] = guarded.audited("User Authentication")
    assert line["outcome"] == 4
    assert line["participants"][0]["user"] == "reader"
    assert "wrong horse" not in (guarded.root / "audit.jsonl").read_text()


def test_a_proxy_makes_no_stranger_local(empty: Site) -> None:
    assert empty.client().get(API, headers={"X-Forwarded-For": "203.0.113.9"}).status_code == 401


def test_never_means_never(start_site: StartSite) -> None:
    site = start_site(authentication="never", trusted_proxies=("127.0.0.1",))
    assert site.client().get(API, headers={"X-Forwarded-For": "203.0.113.9"}).status_code == 200


def test_a_flood_of_tries_leaves_room_for_others(guarded: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("node.web.sessions.HASH_WAIT_SECONDS", 0.05)
    with guarded.app.state.access.sessions.passwords._turns.turn(Caller(), 1):  # as if a password were hashed now
        assert guarded.client(auth=BASIC).get(API).status_code == 429
        token = guarded.token("reader")
        assert guarded.client(headers={"Authorization": f"Bearer {token}"}).get(API).status_code == 200


def test_whoever_finds_too_many_waiting_is_refused_at_once(guarded: Site) -> None:
    held = guarded.app.state.access.sessions.passwords._turns._held
    held[""] = MAX_CONCURRENT_HASHES + MAX_WAITING_HASHES  # as if so many passwords were hashed, or waited for
    began = now()
    assert guarded.client(auth=BASIC).get(API).status_code == 429
    assert idle_seconds(began, 2) < 2


@pytest.mark.slow
def test_tries_at_once_are_no_more_than_one_by_one(guarded: Site) -> None:
    def guess(number: int) -> int:
        return guarded.client(auth=("reader", f"wrong horse {number:05d}")).get(API).status_code

    with ThreadPoolExecutor(20) as threads:
        statuses = list(threads.map(guess, range(20)))
    assert set(statuses) == {401, 429}
    assert statuses.count(401) <= FREE_TRIES


def test_an_address_that_a_stranger_claims_is_not_believed(guarded: Site) -> None:
    guarded.client(auth=("reader", "wrong"), headers={"X-Forwarded-For": "203.0.113.9"}).get(API)
    assert guarded.audited("User Authentication")[0]["participants"][0]["address"] == "127.0.0.1"


def test_a_trusted_proxy_says_whose_request_it_is_and_that_it_came_by_tls(start_site: StartSite) -> None:
    site = start_site(trusted_proxies=("127.0.0.1",))
    site.account("reader", Role.READ)
    headers = {"X-Forwarded-For": "203.0.113.9", "X-Forwarded-Proto": "https"}
    headers["Origin"] = site.origin.replace("http:", "https:")
    client = site.client(headers=headers)
    assert client.get(API).status_code == 401
    answer = client.post("/login", data={"name": "reader", "password": PASSWORD})
    assert answer.headers["set-cookie"].startswith("__Host-voxelnode=")
    assert "Secure" in answer.headers["set-cookie"]
    assert "strict-transport-security" in answer.headers
    value = answer.headers["set-cookie"].partition(";")[0].partition("=")[2]
    for name, status in (("__Host-voxelnode", 200), ("voxelnode", 401)):  # anybody on the way may set the second one
        assert site.client(headers={**headers, "Cookie": f"{name}={value}"}).get(API).status_code == status
    assert site.audited("User Authentication")[0]["participants"][0]["address"] == "203.0.113.9"


def scoped(site: Site, name: str, role: Role | None, *routes: str, project: str | None = None) -> dict[str, str]:
    """The header of a new token that may do less than its account."""
    token, now = new_token(), site.services.ingest.now()
    accounts = site.services.index.accounts
    accounts.add_token(name, token[-8:], digest(token), None, now, role=role, routes=routes, project=project)
    return {"Authorization": f"Bearer {token}"}


def test_a_token_does_no_more_than_its_role_and_its_account(guarded: Site) -> None:
    header, client = scoped(guarded, "admin", Role.WRITE), guarded.client()
    reported = client.get("/api/v1/account", headers=header).json()
    assert (reported["account"], reported["role"]) == ("admin", "write")
    assert client.get("/api/v1/quarantine", headers=header).status_code == 403
    guarded.services.index.accounts.set_role("admin", Role.READ)
    assert client.get("/api/v1/account", headers=header).json()["role"] == "read"
    with pytest.raises(UsageError, match="no higher one"):
        scoped(guarded, "admin", Role.WRITE)


def test_a_token_for_some_routes_opens_no_other(guarded: Site) -> None:
    header, client = scoped(guarded, "reader", None, "dicomweb", "/api/v1/studies"), guarded.client()
    for path in ("/dicom-web/studies", "/api/v1/studies", "/api/v1/studies/"):
        assert client.get(path, headers=header).status_code in (200, 204, 307, 404), path
    for path in ("/", "/account", "/api/v1/series", "/api/v1/events", "/metrics", "/dicom-webx", "/studies/1.2"):
        assert client.get(path, headers=header).status_code in (403, 404), path
    paths = {path for path, _ in every_route(guarded.app.routes)}
    open_paths = {path for path in paths if covers(["dicomweb", "/api/v1/studies"], path)}
    assert open_paths == {path for path in paths if path.startswith(("/dicom-web", "/wado", "/api/v1/studies"))}
    assert 0 < len(open_paths) < len(paths) / 2


def tokens_of(site: Site, name: str) -> list[ListedToken]:
    """The tokens of an account."""
    with site.store.index.reading() as index:
        return next(list(one.tokens) for one in index.accounts.listed() if one.name == name)


def test_the_last_use_of_a_token_is_written_once_a_minute(guarded: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    header, client = scoped(guarded, "reader", None), guarded.client()
    access, moments = guarded.app.state.access, []
    now = [dt.datetime.now(dt.UTC)]
    monkeypatch.setattr(access.sessions, "now", lambda: now[0])
    for seconds in (0, 20, 39, 2):
        now[0] += dt.timedelta(seconds=seconds)
        assert client.get(API, headers=header).status_code == 200
        moments.append(tokens_of(guarded, "reader")[0].used_at)
    assert moments[0] == moments[1] == moments[2] != moments[3]


def test_sessions_are_listed_and_ended(guarded: Site) -> None:
    one, two = logged_in(guarded, "reader"), logged_in(guarded, "reader")
    origin, page = {"Origin": guarded.origin}, one.get("/account").text
    assert page.count("127.0.0.1") >= 2
    assert "this one" in page
    newest = re.findall(r'name="session" value="(\d+)"', page)[0]
    end = "/account/sessions/end"
    logged_in(guarded, "writer").post(end, data={"session": newest}, headers=origin)
    token = guarded.client(headers=scoped(guarded, "reader", None))
    assert token.post(end, data={"session": newest}, headers=origin).status_code == 403
    assert two.get(API).status_code == 200, "another account, and a token, end none"
    assert one.post(end, data={"session": newest}, headers=origin).status_code == 303
    assert (one.get(API).status_code, two.get(API).status_code) == (200, 401)
    assert one.post(end, headers=origin).status_code == 303
    assert one.get(API).status_code == 401


@pytest.mark.slow
def test_a_long_answer_ends_with_what_opened_it(guarded: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(access, "CHECK_SECONDS", 0.05)
    guarded.account("leaver", Role.READ)
    header, pieces = scoped(guarded, "leaver", None), threading.Semaphore(1)

    def endless() -> Iterator[bytes]:
        while pieces.acquire(timeout=DEADLINE_SECONDS):
            yield bytes(1000)

    def answer() -> Streamed:
        return Streamed(endless(), 200, {})

    guarded.app.add_api_route("/endless", answer, response_model=None, dependencies=READERS)
    guarded.app.router.routes.insert(0, guarded.app.router.routes.pop())
    with guarded.client().stream("GET", "/endless", headers=header) as response:
        bodies = response.iter_raw()
        assert next(bodies)
        guarded.services.index.accounts.remove("leaver")
        pieces.release(100_000)
        with pytest.raises(httpx2.RemoteProtocolError):
            list(bodies)


def asked(path: str = API, *, headers: dict[str, str], **more: object) -> HTTPConnection:
    """A request with these headers; `more` is what routing has found."""
    raw = [(name.encode(), value.encode()) for name, value in headers.items()]
    scope = {"type": "http", "path": path, "headers": raw, "scheme": "http", "query_string": b""}
    return HTTPConnection({**scope, "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 1), **more})


def authorized(authorization: str) -> HTTPConnection:
    """A request with this header."""
    return asked(headers={"authorization": authorization})


@pytest.mark.parametrize("authentication", ["always", "never"])
def test_below_the_address_of_links_only_the_link_counts(start_site: StartSite, authentication: str) -> None:
    site = start_site(authentication=authentication)
    site.account("admin", Role.ADMIN)
    site.take(*make.ct_series(1, study_uid="1.2.3"))
    access, now = site.app.state.access, dt.datetime.now(dt.UTC)
    link = Share(0, "1.2.3", "", False, None, "writer", now, now + dt.timedelta(hours=1), 0, None)
    number = access._known._shares.make(digest("right"), link)
    headers = scoped(site, "admin", None) if authentication == "always" else {}

    def caller(token: str) -> Principal:
        headed = {name.lower(): value for name, value in headers.items()}
        return access.identify(asked(f"/shared/{token}", headers=headed, path_params={"share_token": token}))

    assert (caller("right").role, caller("right").share.id) == (Role.READ, number)
    with pytest.raises(ResourceNotFound, match="revoked"):
        caller("wrong")
    access._known._guessed_links.require_try = Mock(side_effect=TooManyTries(0.1))
    with pytest.raises(TooManyTries):
        caller("wrong")
    assert caller("right").share.id == number, "guesses of one lock nobody out whose link is right"


@pytest.mark.parametrize(("route", "is_extended"), [(badges, False), (None, True)], ids=["polled", "asked for"])
def test_what_programs_poll_extends_no_session(guarded: Site, route: object, is_extended: bool) -> None:
    access, accounts = guarded.app.state.access, guarded.services.index.accounts
    value = access.sessions.log_in("reader", PASSWORD, "127.0.0.1")
    end = accounts.by_session(digest(value), access.sessions.now()).expires_at
    late = end - access.sessions.time / 4
    access.sessions.now = lambda: late
    assert access.identify(asked(headers={"cookie": f"{COOKIE}={value}"}, endpoint=route)).name == "reader"
    expected = late + access.sessions.time if is_extended else end
    assert accounts.by_session(digest(value), late).expires_at == expected


def test_a_token_of_a_job_opens_its_address_alone(guarded: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    access, token = guarded.app.state.access, "voxeljob_x"
    monkeypatch.setattr(access._known._jobs, "knows_token", lambda job, given: (job, given) == ("7", token))

    def caller(path: str, job: str, given: str = token) -> Principal:
        return access.identify(asked(path, headers={"authorization": f"Bearer {given}"}, path_params={"job": job}))

    assert (caller("/api/v1/jobs/7", "7").name, caller("/api/v1/jobs/7", "7").role) == ("job 7", Role.READ)
    for path, job, given in (
        ("/api/v1/jobs/8", "8", token),
        ("/api/v1/jobs/8", "7", token),
        (API, "7", token),
        ("/api/v1/jobs/7", "7", f"{token}x"),
    ):
        with pytest.raises(NotAuthenticated):
            caller(path, job, given)


@pytest.mark.parametrize("is_marked", [True, False], ids=["for projects", "for the whole node"])
def test_a_limited_account_sees_its_projects_where_routes_are_for_them_alone(guarded: Site, is_marked: bool) -> None:
    act = guarded.store.actions.by_name
    act["set-project"](name="trial", who="test")
    act["set-project-member"](name="trial", account="reader", role="read", who="test")
    header = scoped(guarded, "reader", None)["Authorization"]
    [route] = [
        route for path, route in every_route(guarded.app.routes) if path == ("/badges" if is_marked else "/queue")
    ]
    request = asked(headers={"authorization": header}, app=guarded.app, route=route)
    with within(None):
        if not is_marked:
            with pytest.raises(Forbidden, match="sees its projects only"):
                identified(request)
            return
        caller = identified(request)
        assert current_scope() == caller.scope
        assert (caller.scope is not None, caller.name) == (True, "reader")
    access = guarded.app.state.access
    assert access.is_still(request, caller)
    act["remove-project-member"](name="trial", account="reader", who="test")
    assert not access.is_still(request, caller)


@pytest.mark.parametrize(
    ("study", "series", "answer"),
    [
        ("1.2.3", None, None),
        ("1.2.3", "1.2.3.1", None),
        ("1.2.3", "1.2.4.1", ResourceNotFound),
        ("1.2.4", None, ResourceNotFound),
        ("1.2.4", "1.2.4.1", ResourceNotFound),
        ("1.2.9", None, ResourceNotFound),
        ("1.2.5", None, Forbidden),
        ("1.2.5", "1.2.5.1", Forbidden),
    ],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_a_member_changes_what_it_may_and_does_not_learn_of_the_rest(
    start_site: StartSite, study: str, series: str | None, answer: type[Exception] | None
) -> None:
    site = start_site(authentication="always")
    site.account("member", Role.WRITE)
    act = site.store.actions.by_name
    for number, project, role in ((3, "written", "write"), (4, "other", None), (5, "read", "read")):
        site.take(*make.ct_series(1, study_uid=f"1.2.{number}", series_uid=f"1.2.{number}.1"))
        act["set-project"](name=project, who="test")
        act["change-project-contents"](name=project, add=[(f"1.2.{number}",)], who="test")
        if role is not None:
            act["set-project-member"](name=project, account="member", role=role, who="test")
    request = asked(headers={"authorization": scoped(site, "member", None)["Authorization"]})
    caller = site.app.state.access.identify(request)
    call = Call(request, site.services, caller, site.app.state.access.trail.of("member", "127.0.0.1"))
    with nullcontext() if answer is None else pytest.raises(answer), call.changing((study, series)):
        assert answer is None, "it was let in"
    if answer is not ResourceNotFound:
        assert call.may_change(study, series) is (answer is None)


def test_a_second_factor_is_set_up_once_and_each_code_opens_once(guarded: Site) -> None:
    accounts, access = guarded.services.index.accounts, guarded.app.state.access
    now = [dt.datetime.now(dt.UTC)]
    access.sessions.now = lambda: now[0]

    def known() -> KnownAccount:
        account = accounts.by_name("reader")
        assert account is not None
        return account

    def code() -> str:
        return code_of(known().totp_secret or "", int(now[0].timestamp()) // STEP_SECONDS).decode()

    def opened(given: str) -> int:
        """How many recovery codes are told with the session."""
        return len(access.sessions.give_code(known(), given, Client()).recovery_codes)

    access.sessions.begin_factor(known())
    assert opened(code()) == 10
    with pytest.raises(NotAuthenticated):
        opened(code())
    now[0] += dt.timedelta(seconds=STEP_SECONDS)
    assert opened(code()) == 0, "those of the first code stay"
    with pytest.raises(NotAuthenticated, match="second factor"):
        access.identify(authorized("Basic " + base64.b64encode(f"reader:{PASSWORD}".encode()).decode()))
    waiting = access.sessions.log_in("reader", PASSWORD, "127.0.0.1")
    assert access.sessions.awaiting_factor(waiting) is not None
    access.sessions.end(waiting)
    assert access.sessions.awaiting_factor(waiting) is None
    accounts.remove_factor("reader")
    assert (known().has_factor, known().totp_secret) == (False, None)
    with pytest.raises(NoSuchAccount):
        accounts.remove_factor("nobody")


def test_guesses_of_others_end_no_answer_under_way(guarded: Site) -> None:
    access, caller = guarded.app.state.access, Principal("password", "reader", Role.READ)
    access.sessions.passwords.check("reader", PASSWORD, "127.0.0.1")
    request = authorized("Basic " + base64.b64encode(f"reader:{PASSWORD}".encode()).decode())
    for _ in range(FREE_TRIES + 3):
        with suppress(TooManyTries):
            access.sessions.passwords._guesses.require_try(("reader", "127.0.0.1"))
    assert access.is_still(request, caller)
    guarded.account("reader", Role.READ, "another long password")
    assert not access.is_still(request, caller)


@pytest.mark.parametrize("is_known", [False, True], ids=["first", "has matched before"])
def test_the_right_password_waits_too_while_it_is_guessed(guarded: Site, is_known: bool) -> None:
    """Else the answer would say which guess is right, without a limit."""
    access, address = guarded.app.state.access, "192.0.2.1"
    if is_known:
        access.sessions.passwords.check("reader", PASSWORD, address)
    for _ in range(FREE_TRIES):
        access.sessions.passwords._guesses.require_try(("reader", address))
    for password in (PASSWORD, "wrong"):
        with pytest.raises(TooManyTries):
            access.sessions.passwords.check("reader", password, address)
    assert access.sessions.passwords.check("reader", PASSWORD, "127.0.0.1").name == "reader", "from elsewhere"


@pytest.mark.parametrize(
    ("account", "lower", "found"),
    [
        (Role.READ, None, Role.READ),
        (Role.WRITE, None, Role.WRITE),
        (Role.WRITE, Role.READ, Role.READ),
        (Role.ADMIN, None, Role.WRITE),
        (Role.ADMIN, Role.ADMIN, Role.WRITE),
        (Role.ADMIN, Role.READ, Role.READ),
    ],
)
@pytest.mark.parametrize("is_limited", [False, True])
def test_a_token_for_a_project_has_the_role_of_its_account_and_at_most_write(
    guarded: Site, account: Role, lower: Role | None, found: Role, is_limited: bool
) -> None:
    guarded.account("holder", account)
    act = guarded.store.actions.by_name
    act["set-project"](name="trial", who="test")
    if is_limited and account is not Role.ADMIN:
        act["set-project-member"](
            name="trial", account="holder", role="read" if account is Role.READ else "manage", who="test"
        )
    header = scoped(guarded, "holder", lower, project="trial")
    caller = guarded.app.state.access.identify(authorized(header["Authorization"]))
    assert (caller.name, caller.role) == ("holder", found)
    assert caller.scope is not None
    assert caller.scope.only == "trial" if caller.scope.account else caller.scope.projects == ("trial",)


def test_the_last_piece_of_an_upload_is_not_taken_of_an_account_that_is_gone(
    guarded: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(access, "CHECK_SECONDS", 0.0)
    guarded.account("leaver", Role.WRITE)
    header, taken, begun, gone = scoped(guarded, "leaver", None), [], threading.Event(), threading.Event()

    async def take(request: Request) -> None:
        begun.set()
        taken.append(await request.body())

    guarded.app.add_api_route("/take", take, methods=["POST"], dependencies=READERS)
    guarded.app.router.routes.insert(0, guarded.app.router.routes.pop())

    def body() -> Iterator[bytes]:
        yield b"12"
        assert gone.wait(DEADLINE_SECONDS)
        yield b"3"

    def remove() -> None:
        assert begun.wait(DEADLINE_SECONDS)
        guarded.services.index.accounts.remove("leaver")
        gone.set()

    remover = threading.Thread(target=remove)
    remover.start()
    with suppress(httpx2.TransportError):
        guarded.network_client().post("/take", headers=header | {"Content-Length": "3"}, content=body())
    remover.join()
    assert taken == []


@pytest.mark.slow
def test_a_session_of_a_password_alone_touches_no_second_factor(guarded: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    accounts, access = guarded.services.index.accounts, guarded.app.state.access
    reader = logged_in(guarded, "reader")

    def account() -> KnownAccount:
        known = accounts.by_name("reader")
        assert known is not None
        return known

    def secret() -> str:
        return account().totp_secret or ""

    def posted(path: str, **form: str) -> httpx2.Response:
        return reader.post(f"/account/factor{path}", data=form, follow_redirects=False)

    with monkeypatch.context() as plain:
        plain.setitem(sys.modules, "segno", None)
        begun = posted("", current=PASSWORD).text
        assert (secret() in begun, "voxelnode[second-factor]" in begun) == (True, True)
    wrong = posted("/confirm", code="no code")
    assert (wrong.status_code, secret() in wrong.text) == (401, False)
    with monkeypatch.context() as demanding:
        demanding.setattr(access.sessions, "demands_factor", lambda known: True)
        assert reader.get(API).status_code == 401
        assert 'name="password"' in reader.get("/login/factor").text
        waiting = [logged_in(guarded, "reader") for _ in range(2)]
        assert secret() in waiting[0].get("/login/factor").text
        for _ in range(MAX_SESSIONS):
            access.sessions.log_in("reader", PASSWORD, "127.0.0.1")
    assert (waiting[1].get(API).status_code, reader.get(API).status_code) == (401, 200)
    code = code_of(secret(), int(access.sessions.now().timestamp()) // STEP_SECONDS).decode()
    recovery = re.findall(r"(?:[a-z2-7]{4}-){3}[a-z2-7]{4}", posted("/confirm", code=code).text)
    assert posted("/remove", current=PASSWORD, code=code).status_code == 400, "the code was used to set the factor up"
    with monkeypatch.context() as demanding:
        demanding.setattr(access.sessions, "demands_factor", lambda known: True)
        assert posted("/remove", current=PASSWORD, code=recovery[0]).status_code == 403
    assert account().has_factor
    assert posted("/remove", current=PASSWORD, code=recovery[0]).status_code == 303
    assert not account().has_factor


@pytest.mark.slow
def test_a_second_factor_is_demanded_and_no_code_is_replayed(start_site: StartSite) -> None:
    site = start_site(authentication="always", second_factor="admin")
    site.account("admin", Role.ADMIN)
    site.account("reader", Role.READ)
    accounts, access = site.services.index.accounts, site.app.state.access
    now = [dt.datetime.now(dt.UTC)]
    access.sessions.now = lambda: now[0]

    def begun() -> httpx2.Client:
        client = site.client(headers={"Origin": site.origin})
        answer = client.post("/login", data={"name": "admin", "password": PASSWORD})
        assert answer.headers["location"] == "/login/factor?next=%2F"
        assert client.get(API).status_code == 401, "the password alone opens nothing"
        return client

    def given(client: httpx2.Client, code: str) -> httpx2.Response:
        return client.post("/login/factor", data={"code": code})

    def code() -> str:
        known = accounts.by_name("admin")
        return code_of(known.totp_secret, int(now[0].timestamp()) // STEP_SECONDS).decode()

    first = begun()
    assert "QR code" in first.get("/login/factor").text
    assert given(first, "000 000" if code() != "000000" else "111111").status_code == 401
    recovery = re.findall(r"(?:[a-z2-7]{4}-){3}[a-z2-7]{4}", given(first, code()).text)
    assert (len(recovery), first.get(API).status_code) == (10, 200)
    second = begun()
    assert "QR code" not in second.get("/login/factor").text
    assert given(second, code()).status_code == 401, "the code was used to set the factor up"
    now[0] += dt.timedelta(seconds=STEP_SECONDS)
    assert (given(second, code()).status_code, second.get(API).status_code) == (303, 200)
    assert given(begun(), code()).status_code == 401
    assert given(begun(), recovery[0].upper()).status_code == 303
    assert given(begun(), recovery[0]).status_code == 401
    now[0] += dt.timedelta(days=400)
    assert given(begun(), code()).status_code == 303
    now[0] -= dt.timedelta(days=400) - dt.timedelta(seconds=STEP_SECONDS)
    assert given(begun(), code()).status_code == 303, "the step before was noted while the clock was ahead"
    assert given(begun(), code()).status_code == 401
    assert site.client(auth=("admin", PASSWORD)).get(API).status_code == 401
    assert site.client(auth=("reader", PASSWORD)).get(API).status_code == 200
    site.services.actions["remove-factor"](name="admin", who="test")
    assert second.get(API).status_code == 401
    guesser = begun()
    assert {given(guesser, f"{number:06}").status_code for number in range(FREE_TRIES + 2)} == {401, 429}


@pytest.mark.slow
def test_a_second_factor_and_its_recovery_codes_outlive_a_rebuild_of_the_index(tmp_path: Path) -> None:
    root = tmp_path / "root"
    site = open_site(root, authentication="always")
    site.account("admin", Role.ADMIN)
    access = site.server._app.state.access
    access.sessions.begin_factor(site.services.index.accounts.by_name("admin"))
    known = site.services.index.accounts.by_name("admin")
    code = code_of(known.totp_secret or "", int(access.sessions.now().timestamp()) // STEP_SECONDS).decode()
    codes = access.sessions.give_code(known, code, Client()).recovery_codes
    settings = site.services.settings
    site.close()
    rebuild_index(settings)
    site = open_site(root, authentication="always")
    again = logged_in(site, "admin")
    assert [again.post("/login/factor", data={"code": one}).status_code for one in (code, codes[0])] == [401, 303]
    assert again.get(API).status_code == 200
    site.close()

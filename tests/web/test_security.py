"""What every request must be, and every response carries: hosts, origins, headers, limits (faults W3, W4, W5)."""

import gc
import gzip
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest
from pydantic import ValidationError
from sqlalchemy import Connection
from structlog.testing import capture_logs

from node.api import Role, UsageError, Web
from node.control import web
from node.index.look.finder import Finder
from node.runtime.budget import current_caller
from node.runtime.logs import ALLOWED_FIELDS
from node.web import middleware
from node.web.headers import HEADERS
from node.web.server import WebServer
from tests.pace import idle_seconds, now
from tests.protocol.conftest import keys  # noqa: F401
from tests.web.conftest import PASSWORD, Site, StartSite, until

API = "/api/v1/studies"
CHANGE = "/api/v1/studies/1.2/reconvert"
"""A request that changes something; 404, because nothing is there."""


@pytest.mark.parametrize("path", [API, "/api/v1/nothing", "/healthz", "/login", "/", "/static/nothing"])
def test_every_response_carries_the_headers(empty: Site, path: str) -> None:
    answer = empty.client().get(path)
    for name in HEADERS:
        assert name.lower() in answer.headers, name
    assert "server" not in answer.headers
    assert answer.headers["cache-control"] == "no-store" or path != API


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8080", "127.0.0.1.evil.example", "localhost.evil.example", "", "[::1", "a b"]
)
def test_a_request_under_a_foreign_name_is_refused(empty: Site, host: str) -> None:
    with raw(empty) as connection:
        connection.sendall(f"GET {API} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
        assert status_of(connection) in (400, 403)


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:8080", "127.0.0.1", "192.0.2.7:8080", "[::1]:8080"])
def test_a_request_for_an_address_or_this_machine_is_taken(empty: Site, host: str) -> None:
    assert empty.client(headers={"Host": host}).get(API).status_code == 200
    assert empty.client(headers={"Host": socket.gethostname()}).get(API).status_code == 200


def test_a_name_of_the_configuration_is_taken(start_site: StartSite) -> None:
    site = start_site(allowed_hosts=("pacs.example.org",))
    assert site.client(headers={"Host": "pacs.example.org:8443"}).get(API).status_code == 200
    proxied = {"Host": "127.0.0.1", "Origin": "https://pacs.example.org"}
    assert site.client(headers=proxied).post(CHANGE).status_code == 404


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:1"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Sec-Fetch-Site": "cross-site", "Origin": "https://evil.example"},
        {"Cookie": "voxelnode=x"},
    ],
    ids=str,
)
def test_a_page_elsewhere_changes_nothing(empty: Site, headers: dict[str, str]) -> None:
    answer = empty.client(headers=headers).post(CHANGE)
    assert answer.status_code == 403
    assert "page of another site" in answer.json()["detail"]


def test_a_page_of_another_scheme_or_port_is_a_page_elsewhere(start_site: StartSite) -> None:
    site = start_site(allowed_hosts=("pacs.example.org", "other.example.org:8443"))

    ours, pacs = site.origin.partition("//")[2], "pacs.example.org"
    for origin, host, status in (
        (f"https://{ours}", ours, 403),
        ("http://127.0.0.1", ours, 403),
        ("http://localhost", ours, 403),
        (f"http://{socket.gethostname().lower()}", ours, 403),
        (f"{site.origin}0", ours, 403),
        ("http://pacs.example.org", ours, 403),
        ("http://pacs.example.org", pacs, 404),
        ("http://pacs.example.org", f"{pacs}:80", 404),
        ("https://pacs.example.org", ours, 404),
        ("https://pacs.example.org:8443", f"{pacs}:8443", 404),
        ("https://other.example.org:8443", ours, 404),
        *((elsewhere, host, 403) for host in (ours, pacs) for elsewhere in (
            "https://pacs.example.org:9443", "https://other.example.org", "https://",
        )),
    ):  # fmt: skip
        answer = site.client(headers={"Origin": origin, "Host": host}).post(CHANGE)
        assert answer.status_code == status, (origin, host)


@pytest.mark.slow
def test_our_pages_and_scripts_may_change_things(empty: Site) -> None:
    for headers in ({}, {"Origin": empty.origin}, {"Sec-Fetch-Site": "same-origin"}, {"Sec-Fetch-Site": "none"}):
        assert empty.client(headers=headers).post(CHANGE).status_code == 404


def test_no_page_elsewhere_may_read_or_ask_what_it_may_send_unless_it_is_configured(start_site: StartSite) -> None:
    closed, opened = start_site(), start_site(cors_origins=("https://viewer.example.org",))
    asked = {
        "Access-Control-Request-Method": "GET",
        "Access-Control-Request-Headers": "authorization,if-none-match,range,accept",
    }
    friend, evil = {"Origin": "https://viewer.example.org"}, {"Origin": "https://evil.example"}
    asking = [opened.client().options("/dicom-web/studies", headers=asked | origin) for origin in (friend, evil)]
    assert [answer.status_code for answer in asking] == [200, 400]
    for answer, allowed in (
        (closed.client().get(API, headers=friend), None),
        (opened.client().get(API, headers=friend), "https://viewer.example.org"),
        (opened.client().get(API, headers=evil), None),
        (asking[0], "https://viewer.example.org"),
        (asking[1], None),
    ):
        assert answer.headers.get("access-control-allow-origin") == allowed
        assert "access-control-allow-credentials" not in answer.headers
    for every in ("*", "https://*", "https://*.example.org"):
        with pytest.raises(ValidationError):
            Web(cors_origins=(every,))


def test_a_page_of_a_friend_has_no_more_rights_than_the_token_that_it_shows(start_site: StartSite) -> None:
    site = start_site(cors_origins=("https://viewer.example.org",))  # on loopback: nobody else needs an account
    site.account("reader", Role.READ)
    page = {"Origin": "https://viewer.example.org", "Sec-Fetch-Site": "cross-site"}
    for headers in (page, {"Origin": "https://viewer.example.org"}, {**page, "Cookie": "voxelnode=x"}):
        assert site.client(headers=headers).get(API).status_code == 401
        assert site.client(headers=headers).post(CHANGE).status_code == 403
        assert site.client(headers=headers).delete("/api/v1/studies/1.2").status_code == 403
        assert site.client(headers=headers).post("/login", data={"name": "a", "password": "b"}).status_code == 403
    basic = site.client(headers=page, auth=("reader", PASSWORD))
    assert (basic.get(API).status_code, basic.post(CHANGE).status_code) == (401, 403)
    script = site.client(headers={**page, "Authorization": f"Bearer {site.token('reader')}"})
    assert script.get(API).status_code == 200
    refused = script.post(CHANGE)
    assert (refused.status_code, "role read" in refused.json()["detail"]) == (403, True)
    ours = site.client(headers={"Origin": site.origin, "Sec-Fetch-Site": "same-origin"})
    assert (ours.get(API).status_code, ours.post(CHANGE).status_code) == (200, 404)


@pytest.mark.parametrize(
    "path", ["/api/v1/studies/..%2f..%2fetc%2fpasswd", "/api/v1/instances/..%2f/file", "/api/v1/volumes/..%5c"]
)
def test_a_path_in_the_place_of_a_uid_finds_nothing(empty: Site, path: str) -> None:
    assert empty.client().get(path).status_code in (404, 422)


def test_line_breaks_in_the_path_come_back_in_no_header(empty: Site) -> None:
    answer = empty.network_client().get("/studies/1%0d%0aX-Evil:%201", headers={"Accept": "text/html"})
    assert "x-evil" not in answer.headers
    assert answer.status_code in (303, 404)


def test_a_body_that_turns_out_too_large_is_cut_off(empty: Site) -> None:
    with raw(empty) as connection:
        form = "Content-Type: application/x-www-form-urlencoded\r\nTransfer-Encoding: chunked"
        connection.sendall(request_head("POST", "/login", form))
        chunk = b"10000\r\n" + b"a" * 65536 + b"\r\n"
        try:
            for _ in range(middleware.MAX_BODY_BYTES // 65536 + 40):
                connection.sendall(chunk)
        except ConnectionError:
            pass
        assert status_of(connection) in (413, None)


def test_there_are_no_more_streams_than_allowed_and_places_come_back(site: Site) -> None:
    streams = site.app.state.streams
    streams.limits = replace(streams.limits, places=3)
    with held_connections(site, 8) as held:
        for connection in held:
            connection.sendall(request_head("GET", "/api/v1/events") * 2)  # the second waits, and ends with the first
        assert sorted(str(status_of(connection)) for connection in held) == ["200"] * 3 + ["503"] * 5
    until(lambda: streams.count() == 0, 8)
    with site.network_client().stream("GET", "/api/v1/events") as answer:
        assert answer.status_code == 200


@pytest.fixture
def holding(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Queries of the account `reader` keep their turns until this is set, or their client has gone."""
    go_on, turn = threading.Event(), Finder.turn

    @contextmanager
    def held(finder: Finder, *stop: Callable[[], bool]) -> Iterator[Connection]:
        caller = current_caller()
        with turn(finder, *stop) as connection:
            while caller.name == "reader" and not (go_on.wait(0.02) or caller.gone.is_set()):
                pass
            yield connection

    monkeypatch.setattr(Finder, "turn", held)
    yield go_on
    go_on.set()


def test_requests_of_one_token_keep_nobody_else_waiting(site: Site, holding: threading.Event) -> None:
    heads = {}
    for name, role in (("reader", Role.READ), ("other", Role.READ), ("chief", Role.ADMIN)):
        site.account(name, role)
        authorization = f"Authorization: Bearer {site.token(name)}"
        heads[name] = request_head("GET", "/dicom-web/studies", authorization, "Accept: application/dicom+json")
    turns = site.services.index._finder._turns
    with held_connections(site, 50) as flood:
        for connection in flood:
            connection.sendall(heads["reader"])
        until(lambda: turns._running["reader"] == 2)
        for name in ("other", "chief"):
            with raw(site) as connection:
                connection.sendall(heads[name])
                assert status_of(connection) in (200, 204), name
        holding.set()
        assert {status_of(connection) for connection in flood} <= {200, 204, 503}


def test_work_for_a_client_ends_with_it(site: Site, holding: threading.Event) -> None:
    site.account("reader", Role.READ)
    turns = site.services.index._finder._turns
    with raw(site) as connection:
        connection.sendall(request_head("GET", "/dicom-web/studies", f"Authorization: Bearer {site.token('reader')}"))
        until(lambda: turns._running["reader"] == 1)
    until(lambda: not turns._running["reader"])
    assert not holding.is_set()


def test_a_compressed_body_is_not_taken(empty: Site) -> None:
    body = gzip.compress(b"name=x&password=y")
    headers = {"Content-Encoding": "gzip", "Content-Type": "application/x-www-form-urlencoded"}
    assert empty.client().post("/login", content=body, headers=headers).status_code == 415


def test_a_body_that_does_not_come_is_not_waited_for(site: Site) -> None:
    patience = next(one for one in site.app.user_middleware if one.cls is middleware.BodyLimits)
    patience.kwargs["patience_seconds"] = 0.2
    site.app.middleware_stack = None  # made anew with the next request
    with raw(site) as connection:
        form = "Content-Type: application/x-www-form-urlencoded\r\nContent-Length: 100"
        connection.sendall(request_head("POST", "/", form) + b"words=")
        assert status_of(connection) == 408


def test_a_connection_that_asks_for_nothing_is_closed(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("node.web.server.HEAD_SECONDS", 0.3)
    with raw(site) as connection:
        connection.sendall(b"GET /heal")
        assert connection.recv(1) == b""
    assert site.network_client().get("/healthz").status_code == 200


def test_those_who_connect_and_ask_for_nothing_keep_nobody_out(
    start_site: StartSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("node.web.server.MAXIMUM_CONNECTIONS", 4)
    site = start_site()
    with held_connections(site, 20):
        for _ in range(3):
            with raw(site) as asking:
                asking.sendall(request_head("GET", "/healthz"))
                assert status_of(asking) == 200


@pytest.mark.slow
def test_connections_that_never_end_their_handshake_are_closed(
    start_site: StartSite,
    keys: Path,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("node.web.server.HEAD_SECONDS", 0.2)
    monkeypatch.setattr("node.web.server.MAXIMUM_CONNECTIONS", 4)
    site = start_site(tls_certificate=keys / "server.pem", tls_key=keys / "server.key")
    with held_connections(site, 9) as held:
        answer = site.network_client(verify=False).get("/healthz", headers={"Connection": "close"})
        assert answer.status_code == 200, "they keep nobody out"
        until(lambda: site.server._server._budget.count() <= 4)
        assert held[-1].recv(1) == b""
    until(lambda: site.server._server._budget.count() == 0)


@pytest.mark.slow
def test_the_server_sleeps_while_nobody_asks_and_ends_at_once(site: Site) -> None:
    ticks: list[int] = []
    server = site.server._server
    tick = server.on_tick

    async def counted(counter: int) -> bool:
        ticks.append(counter)
        return await tick(counter)

    server.on_tick = counted
    assert site.url  # it listens from now on
    threading.Event().wait(2.2)
    assert 1 <= len(ticks) <= 4
    began = now()
    site.server.stop(5)
    assert idle_seconds(began, 0.8) < 0.8
    assert not site.server._thread.is_alive()


def test_one_address_cannot_take_every_place(start_site: StartSite, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("node.web.server.PER_ADDRESS", 2)
    site = start_site()
    with held_connections(site, 3) as held:
        for connection in held:
            connection.sendall(request_head("GET", "/api/v1/events"))
        assert sorted(str(status_of(connection)) for connection in held) == ["200", "200", "503"]
        with raw(site, "127.0.0.2") as elsewhere:
            elsewhere.sendall(request_head("GET", "/api/v1/events"))
            assert status_of(elsewhere) == 200


def test_a_trusted_proxy_brings_more_than_one_address(start_site: StartSite, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("node.web.server.PER_ADDRESS", 1)
    with held_connections(start_site(trusted_proxies=("127.0.0.0/8",), authentication="never"), 4) as held:
        for number, connection in enumerate(held):
            connection.sendall(request_head("GET", "/api/v1/events", f"X-Forwarded-For: 203.0.113.{number % 3}"))
            assert status_of(connection) == (200 if number < 3 else 503)


def test_a_stream_does_not_hold_up_the_end(start_site: StartSite) -> None:
    site = start_site()
    with site.network_client().stream("GET", "/api/v1/events") as answer:
        assert answer.status_code == 200
        began = now()
        site.server.stop(10)
        assert idle_seconds(began, 5) < 5
    assert not site.server._thread.is_alive()


def test_a_client_in_the_middle_of_a_body_does_not_hold_up_the_end(site: Site) -> None:
    with raw(site) as connection:
        form = "Content-Type: application/x-www-form-urlencoded\r\nContent-Length: 100"
        connection.sendall(request_head("POST", "/login", form) + b"name=")
        until(lambda: bool(site.server._server.server_state.tasks))
        began = now()
        site.server.stop(0.5)
        assert idle_seconds(began, 4) < 4
    assert not site.server._thread.is_alive()


@pytest.mark.slow
def test_who_needs_an_account_and_shows_none_cannot_send_long(guarded: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("node.web.server.HEAD_SECONDS", 0.3)
    with raw(guarded) as connection:
        head = "Content-Type: multipart/related; type=application/dicom; boundary=x\r\nTransfer-Encoding: chunked"
        connection.sendall(request_head("POST", "/dicom-web/studies", head))
        assert status_of(connection) == 401
        with pytest.raises(ConnectionError):
            send_for(connection, 10)


def test_an_address_that_is_taken_is_reported_with_the_remedy(empty: Site) -> None:
    port = int(empty.url.rpartition(":")[2])
    with pytest.raises(UsageError, match=r"\[web\] host and port"):
        web.listening(Web(port=port))


def test_https_speaks_tls_1_2_and_newer_with_forward_secrecy(
    start_site: StartSite,
    keys: Path,  # noqa: F811
) -> None:
    site = start_site(tls_certificate=keys / "server.pem", tls_key=keys / "server.key")
    assert site.url.startswith("https://")
    answer = site.network_client(verify=ssl.create_default_context(cafile=str(keys / "ca.pem"))).get("/healthz")
    assert answer.status_code == 200
    assert answer.headers["strict-transport-security"].startswith("max-age=")
    port = int(site.url.rpartition(":")[2])
    old = ssl.create_default_context(cafile=str(keys / "ca.pem"))
    old.set_ciphers("AES256-GCM-SHA384")
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    with socket.create_connection(("127.0.0.1", port), 10) as plain, pytest.raises((ssl.SSLError, ConnectionError)):
        old.wrap_socket(plain, server_hostname="localhost")


@pytest.mark.parametrize("files", [{"tls_key": "x"}, {"tls_certificate": "/nothing.pem"}])
def test_tls_files_that_do_not_fit_are_named(empty: Site, files: dict[str, str]) -> None:
    with pytest.raises(UsageError, match=r"\[web\] tls_"):
        WebServer(Web(port=0, **files), empty.app)


@contextmanager
def held_connections(site: Site, count: int) -> Iterator[list[socket.socket]]:
    """Connections that are open together."""
    with ExitStack() as stack:
        yield [stack.enter_context(raw(site)) for _ in range(count)]


def raw(site: Site, address: str = "127.0.0.1") -> socket.socket:
    """A connection that speaks in bytes."""
    port = int(site.url.rpartition(":")[2])
    return socket.create_connection(("127.0.0.1", port), timeout=10, source_address=(address, 0))


def send_for(connection: socket.socket, seconds: float) -> None:
    """Send one byte after the other, as chunks."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        connection.sendall(b"1\r\na\r\n")


def request_head(method: str, path: str, *headers: str) -> bytes:
    return "\r\n".join([f"{method} {path} HTTP/1.1", "Host: 127.0.0.1", *headers, "", ""]).encode()


def status_of(connection: socket.socket) -> int | None:
    """Status of the answer; None when the server hung up."""
    data = b""
    while b"\r\n" not in data:
        try:
            more = connection.recv(4096)
        except ConnectionError:
            return None
        if not more:
            return None
        data += more
    return int(data.split()[1])


def statuses_of(site: Site, *pieces: bytes) -> list[str]:
    """The statuses of all answers to what is sent in pieces, until the server hangs up."""
    answer = b""
    with raw(site) as connection, suppress(ConnectionError):
        for piece in pieces:
            connection.sendall(piece)
        while more := connection.recv(65536):
            answer += more
    return [piece[:3].decode() for piece in answer.split(b"HTTP/1.1 ")[1:]]


def test_log_lines_name_the_route_and_never_what_was_asked_for(site: Site) -> None:  # who has refused nobody yet
    client = site.client()
    with capture_logs() as lines:
        client.get("/api/v1/studies/9.8.7.6", headers={"X-Test": "1"})
        client.get("/api/v1/patients", params={"name": "Secret"})
        client.get("/nothing/Secret")
        until(lambda: len(lines) >= 3)
    reported = str(lines)
    assert "'route': '/api/v1/studies/{study_instance_uid}'" in reported
    assert "9.8.7.6" not in reported
    assert "Secret" not in reported
    assert {key for line in lines for key in line} <= ALLOWED_FIELDS | {"log_level"}


def test_what_pages_and_probes_ask_by_themselves_is_no_line_of_the_log(empty: Site) -> None:
    by_themselves = ("/news?since=0", "/badges", "/queue/rows", "/status/numbers", "/healthz", "/readyz?role=receive")
    with capture_logs() as lines:
        for path in (*by_themselves, "/queue"):
            assert empty.client().get(path).status_code == 200
        until(lambda: len(lines) >= 7)
    reported = [(line["route"], line["log_level"]) for line in lines]
    assert reported == [*((path.partition("?")[0], "debug") for path in by_themselves), ("/queue", "info")]


@pytest.mark.slow
def test_begun_handshakes_leave_no_memory_behind(start_site: StartSite, keys: Path) -> None:  # noqa: F811
    def count() -> int:
        return sum(type(one).__name__ in ("SSLProtocol", "_Protocol") for one in gc.get_objects())

    site = start_site(tls_certificate=keys / "server.pem", tls_key=keys / "server.key")
    gc.collect()
    gc.disable()  # else a collection may come by chance
    try:
        before = count()
        with held_connections(site, 60) as held:
            for stranger in held:
                stranger.sendall(b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03")
            until(lambda: count() >= before + 120)
        until(lambda: count() <= before + 1)  # the one that was looked at last
    finally:
        gc.enable()


HEALTH = b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n"
FORM = b"POST /login HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/x-www-form-urlencoded\r\n"
IN_CHUNKS = FORM + b"Transfer-Encoding: chunked\r\n\r\n"
IN_PIECES = [HEALTH + b"\r\n" + HEALTH, b"\r", b"\n" + HEALTH[:5], HEALTH[5:] + b"Connection: close\r\n\r\n"]
H2C = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nContent-Length: 8\r\n\r\n"
LONG, CODING = b"a" * 4_000_000, b"Transfer-Encoding: "
REFUSED = {
    "target": HEALTH.replace(b"/healthz", b"/\xff") + b"\r\n", "path": b"GET /" + LONG, "first byte": b"\x16\x03\x01",
    "no host": HEALTH.replace(b"Host", b"X") + b"\r\n", **{f"header {one[:40]}": HEALTH + one + b"\r\n\r\n" for one in (
        b"Host: b", b"X: a\rb", b"X: a\nY: b", b"X: a\0b", b"X : a", b"X: a\r\n b", b": a", b"X", b"X: " + LONG,
        b"X:\r\n" * 300 + b"Y:", b"Content-Length: +5", b"Content-Length: 5\r\nContent-Length: 6", CODING + b"xchunked",
        b"Content-Length: " + b"9" * 30, b"Content-Length: 5\r\n" + CODING + b"chunked", CODING + b"gzip, chunked",
        CODING + b"chunked\r\n" + CODING + b"chunked",
    )}, **{f"chunk {one[:20]}": IN_CHUNKS + one for one in (
        b"8\r\nname=fooXX", b"8;" + LONG, b"0\r\nX: " + LONG, b"0\r\n" + b"a: b\r\n" * 80_000,
    )},
}  # fmt: skip
"""What is no request, or another one for a proxy (RFC 9112 11.2)."""


@pytest.mark.parametrize("sent", REFUSED.values(), ids=[*map(ascii, REFUSED)])
def test_what_is_no_request_is_refused_and_what_follows_it_is_not_read(empty: Site, sent: bytes) -> None:
    assert statuses_of(empty, sent, HEALTH + b"\r\n") in (["400"], [])


ANSWERED = {
    "pieces": (IN_PIECES, ["200"] * 3), "one behind the other": ([b"".join(IN_PIECES)], ["200"] * 3),
    "body": ([FORM + b"Content-Length: 8\r\n\r\nname", b"=foo" + b"".join(IN_PIECES)], ["422"] + ["200"] * 3),
    "upgrade": ([FORM + H2C + b"name=foo" + b"".join(IN_PIECES)], ["422"] + ["200"] * 3),
    "websocket": ([HEALTH + b"Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n" + b"".join(IN_PIECES)], ["200"] * 4),
    "chunks": ([IN_CHUNKS + b"8\r\nname=foo\r\n0\r\nX: y\r\n\r\n" + b"".join(IN_PIECES)], ["422"] + ["200"] * 3),
    "large": ([FORM + b"Content-Length: 99999\r\n\r\n"], ["413"]),
    "old": ([HEALTH.replace(b"1.1", b"1.0") + b"\r\n"], ["200"]),
    "long": ([HEALTH.replace(b"hz", b"hz?" + b"x" * 125_000) + b"Connection: close\r\n\r\n"], ["200"]),
}  # fmt: skip


@pytest.mark.parametrize(("pieces", "statuses"), ANSWERED.values(), ids=ANSWERED)
def test_requests_are_answered_however_they_come(empty: Site, pieces: list[bytes], statuses: list[str]) -> None:
    assert statuses_of(empty, *pieces) == statuses

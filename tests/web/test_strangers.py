"""Strangers who want the places, the streams or the accounts of others (faults W4, W5)."""

import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace

import httpx2
import pytest

from node.index.rules.people.accounts import Role
from node.web.middleware import LOGIN, MAX_LOGIN_BYTES
from node.web.sessions import FREE_TRIES, FREE_TRIES_OF_ACCOUNT, Throttle
from tests.web.conftest import PASSWORD, Site, StartSite, until
from tests.web.test_security import raw, request_head, status_of

API = "/api/v1/studies"
FORM = "Content-Type: application/x-www-form-urlencoded"
STRANGERS = ("127.0.0.2", "127.0.0.3", "127.0.0.4")
POSTS = 200


@contextmanager
def connected(site: Site, *addresses: str, count: int) -> Iterator[list[socket.socket]]:
    """So many connections from each address; those that are refused count too."""
    port = int(site.url.rpartition(":")[2])
    with ExitStack() as stack:
        connections = []
        for address in addresses:
            for _ in range(count):
                connection = socket.create_connection(("127.0.0.1", port), 10, source_address=(address, 0))
                connections.append(stack.enter_context(connection))
        yield connections


def send(connections: list[socket.socket], data: bytes) -> None:
    for connection in connections:
        with suppress(ConnectionError):
            connection.sendall(data)


@pytest.mark.sample(0, 1)
@pytest.mark.parametrize(
    ("path", "header"),
    [("/login", ""), ("/", ""), ("/dicom-web/studies", ""), (API, "X-Forwarded-For: 127.0.0.9")],
    ids=["login", "search", "upload", "never ended head"],
)
def test_slow_posts_of_three_addresses_keep_nobody_out(guarded: Site, path: str, header: str) -> None:
    head = request_head("POST", path, FORM, "Content-Length: 100") + b"name="
    data = head[:-20] if header else head
    known = guarded.client(headers={"Authorization": f"Bearer {guarded.token('reader')}"})
    with connected(guarded, *STRANGERS, count=POSTS) as connections:
        send(connections, data)
        for _ in range(10):
            with httpx2.Client(base_url=guarded.url, timeout=10) as fresh:
                assert fresh.get("/healthz").status_code == 200
                assert fresh.get("/readyz").status_code == 200
            assert known.get(API, timeout=10).status_code == 200


@pytest.mark.slow
def test_slow_posts_through_a_proxy_keep_nobody_out(start_site: StartSite, monkeypatch: pytest.MonkeyPatch) -> None:
    """The addresses that a trusted proxy forwards count, not its own."""
    monkeypatch.setattr("node.web.server.MAXIMUM_CONNECTIONS", 40)
    site = start_site(trusted_proxies=("127.0.0.0/8",))
    site.account("reader", Role.READ)
    authorization = {"Authorization": f"Bearer {site.token('reader')}", "X-Forwarded-For": "203.0.113.1"}
    with connected(site, "127.0.0.2", count=60) as connections:
        for number, connection in enumerate(connections):
            forwarded = f"X-Forwarded-For: 198.51.100.{number % 3}"
            with suppress(ConnectionError):
                connection.sendall(request_head("POST", "/login", FORM, forwarded, "Content-Length: 100") + b"n=")
        for _ in range(5):
            with httpx2.Client(base_url=site.url, timeout=10, headers=authorization) as fresh:
                assert fresh.get(API).status_code == 200
                assert fresh.get("/healthz").status_code == 200


def test_health_answers_while_clients_take_every_place(start_site: StartSite, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("node.web.server.MAXIMUM_CONNECTIONS", 4)
    site = start_site()
    with ExitStack() as stack:
        for _ in range(4):
            stream = stack.enter_context(raw(site))
            stream.sendall(request_head("GET", "/api/v1/events"))
            assert status_of(stream) == 200
        with httpx2.Client(base_url=site.url, timeout=10) as fresh:
            refused = fresh.get(API)
            assert (refused.status_code, "Retry-After" in refused.headers) == (503, True)
            assert fresh.get("/healthz").status_code == 200
            assert fresh.get("/readyz").status_code == 200


def test_a_login_has_a_body_of_four_kilobytes_and_five_seconds(guarded: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    assert (MAX_LOGIN_BYTES, LOGIN.patience_seconds, LOGIN.bytes_per_second) == (4096, 5.0, None)
    too_long = guarded.client().post("/login", data={"name": "reader", "password": "x" * MAX_LOGIN_BYTES})
    assert too_long.status_code == 413
    monkeypatch.setattr("node.web.middleware.LOGIN", LOGIN._replace(patience_seconds=0.2))
    with raw(guarded) as connection:
        connection.sendall(request_head("POST", "/login", FORM, "Content-Length: 100") + b"name=")
        assert status_of(connection) == 408


def test_the_streams_of_an_account_and_of_an_address_are_bounded(guarded: Site) -> None:
    streams = guarded.app.state.streams
    streams.limits = replace(streams.limits, per_caller=2, per_address=3)
    heads = [
        request_head("GET", "/api/v1/events", f"Authorization: Bearer {guarded.token(name)}")
        for name in ("reader", "reader", "reader", "writer", "admin")
    ]
    with connected(guarded, "127.0.0.2", count=len(heads)) as same, connected(guarded, "127.0.0.3", count=1) as other:
        statuses = []
        for connection, head in zip([*same, *other], [*heads, heads[-1]], strict=True):
            connection.sendall(head)
            statuses.append(status_of(connection))
    assert statuses == [200, 200, 503, 200, 200, 200]  # others do not count against an administrator
    until(lambda: streams.count() == 0)


def test_a_stranger_takes_no_stream(guarded: Site) -> None:
    streams = guarded.app.state.streams
    streams.limits = replace(streams.limits, places=0)
    assert guarded.client().get("/api/v1/events").status_code == 401


def shown(site: Site, address: str, password: str, name: str = "reader") -> int:
    """Status of a request with a password, forwarded for an address."""
    return site.client().get(API, auth=(name, password), headers={"X-Forwarded-For": address}).status_code


@pytest.fixture
def proxied(start_site: StartSite, monkeypatch: pytest.MonkeyPatch) -> Site:
    """A site whose clients have the addresses that they claim, where no time passes for the throttle or for hashes."""
    monkeypatch.setattr(Throttle.__init__, "__defaults__", (lambda: 0.0,))
    is_right = lambda password, hashed: bool(hashed) and password == PASSWORD  # noqa: E731
    monkeypatch.setattr("node.web.sessions.is_password", is_right)
    site = start_site(trusted_proxies=("127.0.0.1",))
    site.account("reader", Role.READ)
    site.account("writer", Role.WRITE)
    return site


def test_ten_addresses_do_not_guess_on(proxied: Site) -> None:
    guesses = [
        shown(proxied, f"198.51.100.{address}", f"wrong {address} {guess}")
        for guess in range(4)
        for address in range(10)
    ]
    assert guesses.count(401) == FREE_TRIES_OF_ACCOUNT
    assert set(guesses[FREE_TRIES_OF_ACCOUNT:]) == {429}
    [alert] = proxied.audited("Security Alert")
    assert alert["participants"][0]["user"] == "reader"
    assert "10 addresses" in alert["detail"]
    assert alert["event"]["type"]["code"] == "110143"


def test_guesses_lock_nobody_out_where_the_account_is_used(proxied: Site) -> None:
    assert shown(proxied, "203.0.113.1", PASSWORD) == 200
    assert shown(proxied, "203.0.113.2", PASSWORD, "writer") == 200
    proxied.app.state.access.sessions.passwords._verified._pairs.clear()  # as if it had been long ago
    for address in range(10):
        for guess in range(4):
            shown(proxied, f"198.51.100.{address}", f"wrong {guess}")
    assert shown(proxied, "203.0.113.1", PASSWORD) == 200
    assert shown(proxied, "203.0.113.1", PASSWORD, "writer") == 200


def test_guesses_at_one_account_lock_out_no_other_at_the_same_address(proxied: Site) -> None:
    for guess in range(FREE_TRIES + 3):
        shown(proxied, "198.51.100.1", f"wrong {guess}")
    slowed = proxied.client().get(API, auth=("reader", PASSWORD), headers={"X-Forwarded-For": "198.51.100.1"})
    assert (slowed.status_code, int(slowed.headers["retry-after"]) >= 1) == (429, True)
    token = {"Authorization": f"Bearer {proxied.token('reader')}", "X-Forwarded-For": "198.51.100.1"}
    assert proxied.client().get(API, headers=token).status_code == 200
    assert shown(proxied, "198.51.100.1", PASSWORD, "writer") == 200


def test_an_address_that_tries_many_names_is_slowed_down(proxied: Site) -> None:
    assert [shown(proxied, "198.51.100.1", "wrong", f"name{number}") for number in range(30)][-1] == 429
    assert shown(proxied, "203.0.113.1", PASSWORD) == 200
    assert len(proxied.audited("Security Alert")) == 1


def test_a_login_of_ones_own_pays_for_no_guesses_at_others(proxied: Site) -> None:
    statuses = []
    for number in range(30):
        statuses.append(shown(proxied, "198.51.100.1", "wrong", f"name{number}"))
        assert shown(proxied, "198.51.100.1", PASSWORD, "writer") == 200
    assert statuses[-1] == 429

"""Signing in at an identity provider, and what must not open a session (fault W5)."""

import base64
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx2
import pytest
from joserfc import jwt
from joserfc.jwk import OctKey, RSAKey
from playwright.sync_api import expect

from node.api import ProviderUnavailable, Role, SignInFailed, UsageError
from node.control.checks import require_account
from node.extensions.oidc import identity_provider
from node.extensions.oidc.identity_provider import (
    MAX_WAITING,
    MIN_REFRESH_SECONDS,
    RETRY_SECONDS,
    IdentityProvider,
    claim_at,
)
from node.extensions.oidc.settings import Oidc
from tests import make
from tests.web.conftest import PASSWORD, Site, StartSite
from tests.web.oidc import CLIENT, SECRET, Provider
from tests.web.pages import Visitor

API = "/api/v1/status"
ROLES = {"read": ("radiology",), "write": ("physics",), "admin": ("pacs",)}


@pytest.fixture
def provider() -> Iterator[Provider]:
    served = Provider()
    yield served
    served.close()


def keys_of(provider: Provider, folder: Path, **oidc: Any) -> dict[str, Any]:
    """The table [web.oidc]."""
    secret = folder / "secret"
    secret.write_text(f"{SECRET}\n")
    return {"issuer": provider.issuer, "client_id": CLIENT, "client_secret_file": secret, **ROLES, **oidc}


StartSite = StartSite


@pytest.fixture
def start(provider: Provider, start_site: StartSite, tmp_path: Path) -> StartSite:
    """Serve a root whose accounts are the provider's; keyword arguments are keys of [web.oidc]."""

    def start(**oidc: Any) -> Site:
        return start_site(authentication="always", oidc=keys_of(provider, tmp_path, **oidc))

    return start


def begin(client: httpx2.Client, path: str = "/login/oidc") -> str:
    """Go to the provider, and return the address that it sends the browser back to."""
    there = client.get(path)
    assert there.status_code == 303, there.text
    return str(httpx2.get(there.headers["location"]).headers["location"])


def sign_in(client: httpx2.Client) -> httpx2.Response:
    return client.get(begin(client))


def browser_of(site: Site) -> httpx2.Client:
    return site.client(headers={"Accept": "text/html"})


def audited(site: Site) -> list[tuple[str, int, str]]:
    return [
        (line["participants"][0]["user"], line["outcome"], line["detail"])
        for line in site.audited("User Authentication")
    ]


@pytest.mark.parametrize(
    ("roles", "role"),
    [
        (["radiology"], Role.READ),
        (["x", "physics"], Role.WRITE),
        (["radiology", "pacs"], Role.ADMIN),
        ("pacs", Role.ADMIN),
    ],
)
def test_a_person_of_the_provider_gets_a_role(start: StartSite, provider: Provider, roles: Any, role: Role) -> None:
    provider.claims["roles"] = roles
    site = start()
    client = browser_of(site)
    assert client.get(API).status_code == 401
    answer = sign_in(client)
    assert answer.status_code == 200
    cookies = [value for name, value in answer.headers.multi_items() if name == "set-cookie"]
    [session] = [cookie for cookie in cookies if cookie.startswith("voxelnode=")]
    assert "HttpOnly" in session
    assert "SameSite=strict" in session
    assert client.get(API).status_code == 200
    known = site.services.index.accounts.by_name("oidc:5f3c")
    assert (known.role, known.password_hash) == (role, None)
    assert audited(site) == [("oidc:5f3c", 0, "Login by OpenID Connect")]


def test_the_account_may_be_named_by_another_claim_and_roles_lie_deeper(start: StartSite, provider: Provider) -> None:
    provider.claims = {"preferred_username": "anna@hospital.example", "realm_access": {"roles": ["physics"]}}
    site = start(name_claim="preferred_username", role_claim="realm_access.roles")
    assert sign_in(browser_of(site)).status_code == 200
    assert site.services.index.accounts.by_name("oidc:anna@hospital.example").role == Role.WRITE


SPOILT = [
    ({"nonce": "another"}, "Invalid claim: &#39;nonce&#39;"),
    ({"nonce": None}, "Missing claim: &#39;nonce&#39;"),
    ({"aud": "another-client"}, "Invalid claim: &#39;aud&#39;"),
    ({"aud": [CLIENT, "another-client"], "azp": "another-client"}, "Invalid claim: &#39;azp&#39;"),
    ({"iss": "https://evil.example"}, "Invalid claim: &#39;iss&#39;"),
    ({"exp": 1_000_000_000, "iat": 999_999_000}, "The token has expired"),
    ({"exp": None}, "Missing claim: &#39;exp&#39;"),
    ({"sub": None}, "Missing claim: &#39;sub&#39;"),
    ({"sub": "a b"}, "1 to 59 characters"),
    ({"sub": "a\u202eb"}, "1 to 59 characters"),
    ({"sub": "a" * 60}, "1 to 59 characters"),
    ({"sub": ["a"]}, "Claim &#39;sub&#39; must be"),
]


@pytest.mark.parametrize(("claims", "reason"), SPOILT)
def test_an_id_token_that_is_not_right_opens_nothing(
    start: StartSite, provider: Provider, claims: dict[str, Any], reason: str
) -> None:
    provider.claims |= claims
    site = start()
    client = browser_of(site)
    answer = sign_in(client)
    assert answer.status_code == 401
    assert reason in answer.text
    assert client.get(API).status_code == 401
    assert site.services.index.accounts.any() is False
    [(user, outcome, _)] = audited(site)
    assert (user, outcome) == ("unknown account", 4)


def _base64(value: dict[str, Any]) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()


def forged(provider: Provider, algorithm: str, key: Any, kid: str) -> Callable[..., str]:
    def signed(**claims: Any) -> str:
        now = int(time.time())
        right = {"iss": provider.issuer, "sub": "5f3c", "iat": now, "exp": now + 300}
        if algorithm == "none":
            return ".".join([_base64({"alg": "none", "kid": kid}), _base64(right | claims), ""])
        return jwt.encode({"alg": algorithm, "kid": kid}, right | claims, key, [algorithm])

    return signed


@pytest.mark.parametrize("algorithm", ["RS256", "HS256", "none"])
def test_a_token_that_somebody_else_signed_opens_nothing(start: StartSite, provider: Provider, algorithm: str) -> None:
    key = RSAKey.generate_key(2048) if algorithm == "RS256" else OctKey.import_key(SECRET.ljust(32))
    provider.signed = forged(provider, algorithm, key, "first")  # type: ignore[method-assign]
    answer = sign_in(browser_of(start()))
    assert answer.status_code == 401
    assert "not signed by the identity provider" in answer.text


def test_only_those_who_are_allowed_may_sign_in(start: StartSite, provider: Provider) -> None:
    site = start(allowed=("0a1b",))
    assert sign_in(browser_of(site)).status_code == 403
    provider.claims["sub"] = "0a1b"
    assert sign_in(browser_of(site)).status_code == 200


@pytest.mark.slow
def test_each_sign_in_brings_the_role_of_now_and_another_ends_sessions(start: StartSite, provider: Provider) -> None:
    site = start()
    first, second, third = browser_of(site), browser_of(site), browser_of(site)
    sign_in(first)
    sign_in(second)
    assert first.get(API).status_code == 200  # a second browser with the same role ends nothing
    provider.claims["roles"] = ["pacs"]
    sign_in(third)
    assert [client.get(API).status_code for client in (first, second, third)] == [401, 401, 200]
    provider.claims["roles"] = []
    assert sign_in(browser_of(site)).status_code == 403
    assert third.get(API).status_code == 401
    assert site.services.index.accounts.by_name("oidc:5f3c") is None


def test_a_session_of_the_provider_is_not_prolonged(start: StartSite, monkeypatch: pytest.MonkeyPatch) -> None:
    site = start()
    client = browser_of(site)
    sign_in(client)
    prolonged: list[str] = []
    access = site.app.state.access
    monkeypatch.setattr(access._accounts, "extend_session", lambda sha256, until: prolonged.append(sha256))
    now = access.sessions.now
    monkeypatch.setattr(access.sessions, "now", lambda: now() + access.sessions.time * 0.9)
    assert client.get("/api/v1/status").status_code == 200
    assert prolonged == []
    monkeypatch.setattr(access.sessions, "now", lambda: now() + access.sessions.time * 1.1)
    assert client.get("/api/v1/status").status_code == 401


@pytest.mark.slow
def test_our_own_accounts_stay_apart(start: StartSite) -> None:
    site = start()
    site.account("5f3c", Role.ADMIN)
    sign_in(browser_of(site))
    assert site.client(auth=("oidc:5f3c", PASSWORD)).get(API).status_code == 401
    assert site.services.index.accounts.by_name("5f3c").role == Role.ADMIN
    assert site.client(auth=("5f3c", PASSWORD)).get(API).status_code == 200


# Coming back


def test_a_callback_that_is_played_again_opens_nothing(start: StartSite, provider: Provider) -> None:
    site = start()
    client = browser_of(site)
    there = client.get("/login/oidc")
    cookie = client.cookies["voxelnode-sign-in"]
    back = httpx2.get(there.headers["location"]).headers["location"]
    assert client.get(back).status_code == 200
    assert "voxelnode-sign-in" not in client.cookies
    redeemed = provider.asked.count("/token")
    again = site.client(headers={"Accept": "text/html", "Cookie": f"voxelnode-sign-in={cookie}"}).get(back)
    assert again.status_code == 401
    assert "This sign-in was already used" in again.text
    assert provider.asked.count("/token") == redeemed


def test_a_callback_in_another_browser_opens_nothing(start: StartSite) -> None:
    site = start()
    mine, other = browser_of(site), browser_of(site)
    back = begin(mine)
    answer = other.get(back)  # a link that somebody was sent
    assert answer.status_code == 401
    assert "began in another browser" in answer.text
    begin(other)
    answer = other.get(back)
    assert answer.status_code == 401
    assert "not the last sign-in that this browser began" in answer.text
    assert other.get(API).status_code == 401


def _denies(provider: Provider, monkeypatch: pytest.MonkeyPatch) -> None:
    provider.denies = True


def _grants_no_role(provider: Provider, monkeypatch: pytest.MonkeyPatch) -> None:
    provider.claims["roles"] = ["cafeteria", {"radiology": 1}]


def _takes_too_long(provider: Provider, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(identity_provider, "SIGN_IN_SECONDS", -1)


@pytest.mark.parametrize(
    ("happens", "status", "says", "audit"),
    [
        (_denies, 401, "did not let you sign in", ("unknown account", 4)),
        (_takes_too_long, 401, "took too long", ("unknown account", 4)),
        (_grants_no_role, 403, "The identity provider knows you as 5f3c, but grants you no role here.",
         ("oidc:5f3c", 4)),
    ],
)  # fmt: skip
def test_a_sign_in_that_fails_opens_nothing_and_says_why(
    start: StartSite,
    provider: Provider,
    monkeypatch: pytest.MonkeyPatch,
    happens: Callable[[Provider, pytest.MonkeyPatch], None],
    status: int,
    says: str,
    audit: tuple[str, int],
) -> None:
    site = start()
    happens(provider, monkeypatch)
    client = browser_of(site)
    answer = sign_in(client)
    assert answer.status_code == status
    assert says in answer.text
    assert "access_denied" not in answer.text
    assert client.get(API).status_code == 401
    assert [line[:2] for line in audited(site)] == [audit]


@pytest.mark.parametrize("hours", [2, -2])
def test_a_step_of_the_clock_ends_no_sign_in(monkeypatch: pytest.MonkeyPatch, hours: int) -> None:
    issuer: Any = SimpleNamespace(authorization_url=lambda *_: "https://provider.example.org")
    sign_ins = identity_provider.ProvidedSignIns(issuer)
    _, cookie = sign_ins.begin("https://node.example.org/back", "/")
    stepped = time.time() + hours * 3600
    monkeypatch.setattr(time, "time", lambda: stepped)
    with pytest.raises(SignInFailed, match="not the last sign-in"):  # the cookie counts; it is of another state
        sign_ins.returned(cookie, "x")


def test_a_code_of_somebody_else_opens_nothing(start: StartSite) -> None:
    site = start()
    client, other = browser_of(site), browser_of(site)
    stolen = parse_qs(urlsplit(begin(other)).query)["code"][0]
    back = urlsplit(begin(client))
    state = parse_qs(back.query)["state"][0]
    answer = client.get(back.path, params={"code": stolen, "state": state})  # PKCE: its verifier is another
    assert answer.status_code == 401
    assert "refused the code (invalid_grant)" in answer.text
    assert "<b>" not in answer.text


@pytest.mark.parametrize(
    "elsewhere", ["//evil.example", "/\\evil.example", "https://evil.example", "javascript:1", "/\r\nX: y"]
)
def test_the_sign_in_leads_nowhere_else(start: StartSite, elsewhere: str) -> None:
    client = browser_of(start())
    there = client.get("/login/oidc", params={"next": elsewhere})
    answer = client.get(httpx2.get(there.headers["location"]).headers["location"])
    assert answer.status_code == 200
    assert 'content="0; url=/"' in answer.text
    assert "evil" not in answer.text


def test_the_sign_in_leads_back_to_the_page_that_asked_for_it(start: StartSite) -> None:
    client = browser_of(start())
    form = client.get(client.get("/studies/1.2.3?x=1&y='\"").headers["location"])
    href = form.text.partition('href="/login/oidc')[2].partition('"')[0]
    assert "url=/studies/1.2.3?x=1&amp;y=" in client.get(begin(client, "/login/oidc" + href)).text


# The provider


def test_a_provider_that_is_down_is_reported_and_own_accounts_go_on(start: StartSite, provider: Provider) -> None:
    site = start()
    site.account("reader", Role.READ)
    begun = browser_of(site)
    back = begin(begun)
    provider.close()
    assert begun.get(back).status_code == 503
    assert begun.get(API).status_code == 401
    answer = browser_of(start()).get("/login/oidc")
    assert answer.status_code == 503
    assert "The identity provider gave an unexpected answer" in answer.text
    assert site.client(auth=("reader", PASSWORD)).get(API).status_code == 200


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def asked_keys(provider: Provider) -> int:
    return provider.asked.count("/keys")


def test_a_provider_that_is_down_is_asked_no_more_often_than_that(tmp_path: Path) -> None:
    provider = Provider(metadata={"issuer": "https://another.example"})
    clock = Clock()
    node = IdentityProvider(Oidc(**keys_of(provider, tmp_path)), clock)
    for now, times in ((0, 1), (RETRY_SECONDS / 2, 1), (RETRY_SECONDS, 2)):
        clock.now = now
        with pytest.raises(ProviderUnavailable):
            node.authorization_url("http://x/", "state", "nonce", "verifier")
        assert len(provider.asked) == times
    provider.metadata.clear()
    clock.now = RETRY_SECONDS * 3
    assert node.authorization_url("http://x/", "state", "nonce", "verifier")
    provider.close()
    clock.now += identity_provider.KEEP_SECONDS
    assert node.authorization_url("http://x/", "state", "nonce", "verifier")  # what is known stays in use


def test_requests_that_wait_for_a_provider_leave_threads_for_others(provider: Provider, tmp_path: Path) -> None:
    node = IdentityProvider(Oidc(**keys_of(provider, tmp_path)))
    for _ in range(MAX_WAITING):
        node._places.acquire()
    with pytest.raises(ProviderUnavailable, match="too many sign-ins"):
        node.authorization_url("http://x/", "state", "nonce", "verifier")


def test_new_keys_of_the_provider_are_fetched_and_strangers_cannot_have_them_fetched_at_will(
    provider: Provider, tmp_path: Path
) -> None:
    clock = Clock()
    node = IdentityProvider(Oidc(**keys_of(provider, tmp_path, audience="api")), clock)
    claims = {"aud": "api", "roles": ["pacs"]}
    assert node.by_access_token(provider.signed(**claims)).role == Role.ADMIN
    provider.key, provider.published = "second", ["first", "second"]
    with pytest.raises(SignInFailed):
        node.by_access_token(provider.signed(**claims))
    assert asked_keys(provider) == 1
    clock.now += MIN_REFRESH_SECONDS
    assert node.by_access_token(provider.signed(**claims)).role == Role.ADMIN
    assert asked_keys(provider) == 2


@pytest.mark.parametrize(
    "metadata",
    [{"token_endpoint": None}, {"authorization_endpoint": "ftp://x/"}, {"jwks_uri": "javascript:1"}, {"issuer": ""}],
)
def test_a_provider_with_nonsense_is_not_asked(provider: Provider, tmp_path: Path, metadata: dict[str, Any]) -> None:
    provider.metadata = metadata
    node = IdentityProvider(Oidc(**keys_of(provider, tmp_path)))
    with pytest.raises(ProviderUnavailable):
        node.authorization_url("http://x/", "state", "nonce", "verifier")


def test_a_secret_that_cannot_be_read_is_an_error_of_the_start(provider: Provider, tmp_path: Path) -> None:
    keys = keys_of(provider, tmp_path)
    for name in ("client_secret_file", "ca_file"):
        with pytest.raises(UsageError, match=rf"\[web.oidc\] {name}"):
            IdentityProvider(Oidc(**keys | {name: tmp_path / "nothing"}))


def test_with_a_provider_a_node_starts_without_accounts_of_its_own(start: StartSite) -> None:
    site = start()
    require_account(site.services.settings, site.store.index.accounts.any)
    assert site.client().get("/healthz").status_code == 200


def test_without_a_provider_there_is_no_way_to_it(guarded: Site) -> None:
    client = browser_of(guarded)
    assert client.get("/login/oidc").status_code == 404
    assert client.get("/login/oidc/callback").status_code == 404
    assert "/login/oidc" not in client.get("/login").text


# Access tokens


def test_an_access_token_of_the_provider_opens_rest(start: StartSite, provider: Provider) -> None:
    site = start(audience="api://voxelnode")

    def status(token: str, method: str = "GET", path: str = API) -> int:
        return site.client().request(method, path, headers={"Authorization": f"Bearer {token}"}).status_code

    claims = {"aud": ["account", "api://voxelnode"], "roles": ["radiology"]}
    assert status(provider.signed(**claims)) == 200
    assert status(provider.signed({"typ": "at+jwt"}, **claims)) == 200
    assert status(provider.signed(**claims), "DELETE", "/api/v1/studies/1.2") == 403
    assert status(provider.signed(**claims | {"roles": []})) == 403
    for spoilt in (
        {"aud": CLIENT},
        {"aud": None},
        {"exp": 1_000_000_000},
        {"exp": None},
        {"iss": "https://evil.example"},
    ):
        assert status(provider.signed(**claims | spoilt)) == 401, spoilt
    assert status(provider.signed({"typ": "logout+jwt"}, **claims)) == 401
    assert status("vxn_nonsense") == status("nonsense") == status("a.b.c") == 401
    site.account("reader", Role.READ)
    assert status(site.token("reader")) == 200


@pytest.mark.slow
def test_a_group_is_a_member_of_projects(start: StartSite, provider: Provider) -> None:
    """Who comes with the group sees what is in its projects, by a session, a token of the node or of the provider."""
    site = start(audience="api://voxelnode")
    for study in ("1.2.901", "1.2.902"):
        site.take(*make.ct_series(2, study_uid=study, series_uid=f"{study}.1"))
    do = site.store.actions.by_name
    group = {"name": "trial", "account": "group:/sites/bern"}
    do["set-project"](name="trial", who="test")
    do["change-project-contents"](name="trial", who="test", add=[("1.2.901", "")])
    do["set-project-member"](**group, role="write", who="test")
    with pytest.raises(UsageError, match="a group has a name of"):
        do["set-project-member"](name="trial", account="group:" + "x" * 59, role="read", who="test")

    def seen(client: httpx2.Client, **headers: str) -> set[str] | int:
        answer = client.get("/api/v1/studies", headers=headers)
        if answer.status_code != 200:
            return answer.status_code
        return {one["study_instance_uid"] for one in answer.json()["items"]}

    both, bern = {"1.2.901", "1.2.902"}, ["physics", "/sites/bern"]
    client = browser_of(site)
    provider.claims["roles"] = ["physics"]
    sign_in(client)
    assert seen(client) == both
    older = client.cookies.get("voxelnode")
    provider.claims["roles"] = bern
    sign_in(client)
    assert seen(client) == {"1.2.901"}
    assert seen(site.client(cookies={"voxelnode": older or ""})) == 401, "a session from before the group has ended"
    own = site.token("oidc:5f3c")
    script = site.client(headers={"Authorization": f"Bearer {own}"})
    assert seen(script) == {"1.2.901"}
    assert script.put("/api/v1/studies/1.2.901/labels", json={"labels": ["x"]}).status_code == 200
    for roles, expected in ((bern, {"1.2.901"}), (["physics"], both), (["pacs", "/sites/bern"], both)):
        theirs = provider.signed(sub="another", aud="api://voxelnode", roles=roles)
        assert seen(site.client(), Authorization=f"Bearer {theirs}") == expected, roles

    do["remove-project-member"](**group, who="test")
    assert seen(client) == set(), "it does not see the whole node then"
    do["limit-account"](account="group:/sites/bern", is_limited=False, who="test")
    assert seen(client) == both
    do["set-project-member"](**group, role="read", who="test")
    for left in ([bern, ["physics"]], [bern, ["nobody"], ["physics"]]):  # with no role, the account goes
        for roles in left:
            provider.claims["roles"] = roles
            sign_in(client)
        assert seen(client) == set(), "who leaves the group does not see the whole node then"
        do["limit-account"](account="oidc:5f3c", is_limited=False, who="test")
        assert seen(client) == both


def test_without_an_audience_no_access_token_opens_anything(start: StartSite, provider: Provider) -> None:
    token = provider.signed(aud=CLIENT, roles=["pacs"])
    answer = start().client().get(API, headers={"Authorization": f"Bearer {token}"})
    assert answer.status_code == 401
    assert "[web.oidc] audience" in answer.json()["detail"]


def test_claims_are_found_by_name_and_by_path() -> None:
    claims = {"roles": 1, "https://a.example/roles": 2, "realm_access": {"roles": 3}, "x": "y"}
    paths = ("roles", "https://a.example/roles", "realm_access.roles", "realm_access.x", "x.y", "nothing")
    assert [claim_at(claims, path) for path in paths] == [1, 2, 3, None, None, None]


# In a browser


@pytest.mark.slow
def test_in_a_browser_a_person_signs_in_and_out(start: StartSite, visit: Callable[[str], Visitor]) -> None:
    site = start()
    page = visit(site.url).open("/queue")
    page.get_by_role("link", name="Sign in with single sign-on").click()
    expect(page.get_by_role("heading", name="Queue", exact=True)).to_be_visible()
    assert page.url == f"{site.url}/queue"
    page.get_by_role("button", name="Sign out").click()
    page.get_by_role("link", name="sign out there as well").click()
    expect(page.get_by_text(f'{{"ended": "{CLIENT}"}}')).to_be_visible()
    assert [line[2] for line in audited(site)] == ["Login by OpenID Connect", "Logout"]

"""Security keys and passkeys as a second factor: by a key in software, which may lie, and by a browser."""

from __future__ import annotations

import datetime as dt
import json
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx2
import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from node.control.care import rebuild_index
from node.extensions.passkeys.keys import KeyRepository, NewKey, ReadKeys, SecurityKey
from node.index.nouns.accounts import KnownAccount, Role
from node.web.guesses import FREE_TRIES
from node.web.second_factor import STEP_SECONDS, code_of
from tests.rows import read_rows
from tests.web.conftest import PASSWORD, Site, open_site
from tests.web.pages import Visitor, accessibility_faults, start_browser

pytest.importorskip("webauthn")

from tests.web.authenticator import Authenticator, decoded, encoded

API = "/api/v1/studies"
RECOVERY = re.compile(r"(?:[a-z2-7]{4}-){3}[a-z2-7]{4}")


@dataclass
class Person:
    """An account in one browser."""

    site: Site
    client: httpx2.Client
    origin: str
    name: str

    def sign_in(self) -> httpx2.Response:
        return self.client.post("/login", data={"name": self.name, "password": PASSWORD})

    def options(self, path: str, **form: str) -> httpx2.Response:
        return self.client.post(f"{path}/options", data=form)

    def asked(self, path: str, **form: str) -> dict[str, Any]:
        answer = self.options(path, **form)
        assert answer.status_code == 200, answer.text
        options: dict[str, Any] = answer.json()
        return options

    def register(self, key: Authenticator, label: str = "blue") -> httpx2.Response:
        options = self.asked("/account/keys", label=label, current=PASSWORD)
        return self.client.post("/account/keys", data={"label": label, "answer": key.create(options)})

    def give(self, key: Authenticator) -> httpx2.Response:
        """Sign in again, with a key."""
        assert self.sign_in().headers["location"].startswith("/login/factor")
        return self.answer(key.get(self.asked("/login/key")))

    def answer(self, answer: str, **form: str) -> httpx2.Response:
        return self.client.post("/login/key", data={"answer": answer, **form})

    def is_in(self) -> bool:
        return self.client.get(API).status_code == 200

    def security_keys(self) -> list[SecurityKey]:
        with self.site.services.index.reading() as index:
            return index.repository(ReadKeys).of_account(self.known.id)

    @property
    def known(self) -> KnownAccount:
        known = self.site.services.index.accounts.by_name(self.name)
        assert known is not None
        return known

    def code(self) -> str:
        """The code of the app at this moment."""
        moment = self.site.app.state.access._now()
        return code_of(self.known.totp_secret or "", int(moment.timestamp()) // STEP_SECONDS).decode()


def person(site: Site, name: str = "anna", role: Role = Role.READ, host: str = "localhost") -> Person:
    """Somebody at http://localhost, whose name and password are not given yet."""
    if site.services.index.accounts.by_name(name) is None:
        site.account(name, role)
    origin = f"http://{host}:{site.url.rpartition(':')[2]}"
    headers = {"Origin": origin, "Host": origin.removeprefix("http://")}
    return Person(site, site.client(headers=headers), origin, name)


def signed_in(site: Site, name: str = "anna", role: Role = Role.READ) -> Person:
    someone = person(site, name, role)
    assert someone.sign_in().headers["location"] == "/"
    return someone


@pytest.fixture
def anna(start_site: Callable[..., Site]) -> Person:
    """An account without a second factor, signed in."""
    return signed_in(start_site(authentication="always"))


def codes_in(answer: httpx2.Response) -> list[str]:
    assert answer.status_code == 200, answer.text
    return RECOVERY.findall(answer.text)


def details(site: Site, meaning: str) -> list[str]:
    return [line["detail"] for line in site.audited(meaning)]


@pytest.mark.slow
def test_a_key_is_a_second_factor_with_recovery_codes_and_lines_in_the_audit_log(anna: Person) -> None:
    site, key, elsewhere = anna.site, Authenticator(anna.origin), signed_in(anna.site)
    codes = codes_in(anna.register(key))
    assert (len(codes), anna.is_in(), elsewhere.is_in()) == (10, True, False)
    assert [(one.label, one.rp_id, one.used_at) for one in anna.security_keys()] == [("blue", "localhost", None)]
    assert site.client(auth=("anna", PASSWORD)).get(API).status_code == 401, "scripts send tokens"

    elsewhere.sign_in()
    assert not elsewhere.is_in(), "the password alone opens nothing"
    assert "Use a security key or passkey" in elsewhere.client.get("/login/factor").text
    key.sign_count = 7
    assert elsewhere.give(key).headers["location"] == "/"
    assert elsewhere.is_in()
    assert anna.security_keys()[0].used_at is not None
    shown = elsewhere.client.get("/account").text
    assert all(word in shown for word in ("blue", "localhost", "Last use", "only second factor"))

    another = Authenticator(anna.origin)
    answer = anna.register(another, "green")
    assert (answer.status_code, answer.headers["location"]) == (303, "/account"), "recovery codes come with the first"
    assert elsewhere.is_in() is False
    assert elsewhere.give(another).status_code == 303
    assert elsewhere.client.post("/login/factor", data={"code": codes[0]}).status_code == 401
    elsewhere.sign_in()
    assert elsewhere.client.post("/login/factor", data={"code": codes[0]}).status_code == 303

    removed = elsewhere.client.post("/account/keys/remove", data={"label": "blue", "current": PASSWORD})
    assert (removed.headers["location"], elsewhere.is_in(), anna.is_in()) == ("/login", False, False)
    assert anna.give(replace(key, sign_count=8)).status_code == 401
    assert anna.give(another).status_code == 303
    changes = [one for one in details(site, "Security Alert") if "security key" in one]
    assert changes == [
        f"{state}: account anna: security key {what}"
        for what in ("'blue' for localhost added", "'green' for localhost added", "'blue' removed")
        for state in ("ordered", "done")
    ]
    logins = [one.removeprefix("Login with a second factor: ") for one in details(site, "User Authentication")]
    used = ["security key 'blue'", "new security key 'green'", "security key 'green'", "security key 'green'"]
    assert [one for one in logins if "key '" in one] == ["new security key 'blue'", *used]
    refused = "wrong second factor: this security key is not one that the account has for localhost"
    assert logins.count(refused) == 1


def _at_another_origin(key: Authenticator) -> None:
    key.origin = "http://localhost:1"


def _at_another_name(key: Authenticator) -> None:
    key.origin = "https://node.example.org"


def _for_another_name(key: Authenticator) -> None:
    key.rp_id = "example.org"


def _untouched(key: Authenticator) -> None:
    key.flags = 0


def _signed_by_another(key: Authenticator) -> None:
    key.private_key = Authenticator(key.origin).private_key


def _of_nobody(key: Authenticator) -> None:
    key.credential_id = b"another"


def _counted_back(key: Authenticator) -> None:
    key.sign_count = 4


def _counted_again(key: Authenticator) -> None:
    key.sign_count = 5


def _counted_no_more(key: Authenticator) -> None:
    key.sign_count = 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (_at_another_origin, "is not right for http://localhost"),
        (_at_another_name, "is not right for http://localhost"),
        (_for_another_name, "is not right for http://localhost"),
        (_untouched, "is not right for http://localhost"),
        (_signed_by_another, "is not right for http://localhost"),
        (_of_nobody, "is not one that the account has"),
        (_counted_back, "signature counter"),
        (_counted_again, "signature counter"),
        (_counted_no_more, "signature counter"),
    ],
)
def test_a_key_that_is_not_as_it_should_be_opens_nothing(
    anna: Person, harm: Callable[[Authenticator], None], words: str
) -> None:
    key = Authenticator(anna.origin)
    anna.register(key)
    key.sign_count = 5
    assert anna.give(key).status_code == 303
    wrong = replace(key, sign_count=6)
    harm(wrong)
    answer = anna.give(wrong)
    assert (answer.status_code, words in answer.text, anna.is_in()) == (401, True, False)
    assert words in details(anna.site, "User Authentication")[-1]
    assert anna.give(replace(key, sign_count=6)).status_code == 303, "the key itself is as good as before"


@pytest.mark.slow
def test_what_a_key_signed_is_good_once_for_one_session_and_one_purpose(anna: Person) -> None:
    key, site, now = Authenticator(anna.origin), anna.site, anna.site.services.ingest.now
    made = key.create(anna.asked("/account/keys", label="blue", current=PASSWORD))
    anna.asked("/account/keys", label="blue", current=PASSWORD)
    late = anna.client.post("/account/keys", data={"label": "blue", "answer": made})
    assert (late.status_code, anna.security_keys()) == (400, []), "another challenge has taken its place"
    anna.register(key)

    anna.sign_in()
    signed = key.get(anna.asked("/login/key"))
    second = person(site)
    second.sign_in()
    assert second.answer(signed).status_code == 401, "this session was asked for nothing"
    second.asked("/login/key")
    assert second.answer(signed).status_code == 401, "it was asked for something else"
    assert anna.answer(signed).status_code == 303
    assert anna.answer(signed).status_code == 401
    anna.sign_in()
    assert anna.answer(signed).status_code == 401, "the old answer, before anything is asked"
    anna.asked("/login/key")
    assert anna.answer(signed).status_code == 401
    assert anna.answer(signed).status_code == 401

    anna.sign_in()
    options = anna.asked("/login/key")
    site.services.ingest.now = lambda: now() + dt.timedelta(minutes=6)  # type: ignore[method-assign]
    assert anna.answer(key.get(options)).status_code == 401, "it came too late"
    site.services.ingest.now = now  # type: ignore[method-assign]
    anna.give(key)
    options = anna.asked("/account/keys", label="green", current=PASSWORD)
    keys = site.services.index.repository(KeyRepository)
    assert keys.take("no session", "register", now()) is None
    assert keys.begin("no session", "register", "00", now()) is False
    assert anna.answer(key.get({**options, "rpId": "localhost"})).status_code == 401
    assert len(anna.security_keys()) == 1


@pytest.mark.slow
def test_a_key_is_of_one_account_and_goes_with_it(anna: Person) -> None:
    site, key, of_ben = anna.site, Authenticator(anna.origin), Authenticator(anna.origin)
    ben = signed_in(site, "ben")
    anna.register(key)
    ben.register(of_ben)
    assert anna.give(of_ben).status_code == 401
    assert not anna.is_in()
    ben.give(of_ben)
    same = replace(of_ben, credential_id=key.credential_id)
    assert ben.register(same, "hers").status_code == 400, "nobody takes the identifier of the key of another"
    assert [one.label for one in ben.security_keys()] == ["blue"]
    assert anna.give(key).status_code == 303
    options = anna.asked("/account/keys", label="green", current=PASSWORD)
    assert [one["id"] for one in options["excludeCredentials"]] == [encoded(key.credential_id)]
    assert options["user"]["id"] not in (encoded(b"anna"), encoded(b"1"))

    site.services.actions["remove-account"](name="anna", who="test")
    count = "SELECT (SELECT count(*) FROM security_keys), (SELECT count(*) FROM key_challenges)"
    assert [tuple(row.values()) for row in read_rows(site.root, count.replace("),", ") AS a,") + " AS b")] == [(1, 0)]
    again = signed_in(site, "anna")
    assert (again.security_keys(), again.known.has_factor) == ([], False)


@pytest.mark.slow
def test_a_demanded_factor_is_satisfied_by_a_key(start_site: Callable[..., Site]) -> None:
    site = start_site(authentication="always", second_factor="all")
    anna, thief = person(site), person(site)
    thief.sign_in()  # who knows the password, and nothing else
    secret = thief.known.totp_secret
    begun = thief.asked("/login/key", label="mine")
    anna.sign_in()
    secret = anna.known.totp_secret
    assert "Or a security key or passkey" in anna.client.get("/login/factor").text
    assert anna.options("/login/key", label="").status_code == 400
    key = Authenticator(anna.origin)
    codes = codes_in(anna.answer(key.create(anna.asked("/login/key", label="blue")), label="blue"))
    assert (len(codes), anna.is_in()) == (10, True)

    thief.sign_in()
    assert thief.known.totp_secret is None, "an app that was begun cannot be set up any more"
    moment = int(site.app.state.access._now().timestamp()) // STEP_SECONDS
    code = code_of(secret or "", moment).decode()
    assert thief.client.post("/login/factor", data={"code": code}).status_code == 401
    evil = Authenticator(anna.origin)
    assert thief.answer(evil.create(begun), label="mine").status_code == 401
    options = thief.asked("/login/key")
    made = evil.create({**options, "rp": {"id": "localhost"}})
    assert thief.answer(made, label="mine").status_code == 401
    assert "QR code" not in thief.client.get("/login/factor").text
    assert (thief.is_in(), [one.label for one in anna.security_keys()]) == (False, ["blue"])

    form = {"label": "blue", "current": PASSWORD, "code": codes[1]}
    assert anna.client.post("/account/keys/remove", data=form).status_code == 403, "it is demanded"
    assert anna.client.get("/account").text.count("demanded") == 1
    anna.client.post("/account/factor", data={"current": PASSWORD})
    answer = anna.client.post("/account/factor/confirm", data={"code": anna.code()})
    assert (answer.status_code, answer.headers["location"]) == (303, "/account"), "the recovery codes stay"
    assert anna.client.post("/account/keys/remove", data=form).status_code == 303
    assert (anna.security_keys(), anna.known.has_app) == ([], True)
    anna.sign_in()
    assert anna.client.post("/login/factor", data={"code": codes[1]}).status_code == 303


@pytest.mark.slow
def test_two_first_keys_at_once_are_one(start_site: Callable[..., Site]) -> None:
    site = start_site(authentication="always", second_factor="all")
    first, second = person(site), person(site)
    answers = []
    for one in (first, second):
        one.sign_in()
        answers.append(Authenticator(one.origin).create(one.asked("/login/key", label="blue")))
    assert len(codes_in(first.answer(answers[0], label="blue"))) == 10
    assert second.answer(answers[1], label="green").status_code == 401
    assert len(first.security_keys()) == 1
    actions = site.services.actions
    key = {"rp_id": "localhost", "credential_id": "x", "public_key": "x", "sign_count": 0}
    with pytest.raises(Exception, match="has a second factor since"):
        actions["add-security-key"](name="anna", label="x", key=key, codes=[], who="t", must_be_first=True)
    with pytest.raises(Exception, match="is the only second factor by now"):
        actions["remove-security-key"](name="anna", label="blue", who="t", may_be_last=False)
    with pytest.raises(Exception, match="printable"):
        actions["add-security-key"](name="anna", label="a\nb", key=key, codes=[], who="t", must_be_first=False)
    assert len(first.security_keys()) == 1


@pytest.mark.slow
def test_an_app_and_keys_stand_beside_each_other_until_an_administrator_resets_them(anna: Person) -> None:
    site, key, post = anna.site, Authenticator(anna.origin), anna.client.post
    post("/account/factor", data={"current": PASSWORD})
    codes = codes_in(post("/account/factor/confirm", data={"code": anna.code()}))
    assert post("/account/factor", data={"current": PASSWORD}).status_code == 400
    assert anna.register(key).status_code == 303
    taken = anna.options("/account/keys", label="blue", current=PASSWORD)
    assert (taken.status_code, "choose another name" in taken.json()["detail"]) == (400, True)
    assert anna.options("/account/keys", label="green", current="wrong").status_code == 400
    page = anna.client.get("/account").text
    assert ("Remove the app" in page, "only second factor" in page) == (True, False)
    anna.sign_in()
    assert "authenticator app shows" in anna.client.get("/login/factor").text
    assert anna.answer(key.get(anna.asked("/login/key"))).status_code == 303

    remove = {"current": PASSWORD, "code": codes[0]}
    assert post("/account/factor/remove", data=remove).headers["location"] == "/login"
    assert (anna.known.has_app, anna.known.has_factor) == (False, True)
    assert anna.give(key).status_code == 303
    assert post("/account/factor/remove", data=remove).status_code == 400
    last = {"label": "blue", "current": PASSWORD}
    assert post("/account/keys/remove", data=last).status_code == 400, "the last one needs a recovery code"
    assert post("/account/keys/remove", data={**last, "code": codes[0]}).status_code == 400, "which was used"
    assert len(anna.security_keys()) == 1
    assert post("/account/keys/remove", data={**last, "code": codes[1]}).status_code == 303
    assert anna.known.has_factor is False
    assert read_rows(site.root, "SELECT sha256 FROM recovery_codes") == []

    anna.sign_in()
    assert len(codes_in(anna.register(replace(key, sign_count=0)))) == 10
    admin = signed_in(site, "boss", Role.ADMIN)
    assert "password and second factor" in admin.client.get("/administration").text
    assert admin.client.post("/administration/accounts/anna/factor/remove").status_code == 303
    assert (anna.known.has_factor, anna.security_keys(), anna.is_in()) == (False, [], False)
    assert anna.sign_in().headers["location"] == "/"
    assert anna.is_in()


@pytest.mark.slow
def test_hostile_answers_are_refused_and_counted_as_wrong_codes_are(anna: Person) -> None:
    key = Authenticator(anna.origin)
    anna.register(key)
    statuses = []
    for _ in range(FREE_TRIES + 1):
        wrong = anna.give(replace(key, private_key=Authenticator("").private_key))
        statuses.append(wrong.status_code)
    assert statuses == [401] * FREE_TRIES + [429]
    assert int(wrong.headers["retry-after"]) > 0
    assert anna.client.post("/login/factor", data={"code": "000000"}).status_code == 429, "they count together"
    anna.site.app.state.access._codes.succeeded(("anna", "127.0.0.1"))

    options = anna.asked("/login/key")
    good = json.loads(key.get(options))
    deep = "[" * 4000
    said = good["response"]
    for hostile in (
        *("", "null", "[]", "{}", deep, '{"id": 1}', json.dumps({"id": good["id"]})),
        json.dumps({**good, "response": None}),
        json.dumps({**good, "rawId": "!"}),
        json.dumps({**good, "type": "other"}),
        *(json.dumps({**good, "response": {**said, name: value}}) for name in said for value in ("", "AAAA", 7, None)),
    ):
        anna.sign_in()
        anna.asked("/login/key")
        answer = anna.answer(hostile)
        assert answer.status_code in (401, 422), hostile[:100]
        anna.site.app.state.access._codes.succeeded(("anna", "127.0.0.1"))
    assert anna.answer("x" * 20_000).status_code == 413
    anna.give(key)
    options = anna.asked("/account/keys", label="green", current=PASSWORD)
    made = json.loads(Authenticator(anna.origin).create(options))
    attested = decoded(made["response"]["attestationObject"])
    for place in range(0, len(attested), 5):
        options = anna.asked("/account/keys", label="green", current=PASSWORD)
        made = json.loads(Authenticator(anna.origin).create(options))
        harmed = bytearray(decoded(made["response"]["attestationObject"]))
        harmed[place] ^= 0xFF
        made["response"]["attestationObject"] = encoded(bytes(harmed))
        answer = anna.client.post("/account/keys", data={"label": "green", "answer": json.dumps(made)})
        assert answer.status_code in (303, 400), (
            place
        )  # a public key or an identifier of other bytes may be one as well
        if answer.status_code == 303:
            forget = {"name": "anna", "label": "green", "who": "test", "may_be_last": False}
            anna.site.services.actions["remove-security-key"](**forget)
            anna.give(key)
        anna.site.app.state.access._codes.succeeded(("anna", "127.0.0.1"))


PROXIED = {"X-Forwarded-For": "192.0.2.7", "X-Forwarded-Proto": "https"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("web", "sent", "origin"),
    [
        ({"trusted_proxies": ("127.0.0.1",), "allowed_hosts": ("pacs.example.org",)},
         {**PROXIED, "Host": "pacs.example.org"}, "https://pacs.example.org"),
        ({"allowed_hosts": ("pacs.example.org:8443",)}, {}, "https://pacs.example.org:8443"),
        ({"public_url": "https://pacs.example.org"}, {"Sec-Fetch-Site": "same-origin"}, "https://pacs.example.org"),
    ],
)  # fmt: skip
def test_behind_a_proxy_a_key_is_for_the_name_that_the_browser_knows(
    start_site: Callable[..., Site], web: dict[str, Any], sent: dict[str, str], origin: str
) -> None:
    site = start_site(authentication="always", **web)
    site.account("anna", Role.READ)
    client = site.client(headers={"Origin": origin, **sent})
    anna = Person(site, client, origin, "anna")
    client.headers["Cookie"] = anna.sign_in().headers["set-cookie"].partition(";")[0]
    wrong = anna.register(Authenticator(site.url))
    assert wrong.status_code == 400, "the address behind the proxy is not what the browser has"
    assert anna.asked("/account/keys", label="blue", current=PASSWORD)["rp"]["id"] == "pacs.example.org"
    assert len(codes_in(anna.register(Authenticator(origin)))) == 10
    assert anna.security_keys()[0].rp_id == "pacs.example.org"

    here = person(site)
    here.sign_in()
    answer = here.options("/login/key")
    assert answer.status_code == 400
    assert "no security key of this account is for localhost; it has keys for: pacs.example.org" in answer.text


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sent", "words"),
    [
        ({}, "security keys need HTTPS"),
        ({"Host": "127.0.0.1", "Origin": "https://127.0.0.1", "Sec-Fetch-Site": "same-origin"}, "does not know"),
        ({"Host": "node.example.org", "Origin": "http://node.example.org"}, "security keys need HTTPS"),
        ({"Origin": "https://evil.example.org", "Sec-Fetch-Site": "same-origin"}, "does not know"),
        ({"Origin": "https://192.0.2.1"}, "for a name, not for an address"),
    ],
)
def test_where_no_browser_lets_keys_be_used_it_is_said(
    start_site: Callable[..., Site], sent: dict[str, str], words: str
) -> None:
    site = start_site(authentication="always", allowed_hosts=("node.example.org", "192.0.2.1"))
    site.account("anna", Role.READ)
    anna = Person(site, site.client(headers={"Origin": site.origin} | sent), "", "anna")
    anna.sign_in()
    answer = anna.options("/account/keys", label="blue", current=PASSWORD)
    assert (answer.status_code, words in answer.json()["detail"]) == (400, True), answer.text


@pytest.mark.slow
def test_without_the_library_keys_still_demand_a_factor_and_it_is_said_what_is_missing(
    anna: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = Authenticator(anna.origin)
    codes = codes_in(anna.register(key))
    anna.sign_in()
    signed = key.get(anna.asked("/login/key"))
    monkeypatch.setitem(sys.modules, "webauthn", None)
    assert not anna.is_in()
    page = anna.client.get("/login/factor").text
    assert ("cannot check your security keys" in page, "Use a security key" in page) == (True, False)
    for refused in (anna.options("/login/key"), anna.answer(signed)):
        assert (refused.status_code, "pip install 'voxelnode[passkeys]'" in refused.json()["detail"]) == (400, True)
    assert anna.client.post("/login/factor", data={"code": codes[0]}).status_code == 303
    assert "voxelnode[passkeys]" in anna.client.get("/account").text


@pytest.mark.slow
def test_keys_and_recovery_codes_outlive_a_rebuild_of_the_index(tmp_path: Path) -> None:
    root = tmp_path / "root"
    site = open_site(root, authentication="always")
    anna = signed_in(site)
    key = Authenticator(anna.origin, sign_count=1)
    codes = codes_in(anna.register(key))
    settings = site.services.settings
    site.close()
    rebuild_index(settings)
    site = open_site(root, authentication="always")
    again = person(site)
    key.origin = again.origin  # the port is another one
    assert again.give(replace(key, sign_count=1)).status_code == 401, "the counter is known"
    assert again.give(replace(key, sign_count=2)).status_code == 303
    again.sign_in()
    assert again.client.post("/login/factor", data={"code": codes[0]}).status_code == 303
    site.close()


@pytest.mark.slow
def test_with_the_extension_off_keys_still_demand_a_factor(start_site: Callable[..., Site]) -> None:
    site = start_site({"extensions": {"disabled": ["passkeys"]}}, authentication="always")
    anna = signed_in(site)
    assert "Security keys" not in anna.client.get("/account").text
    key = {"rp_id": "localhost", "credential_id": "x", "public_key": "x", "sign_count": 0}
    with pytest.raises(Exception, match="switches off"):
        site.services.actions["add-security-key"](name="anna", label="x", key=key, codes=[], who="t")
    keys, now = site.services.index.repository(KeyRepository), site.services.ingest.now()
    keys.add("anna", "blue", NewKey("localhost", "x", "x", 0), ["0" * 64], now, must_be_first=True)
    assert not anna.is_in()
    assert anna.sign_in().headers["location"].startswith("/login/factor")
    assert anna.options("/login/key").status_code == 404
    assert "recovery codes" in anna.client.get("/login/factor").text


# In a browser


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        yield from start_browser(playwright)


def add_key(page: Page, label: str) -> None:
    page.get_by_text("Add one").click()
    page.get_by_label("Name for it").fill(label)
    page.locator("form[action='/account/keys']").get_by_label("Current password").fill(PASSWORD)
    page.get_by_role("button", name="Register it").click()


USB: dict[str, Any] = {}
TELEPHONE = {"transport": "internal", "hasResidentKey": True, "hasUserVerification": True, "isUserVerified": True}


def with_key(page: Page, **options: Any) -> Callable[[str], Any]:
    """Plug a virtual security key into a window; what it does later is sent by the function that is returned."""
    session = page.context.new_cdp_session(page)
    session.send("WebAuthn.enable")
    about = {"protocol": "ctap2", "transport": "usb", "hasUserVerification": False, **options}
    key = session.send("WebAuthn.addVirtualAuthenticator", {"options": about})["authenticatorId"]

    def send(method: str, **parameters: Any) -> Any:
        return session.send(f"WebAuthn.{method}", {"authenticatorId": key, **parameters})

    return send


def fill_in(page: Page, name: str = "anna") -> None:
    page.get_by_label("Name").fill(name)
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Sign in").click()


@pytest.mark.slow
@pytest.mark.parametrize("kind", [USB, {"protocol": "u2f"}, TELEPHONE], ids=["usb", "u2f", "telephone"])
def test_in_a_browser_a_person_registers_a_key_and_signs_in_by_it(
    start_site: Callable[..., Site], browser: Browser, kind: dict[str, Any]
) -> None:
    site = start_site(authentication="always")
    site.account("anna", Role.READ)
    visitor = Visitor(browser, site.url.replace("127.0.0.1", "localhost"))
    page = visitor.open("/account")
    send = with_key(page, **kind)
    fill_in(page)
    add_key(page, "blue key")
    expect(page.get_by_role("heading", name="Recovery codes")).to_be_visible()
    page.get_by_role("link", name="I have kept them").click()
    row = page.get_by_role("row", name="blue key")
    expect(row).to_contain_text("never")
    assert accessibility_faults(page) == []
    [credential] = send("getCredentials")["credentials"]
    assert credential.get("rpId", "localhost") == "localhost"

    page.get_by_role("button", name="Sign out").click()
    fill_in(page)
    expect(page.get_by_text("Or type one of your recovery codes.")).to_be_visible()
    assert accessibility_faults(page) == []
    page.get_by_role("button", name="Use a security key or passkey").click()
    expect(page.get_by_role("heading", name="Studies", exact=True)).to_be_visible()
    page.goto("/account")
    expect(row).to_contain_text("today")

    visitor.expect_answer(400)
    add_key(page, "blue key")
    expect(page.get_by_text("There is a security key 'blue key': choose another name.")).to_be_visible()
    page.get_by_label("Name for it").fill("again")
    page.get_by_role("button", name="Register it").click()
    expect(page.get_by_text("This key is one of yours already.")).to_be_visible()
    row.get_by_text("Remove…").click()
    expect(row.get_by_label("A recovery code, since this is your only second factor")).to_be_visible()
    visitor.close()
    assert visitor.complaints == []


@pytest.mark.slow
def test_in_a_browser_a_demanded_key_is_registered_and_a_copy_of_it_is_refused(
    start_site: Callable[..., Site], browser: Browser
) -> None:
    site = start_site(authentication="always", second_factor="all")
    site.account("anna", Role.READ)
    visitor = Visitor(browser, site.url.replace("127.0.0.1", "localhost"))
    page = visitor.open("/queue")
    send = with_key(page)
    fill_in(page)
    expect(page.get_by_role("heading", name="Or a security key or passkey")).to_be_visible()
    assert accessibility_faults(page) == []
    page.get_by_role("button", name="Register it").click()
    page.get_by_role("link", name="I have kept them").click()
    expect(page.get_by_role("heading", name="Queue", exact=True)).to_be_visible()
    for _ in range(2):
        page.get_by_role("button", name="Sign out").click()
        fill_in(page)
        page.get_by_role("button", name="Use a security key or passkey").click()
        expect(page.get_by_role("button", name="Sign out")).to_be_visible()
    [credential] = send("getCredentials")["credentials"]
    send("removeCredential", credentialId=credential["credentialId"])
    send("addCredential", credential={**credential, "signCount": 0})
    page.get_by_role("button", name="Sign out").click()
    fill_in(page)
    visitor.expect_answer(401)
    page.get_by_role("button", name="Use a security key or passkey").click()
    expect(page.get_by_role("alert").first).to_contain_text("somebody may have a copy of it")
    send("removeCredential", credentialId=credential["credentialId"])
    send("setAutomaticPresenceSimulation", enabled=False)
    visitor.close()
    assert visitor.complaints == []


@pytest.mark.slow
def test_in_a_browser_at_an_address_it_is_said_that_keys_are_for_names(
    start_site: Callable[..., Site], browser: Browser
) -> None:
    site = start_site(authentication="always")
    site.account("anna", Role.READ)
    visitor = Visitor(browser, site.url)
    page = visitor.open("/account")
    fill_in(page)
    page.get_by_text("Add one").click()
    expect(page.get_by_text("Security keys are for a name: open this node by its name")).to_be_visible()
    expect(page.get_by_role("button", name="Register it")).to_be_disabled()
    visitor.close()
    assert visitor.complaints == []

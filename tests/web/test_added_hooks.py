"""Hooks that an administrator adds in a browser, by REST or by a command, at a node that receives and tells."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from playwright.sync_api import Browser, expect, sync_playwright

from node.control.repository import Repository
from node.errors import UsageError
from node.extensions.administration.additions import NONE_YET
from node.index.nouns.added import ADDED
from node.settings.model import Settings
from tests.acceptance.served import until
from tests.preloaded import run
from tests.receivers import Answer, Received, Receiver
from tests.rows import view_rows
from tests.web.added import PAGE, WEB, Started, audited, chief_of, settings_of, signed_in
from tests.web.conftest import DEADLINE_SECONDS, PASSWORD
from tests.web.pages import Visitor, accessibility_faults, start_browser

pytestmark = pytest.mark.slow

HERE = {"hook_networks": ["127.0.0.0/8"]}
KEY = base64.b64encode(bytes(range(32))).decode()
SECRET = f"whsec_{KEY}"
STORED = ["instance-stored"]


@pytest.fixture
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        yield from start_browser(playwright)


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as one:
        yield one


def served(root: Path, **tables: Any) -> Settings:
    return settings_of(root, web={**WEB, **HERE}, **tables)


def alone(root: Path, **tables: Any) -> Settings:
    return settings_of(root, web={"enabled": False, **HERE}, **tables)


def hooks_of(here: Started) -> dict[str, dict[str, Any]]:
    return {row["hook"]: row for row in view_rows(here.root, "SELECT * FROM v_hooks")}


def is_signed(received: Received) -> bool:
    headers = received.headers
    signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + received.body
    expected = base64.b64encode(hmac.new(bytes(range(32)), signed, hashlib.sha256).digest()).decode()
    return headers.get("webhook-signature") == f"v1,{expected}"


def told(receiver: Receiver) -> list[str]:
    return [str(one.content["sop_instance_uid"]) for one in receiver.received if not one.content["test"]]


def test_a_hook_is_tried_added_changed_paused_and_removed_in_the_browser_while_the_node_receives(
    tmp_path: Path, browser: Browser, receiver: Receiver
) -> None:
    file = {"file": {"on": ["study-quiet"], "url": receiver.url + "/file"}}
    settings = served(tmp_path / "root", hooks=file)
    chief_of(settings)
    here = Started(settings)
    visitor = Visitor(browser, here.url)
    try:
        page = signed_in(visitor)
        of_file = page.locator("tr", has=page.get_by_role("rowheader", name="file"))
        expect(of_file).to_contain_text("the configuration")
        expect(page.get_by_text("Change file", exact=True)).to_have_count(0)
        here.receive(tmp_path, PatientName="Before^Hook")

        page.get_by_text("New hook").click()
        added = page.locator("form[action='/administration/added-hooks']")
        added.get_by_label("Name", exact=True).fill("mail")
        added.get_by_label("Address").fill("ftp://example.org/")
        added.get_by_label("instance-stored").check()
        added.get_by_label("Secret that signs").fill(SECRET)
        added.get_by_role("button", name="Send a test message").click()
        expect(added.locator(".answer")).to_contain_text("must begin with https://")
        added.get_by_label("Address").fill(receiver.url)
        added.get_by_role("button", name="Send a test message").click()
        expect(added.locator(".answer .good")).to_have_text("accepted")
        assert [one.content["test"] for one in receiver.received] == [True]
        assert accessibility_faults(page) == []
        added.get_by_role("button", name="Add the hook").click()
        row = page.locator("tr", has=page.get_by_role("rowheader", name="mail"))
        expect(row).to_contain_text("chief,")
        expect(row).to_contain_text("ready")
        first = here.receive(tmp_path)
        until(lambda: set(first) <= set(told(receiver)), DEADLINE_SECONDS, "the next series")
        assert told(receiver) == first, "only what happens from now on"
        assert all(map(is_signed, receiver.received))
        row.get_by_role("button", name="Send a test message").click()
        expect(page.locator("#hook-tested .good")).to_have_text("accepted")
        assert SECRET not in page.content()
        assert KEY not in page.content()

        row.get_by_role("button", name="Pause").click()
        expect(row).to_contain_text("paused")
        held = here.receive(tmp_path)
        until(lambda: hooks_of(here)["mail"]["instances_behind"] == 2, DEADLINE_SECONDS, "it waits")
        here.stop()
        here = Started(served(tmp_path / "root", hooks=file))
        held += here.receive(tmp_path)
        until(lambda: hooks_of(here)["mail"]["instances_behind"] == 4, DEADLINE_SECONDS, "it waits")
        assert not set(held) & set(told(receiver))
        visitor.close()
        visitor = Visitor(browser, here.url)
        page = signed_in(visitor)
        row = page.locator("tr", has=page.get_by_role("rowheader", name="mail"))
        row.get_by_role("button", name="Resume").click()
        expect(row).to_contain_text("ready")
        until(lambda: set(held) <= set(told(receiver)), DEADLINE_SECONDS, "what waited")
        assert sorted(told(receiver)) == sorted(first + held), "each once"

        page.get_by_text("Change mail", exact=True).click()
        changed = page.locator("form[action='/administration/added-hooks/mail']")
        expect(changed.get_by_label("Another secret")).to_have_value("")
        changed.get_by_label("Series that it is for").fill('modality == "MR"')
        assert accessibility_faults(page) == []
        changed.get_by_role("button", name="Change the hook mail").click()
        expect(row).to_contain_text('modality == "MR"')
        here.receive(tmp_path)
        until(lambda: hooks_of(here)["mail"]["instances_behind"] == 0, DEADLINE_SECONDS, "it is past them")
        assert sorted(told(receiver)) == sorted(first + held)

        row.get_by_role("button", name="Pause").click()
        expect(row).to_contain_text("paused")
        here.receive(tmp_path)
        until(lambda: hooks_of(here)["mail"]["instances_behind"] == 2, DEADLINE_SECONDS, "it waits")
        until(lambda: hooks_of(here)["mail"]["waiting"] == 0, DEADLINE_SECONDS, "none has a message yet")
        page.reload()
        page.get_by_text("Change mail", exact=True).click()
        page.get_by_role("button", name=re.compile("Remove the hook mail and drop [0-9]+ messages")).click()
        expect(row).to_have_count(0)
        assert list(hooks_of(here)) == ["file"]
        lines = [line for line in audited(here.root, "hook mail: ") if line["participants"][0]["user"] == "chief"]
        assert {line["event"]["type"]["code"] for line in lines} == {"110131"}
        details = [line["detail"] for line in lines]
        assert re.fullmatch(r"done: hook mail: removed; [0-9]+ messages dropped", details[-1]), details[-1]
        assert any("; new secret" in one and '"url"' in one for one in details), details
        assert KEY not in (here.root / "audit.jsonl").read_text()
        visitor.close()
        assert visitor.complaints == []
        here.stop()
        here = Started(alone(tmp_path / "root"))
        assert hooks_of(here) == {}
    finally:
        here.stop()


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "command": ({"on": STORED, "command": ["/bin/sh", "-c", "id"]}, "programs that the node runs"),
    "plugin": ({"on": STORED, "plugin": "research"}, "programs that the node runs"),
    "secret": ({"on": STORED, "url": "https://example.org/", "secret_file": "/etc/shadow"}, "give the secret itself"),
    "ca": ({"on": STORED, "url": "https://example.org/", "ca_file": "/etc/shadow"}, "needs a file"),
    "results": ({"on": STORED, "url": "https://example.org/", "results": True}, "writes into the archive"),
    "nowhere": ({"on": STORED}, "exactly one of"),
    "both": ({"on": STORED, "url": "https://example.org/", "peer": "pacs"}, "peer"),
    "none": ({"on": [], "url": "https://example.org/"}, "on"),
    "event": ({"on": ["stored"], "url": "https://example.org/"}, "on"),
    "selector": ({"on": STORED, "url": "https://example.org/", "where": "modality = CT"}, "where"),
    "table": ({"on": STORED, "url": "https://example.org/", "where": {"modality": "CT"}}, "expression"),
    "key": ({"on": STORED, "url": "https://example.org/", "wher": "x"}, "wher"),
    "user": ({"on": STORED, "url": "https://a:b@example.org/"}, "must not contain a user name"),
    "plain": ({"on": STORED, "url": "http://example.org/", "include_patient": True}, "must be https"),
    "loopback": ({"on": STORED, "url": "http://127.0.0.1:1/"}, "hook_networks"),
    "loopback6": ({"on": STORED, "url": "http://[::1]:1/"}, "hook_networks"),
    "mapped": ({"on": STORED, "url": "http://[::ffff:127.0.0.1]:1/"}, "hook_networks"),
    "metadata": ({"on": STORED, "url": "http://169.254.169.254/latest/"}, "hook_networks"),
    "metadata6": ({"on": STORED, "url": "http://[fd00:ec2::254]/"}, "hook_networks"),
    "unspecified": ({"on": STORED, "url": "http://0.0.0.0/"}, "hook_networks"),
    "link": ({"on": STORED, "url": "http://[fe80::1]/"}, "hook_networks"),
    "a b": ({"on": STORED, "url": "https://example.org/"}, "letters, digits"),
    "q\"'><é": ({"on": STORED, "url": "https://example.org/"}, "letters, digits"),
    "file": ({"on": STORED, "url": "https://example.org/"}, "is in the configuration"),
}


def test_programs_files_and_addresses_of_the_machine_are_refused_in_plain_words(tmp_path: Path) -> None:
    file = {"file": {"on": STORED, "url": "http://127.0.0.1:1/"}}
    with Repository(settings_of(tmp_path / "root", hooks=file)) as store:
        actions = store.actions.by_name
        for name, (hook, words) in REFUSED.items():
            for action in ("set-hook", "try-hook"):
                with pytest.raises(UsageError, match=re.escape(words)) as refused:
                    actions[action](name=name, who="chief", hook=hook)
                assert "hooks." not in str(refused.value), "the words of the form"
                assert "shadow" not in str(refused.value)
        for secret in ("whsec_short", "é" * 40, "x" * 5000):
            with pytest.raises(UsageError, match="secret"):
                actions["set-hook"](name="x", who="c", hook={"on": STORED, "url": "https://e.org/"}, secret=secret)
        for name in ("file", "nobody"):
            with pytest.raises(UsageError):
                actions["remove-hook"](name=name, who="chief")
        assert store.index.repository(ADDED["hooks"]).listed() == []


def test_a_name_that_leads_to_this_machine_is_sent_nothing_whatever_it_led_to_before(
    tmp_path: Path, receiver: Receiver
) -> None:
    here = Started(settings_of(tmp_path / "root"))
    try:
        here.receive(tmp_path)
        local = receiver.url.replace("127.0.0.1", "localhost")
        done = here.act("try-hook", name="x", who="chief", hook={"on": STORED, "url": local})
        assert (done["accepted"], "hook_networks" in done["reason"]) == (False, True), done
        here.act("set-hook", name="x", who="chief", hook={"on": STORED, "url": local})
        here.receive(tmp_path)
        until(lambda: hooks_of(here)["x"]["waiting"] > 0, DEADLINE_SECONDS, "it is held back")
        assert receiver.received == []
    finally:
        here.stop()


def test_a_secret_does_not_go_to_another_address_and_is_shown_nowhere(tmp_path: Path, receiver: Receiver) -> None:
    settings = alone(tmp_path / "root")
    here = Started(settings)
    hook = {"on": STORED, "url": receiver.url}
    try:
        here.act("set-hook", name="x", who="chief", hook=hook, secret=SECRET)
        with pytest.raises(UsageError, match="give the secret for it again"):
            here.act("set-hook", name="x", who="chief", hook={**hook, "url": receiver.url + "/other"})
        here.receive(tmp_path)
        receiver.wait_for(2)
        with pytest.raises(UsageError, match="give the secret for it again"):
            here.act("try-hook", name="x", who="chief", hook={**hook, "url": receiver.url + "/other"})
        here.act("set-hook", name="x", who="chief", hook={**hook, "attempts": 3})
        here.receive(tmp_path)
        assert all(map(is_signed, receiver.wait_for(4)))
        assert KEY not in repr(here.settings.hooks["x"])
        assert KEY not in here.settings.model_dump_json()
        here.act("set-hook", name="x", who="chief", hook={**hook, "attempts": 3}, secret="whsec_" + "B" * 44)
        here.receive(tmp_path)
        assert not any(map(is_signed, receiver.wait_for(6)[4:])), "another secret takes effect, too"
        query = {"on": STORED, "url": f"{receiver.url}?token=hidden"}
        here.act("set-hook", name="x", who="chief", hook=query, secret="")
        here.receive(tmp_path)
        assert "webhook-signature" not in receiver.wait_for(8)[-1].headers
        assert "hidden" not in (here.root / "audit.jsonl").read_text()
    finally:
        here.stop()


def test_what_waits_stays_with_a_changed_hook_and_is_dropped_only_if_somebody_agrees(tmp_path: Path) -> None:
    with Receiver(lambda received: Answer(500)) as broken, Receiver() as whole:
        here = Started(alone(tmp_path / "root"))
        try:
            here.act("set-hook", name="x", who="chief", hook={"on": STORED, "url": broken.url})
            uids = here.receive(tmp_path)
            until(lambda: hooks_of(here)["x"]["waiting"] == 2, DEADLINE_SECONDS, "both wait")
            with pytest.raises(UsageError, match="2 messages wait for the hook x"):
                here.act("remove-hook", name="x", who="chief", drops=1)
            here.act("pause-hooks", hooks=["x"], paused=True)
            uids += here.receive(tmp_path)
            until(lambda: hooks_of(here)["x"]["instances_behind"] == 2, DEADLINE_SECONDS, "these have no message yet")
            with pytest.raises(UsageError, match="messages wait for the hook x"):
                here.act("set-hook", name="x", who="chief", hook={"on": ["study-quiet"], "url": broken.url})
            here.act("set-hook", name="x", who="chief", hook={"on": STORED, "url": whole.url})
            here.act("pause-hooks", hooks=["x"], paused=False)
            here.act("retry-deliveries", hook="x", message_id=None)
            until(lambda: set(uids) <= set(told(whole)), DEADLINE_SECONDS, "what waited, at the new address")
            assert sorted(told(whole)) == sorted(uids), "each once"
        finally:
            here.stop()


def test_a_change_waits_for_no_receiver_that_hangs_and_other_hooks_go_on(tmp_path: Path, receiver: Receiver) -> None:
    import threading

    never = threading.Event()
    with Receiver(lambda received: Answer(after=never)) as slow:
        here = Started(alone(tmp_path / "root", hooks={"file": {"on": STORED, "url": receiver.url}}))
        try:
            here.act("set-hook", name="x", who="chief", hook={"on": STORED, "url": slow.url})
            before = {worker.lane.name: worker for worker in here.node._notifier.workers}
            uids = here.receive(tmp_path)
            slow.wait_for(1)
            here.act("set-hook", name="x", who="chief", hook={"on": STORED, "url": receiver.url + "/x"})
            assert not before["x"].is_alive
            after = {worker.lane.name: worker for worker in here.node._notifier.workers}
            assert after["file"] is before["file"]
            receiver.wait_for(4)
            for path in ("/told", "/told/x"):
                came = [one.content["sop_instance_uid"] for one in receiver.received if one.request == f"POST {path}"]
                assert sorted(came) == sorted(uids)
        finally:
            never.set()
            here.stop()


def test_two_administrators_at_once_do_not_overwrite_each_other(tmp_path: Path, receiver: Receiver) -> None:
    with Repository(alone(tmp_path / "root")) as store:
        actions, rows = store.actions.by_name, store.index.repository(ADDED["hooks"])
        hook = {"on": STORED, "url": receiver.url}
        actions["set-hook"](name="x", who="one", hook=hook, seen=NONE_YET)
        with pytest.raises(UsageError, match="choose another name"):
            actions["set-hook"](name="x", who="two", hook=hook, seen=NONE_YET)
        [seen] = [row.change for row in rows.listed()]
        actions["set-hook"](name="x", who="one", hook={**hook, "attempts": 3}, seen=seen)
        for action, given in (("set-hook", {"hook": hook}), ("remove-hook", {})):
            with pytest.raises(UsageError, match="one has changed this meanwhile"):
                actions[action](name="x", who="two", seen=seen, **given)
        [row] = rows.listed()
        assert (row.settings["attempts"], row.changed_by) == (3, "one")
        actions["remove-hook"](name="x", who="one", seen=row.change)
        with pytest.raises(UsageError, match="somebody has removed it"):
            actions["set-hook"](name="x", who="two", hook=hook, seen=row.change)


def test_a_name_that_the_configuration_has_later_is_that_of_the_configuration(
    tmp_path: Path, receiver: Receiver
) -> None:
    here = Started(alone(tmp_path / "root"))
    try:
        here.act("set-hook", name="x", who="chief", hook={"on": STORED, "url": receiver.url + "/added"})
        here.stop()
        here = Started(alone(tmp_path / "root", hooks={"x": {"on": STORED, "url": receiver.url + "/file"}}))
        with pytest.raises(UsageError, match="is changed there"):
            here.act("set-hook", name="x", who="chief", hook={"on": STORED, "url": receiver.url})
        here.receive(tmp_path)
        assert {one.request for one in receiver.wait_for(2)} == {"POST /told/file"}
        assert here.act("remove-hook", name="x", who="chief")["removed"] == "x"
        assert here.node._repository.index.repository(ADDED["hooks"]).listed() == []
        assert list(hooks_of(here)) == ["x"], "that of the configuration goes on"
        here.receive(tmp_path)
        receiver.wait_for(4)
    finally:
        here.stop()


def test_rows_that_run_programs_are_not_believed(tmp_path: Path) -> None:
    here = Started(settings_of(tmp_path / "root"))
    try:
        rows = here.node._repository.index.repository(ADDED["hooks"])
        program = {"on": STORED, "command": ["/bin/touch", str(tmp_path / "ran")]}
        rows.set("evil", program, "somebody", here.node._repository.index.now())
        here.stop()
        here = Started(settings_of(tmp_path / "root"))
        assert set(here.settings.added.unusable_in("hooks")) == {"evil"}
        assert hooks_of(here) == {}
        here.receive(tmp_path)
        here.act("remove-hook", name="evil", who="chief")
        assert not (tmp_path / "ran").exists()
    finally:
        here.stop()


def test_administrators_alone_see_and_change_hooks_by_rest_and_no_other_page_does(
    tmp_path: Path, receiver: Receiver
) -> None:
    file = {"file": {"on": ["study-quiet"], "url": receiver.url}}
    settings = served(tmp_path / "root", hooks=file)
    chief_of(settings)
    here = Started(settings)
    chief, writer = (httpx2.Client(base_url=here.url, auth=(name, PASSWORD)) for name in ("chief", "writer"))
    hook = "/api/v1/hook-rules/mail"
    rules = {"on": STORED, "url": receiver.url}
    try:
        for method, path in {
            ("GET", "/api/v1/hook-rules"), ("GET", hook), ("PUT", hook), ("DELETE", hook), ("POST", f"{hook}/try"),
            ("POST", f"{hook}/pause"),
        }:  # fmt: skip
            assert writer.request(method, path, json=rules).status_code == 403, path
        form = {"name": "mail", "url": receiver.url, "on": "instance-stored"}
        for path in ("added-hooks", "added-hooks/mail", "added-hooks/mail/remove", "try-hook", "hooks/file"):
            asked = {"Origin": here.url.rstrip("/")}
            assert writer.post(f"/administration/{path}", data=form, headers=asked).status_code == 403, path
            foreign = chief.post(f"/administration/{path}", data=form, headers={"Origin": "https://evil.example"})
            assert foreign.status_code == 403, path
        scripted = chief.post("/administration/added-hooks", data=form, headers={"Origin": here.url.rstrip("/")})
        assert scripted.status_code == 403, "a password of a script is no sign-in"
        assert receiver.received == []
        assert chief.get(hook).status_code == 404
        for words in ({"command": ["id"]}, {"secret_file": "/etc/shadow"}, {"results": True}):
            assert chief.put(hook, json={**rules, **words}).status_code in (400, 422)
        here.receive(tmp_path)
        tried = chief.post(f"{hook}/try", json={**rules, "secret": SECRET}).json()
        assert (tried["accepted"], tried["event"]) == (True, "instance-stored")
        assert is_signed(receiver.received[0])
        assert chief.put(hook, json={**rules, "secret": SECRET}).json() == {"hook": "mail", "dropped": 0}
        uids = here.receive(tmp_path)
        until(lambda: set(uids) <= set(told(receiver)), DEADLINE_SECONDS, "what came after the answer")
        shown = chief.get(hook)
        assert (shown.json()["changed_by"], shown.json()["secret"], shown.json()["rules"]["attempts"]) == (
            "chief",
            True,
            12,
        )
        for path in ("/api/v1/hook-rules", "/administration/configuration", PAGE):
            assert KEY not in chief.get(path).text
        listed = {one["hook"]: one["changed_by"] for one in chief.get("/api/v1/hook-rules").json()["items"]}
        assert listed == {"file": None, "mail": "chief"}
        assert chief.post(f"{hook}/pause").json() == {"action": "pause", "changed": 1}
        assert chief.get(hook).json()["paused"]
        assert chief.put(hook, json=rules, headers={"If-Match": '"0"'}).status_code == 412
        assert chief.post("/api/v1/hook-rules/file/try").json()["event"] == "study-quiet"
        assert chief.delete("/api/v1/hook-rules/file").status_code == 400
        assert chief.delete(hook, params={"drops": 99}).json()["removed"] == "mail"
        assert chief.delete(hook).status_code == 404
    finally:
        chief.close()
        writer.close()
        here.stop()


def test_a_test_that_names_the_patient_is_an_export_in_the_audit_log(tmp_path: Path, receiver: Receiver) -> None:
    here = Started(alone(tmp_path / "root"))
    try:
        here.receive(tmp_path, PatientID="P-EXPORT")
        here.act("try-hook", name="x", who="chief", hook={"on": STORED, "url": receiver.url, "include_patient": True})
        [one] = receiver.received
        assert one.content["patient"]["patient_id"] == "P-EXPORT"
        [line] = [line for line in audited(here.root, "") if line["event"]["meaning"] == "Export"]
        assert line["objects"][0]["patient_id"] == "P-EXPORT"
    finally:
        here.stop()


def test_commands_do_the_same_with_and_without_a_node(tmp_path: Path, receiver: Receiver) -> None:
    settings = alone(tmp_path / "root")
    config = tmp_path / "voxelnode.toml"
    config.write_text('[peers.CT1]\nae_title = "CT1"\n[web]\nenabled = false\nhook_networks = ["127.0.0.1"]\n')
    where = ("--config", config, "--root", settings.storage.root)
    with Repository(settings):
        pass
    (tmp_path / "key").write_text(SECRET)
    hook = ("mail", "on=instance-stored", f"url={receiver.url}")
    run("hooks", "set", *hook, "--secret-file", tmp_path / "key", *where, check=True)
    refused = run("hooks", "set", *hook, f"secret={SECRET}", *where)
    assert (refused.returncode, "--secret-file" in refused.stderr) == (2, True)
    here = Started(alone(tmp_path / "root"))
    try:
        uids = here.receive(tmp_path)
        until(lambda: set(uids) <= set(told(receiver)), DEADLINE_SECONDS, "a hook of a command before the start")
        assert all(map(is_signed, receiver.received))
        assert "accepted" in run("hooks", "try", "mail", *where, check=True).stdout
        assert "accepted" in run("hooks", "try", "new", *hook[1:], *where, check=True).stdout
        assert "accepted" in run("hooks", "test", "mail", *where, check=True).stdout
        assert is_signed(receiver.received[-1])
        run("hooks", "pause", "mail", *where, check=True)
        here.receive(tmp_path)
        until(lambda: hooks_of(here)["mail"]["instances_behind"] == 2, DEADLINE_SECONDS, "it waits")
        [listed] = json.loads(run("hooks", "list", "--json", *where, check=True).stdout)
        assert (listed["hook"], listed["paused"]) == ("mail", True)
        refused = run("hooks", "remove", "mail", *where)
        assert (refused.returncode, "wait for the hook mail" in refused.stderr) == (2, True), refused.stderr
        run("hooks", "resume", "mail", *where, check=True)
        until(lambda: hooks_of(here)["mail"]["instances_behind"] == 0, DEADLINE_SECONDS, "it went on")
    finally:
        here.stop()
    run("hooks", "remove", "mail", "--drop", "9", *where, check=True)
    assert view_rows(settings.storage.root, "SELECT 1 FROM v_hooks") == []

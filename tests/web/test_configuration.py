"""What an administrator sets in a browser or by REST, at a node that receives and sends meanwhile."""

import re
from collections.abc import Callable
from pathlib import Path

import httpx2
import pytest
from playwright.sync_api import expect

from node.control.configuration import pages_file
from tests.acceptance.served import until
from tests.integration.test_configuration import is_accepted
from tests.peers import Pacs
from tests.receivers import Receiver
from tests.web.configured import PAGE, WEB, Started, audited, chief_of, drop_in, settings_of, signed_in
from tests.web.conftest import DEADLINE_SECONDS, PASSWORD
from tests.web.pages import Visitor, accessibility_faults

HOOK = {"kind": "webhook", "on": ["instance-stored"], "url": "https://example.org/"}
FILES = {"hooks": {"file": HOOK}, "routes": {"file": {"to": ["pacs"], "where": 'modality == "XX"'}}}
SECRET = "whsec_" + "A" * 43 + "="


@pytest.mark.long
def test_peers_routes_and_hooks_are_set_and_removed_in_the_browser_while_the_node_receives(
    tmp_path: Path, visit: Callable[[str], Visitor], pacs: Pacs
) -> None:
    settings = settings_of(tmp_path / "root", pacs, web={**WEB, "hook_networks": ["127.0.0.0/8"]}, **FILES)
    chief_of(settings)
    with Started(settings) as here:
        visitor = visit(here.url)
        with Receiver() as receiver:
            page = signed_in(visitor)
            for of_file in page.locator("tr", has=page.get_by_role("rowheader", name="file")).all():
                expect(of_file).to_contain_text("voxelnode.toml")
            expect(page.get_by_text("Change file", exact=True)).to_have_count(0)

            for what in ("peer", "route", "hook"):
                page.get_by_text(f"New {what}").click()
            assert accessibility_faults(page) == []
            form = page.locator("form[action='/administration/set/peers']", has_text="Add the peer")
            form.get_by_label("Name", exact=True).fill("ct9")
            form.get_by_label("ae_title").fill("CT9")
            form.get_by_label("Address where it listens").fill("127.0.0.1")
            form.get_by_label("TCP port").fill(str(pacs.port))
            form.get_by_role("button").click()
            row = page.locator("tr", has=page.get_by_role("rowheader", name="ct9"))
            expect(row).to_contain_text("the pages")
            assert is_accepted(here.address, "CT9")
            page.get_by_text("Change ct9", exact=True).click()
            form = page.locator("form[action='/administration/set/peers']", has_text="Change the peer")
            form.get_by_label("ae_title").fill("CT10")
            form.get_by_role("button").click()
            expect(row).to_contain_text("CT10")
            assert (is_accepted(here.address, "CT9"), is_accepted(here.address, "CT10")) == (False, True)

            page.get_by_text("New route").click()
            form = page.locator("form[action='/administration/set/routes']", has_text="Add the route")
            form.get_by_label("Name", exact=True).fill("night")
            form.get_by_label("ct9").check()
            form.get_by_label("when").select_option("instance-stored")
            form.get_by_label("Attributes of the copies").fill("InstitutionName = CITY")
            form.get_by_role("button", name="Add the route").click()
            row = page.locator("tr", has=page.get_by_role("rowheader", name="night"))
            expect(row).to_contain_text("everything after instance-stored")

            page.get_by_text("New hook").click()
            form = page.locator("form[action='/administration/set/hooks']", has_text="Add the hook")
            form.get_by_label("Name", exact=True).fill("mail")
            form.get_by_label("url").fill(receiver.url)
            form.get_by_label("instance-stored").check()
            form.get_by_label("secret").fill(SECRET)
            form.get_by_role("button", name="Add the hook").click()
            hook = page.locator("tr", has=page.get_by_role("rowheader", name="mail"))
            expect(hook).to_contain_text("ready")

            uids = here.receive(tmp_path)
            until(lambda: set(uids) <= set(pacs.taken), DEADLINE_SECONDS, "the route")
            receiver.wait_for(2)
            hook.get_by_role("button", name="Send a test message").click()
            expect(page.locator("#hook-tested .good")).to_have_text("accepted")
            assert SECRET not in page.content()
            page.get_by_text("Change mail", exact=True).click()
            form = page.locator("form[action='/administration/set/hooks']", has_text="Change the hook")
            expect(form.get_by_label("the stored one stays")).to_have_value("")
            form.get_by_label("where").fill('modality == "MR"')
            form.get_by_role("button", name="Change the hook mail").click()
            expect(hook).to_contain_text('modality == "MR"')
            assert drop_in(here.root) == {
                "peers": {
                    "ct9": {
                        "may": ["echo", "store"], "ae_title": "CT10", "port": pacs.port, "host": "127.0.0.1",
                    },
                },
                "routes": {
                    "night": {"when": "instance-stored", "to": ["ct9"], "set": {"InstitutionName": "CITY"}},
                },
                "hooks": {
                    "mail": {
                        "kind": "webhook", "on": ["instance-stored"], "where": 'modality == "MR"',
                        "url": receiver.url, "secret": SECRET,
                    },
                },
            }  # fmt: skip

            page.get_by_role("main").get_by_role("link", name="Routes", exact=True).click()
            row.get_by_role("button", name="Pause").click()
            expect(row).to_contain_text("paused")
            here.receive(tmp_path)
            until(lambda: here.states()["night/ct9"]["instances_behind"] == 2, DEADLINE_SECONDS, "it waits")
            page.goto(PAGE)
            page.get_by_text("Change night", exact=True).click()
            expect(page.get_by_text("2 messages wait for this route")).to_be_visible()
            page.get_by_role("button", name="Remove the route night and drop 2 messages that wait").click()
            expect(row).to_have_count(0)
            for what, name in (("hook", "mail"), ("peer", "ct9")):
                page.get_by_text(f"Change {name}", exact=True).click()
                page.get_by_role("button", name=f"Remove the {what} {name}").click()
                expect(page.get_by_role("rowheader", name=name)).to_have_count(0)
            assert not is_accepted(here.address, "CT10")
            assert drop_in(here.root) == {}
            lines = [line for line in audited(here.root, "configuration: [") if "done" in line["detail"]]
            assert {line["participants"][0]["user"] for line in lines} == {"chief"}
            assert {line["event"]["type"]["code"] for line in lines} == {"110131"}
            assert [re.findall(r"\[.*?\]", line["detail"])[0] for line in lines] == [
                "[peers.ct9]", "[peers.ct9]", "[routes.night]", "[hooks.mail]", "[hooks.mail]", "[routes.night]",
                "[hooks.mail]", "[peers.ct9]",
            ]  # fmt: skip
            assert "done: configuration: [routes.night] removed; 2 messages dropped" in [one["detail"] for one in lines]
            assert SECRET not in (here.root / "audit.jsonl").read_text()
            visitor.close()


@pytest.mark.slow
def test_rules_of_retention_are_set_and_applied_in_the_browser(tmp_path: Path, visit: Callable[[str], Visitor]) -> None:
    settings = settings_of(tmp_path / "root", web=WEB)
    chief_of(settings)
    here = Started(settings)
    visitor = visit(here.url)
    visitor.expect_answer(400)  # of two files with one table
    try:
        here.receive(tmp_path, PatientName="Due^1")
        here.receive(tmp_path, PatientName="Due^2")
        page = signed_in(visitor, "/administration/retention")
        expect(page.get_by_text("Retention: unlimited")).to_be_visible()
        page.get_by_text("Change the rules").click()
        page.get_by_label("Most studies to keep").fill("1")
        page.get_by_label("Keep a study while").uncheck()
        assert accessibility_faults(page) == []
        page.get_by_role("button", name="Set the rules").click()
        expect(page.get_by_role("heading", name="1 of 2 studies would be deleted now")).to_be_visible()
        assert drop_in(here.root) == {"retention": {"maximum_studies": 1, "only_converted": False}}

        pages_file(here.root).rename(pages_file(here.root).with_name("10-ours.toml"))
        (here.root / "conf.d" / "20-web.toml").write_text('[retention]\ndays = 3\n[log]\nlevel = "info"\n')
        page.goto("/administration/configuration")
        page.get_by_role("button", name="Apply").click()
        expect(page.get_by_text("[retention] is in both")).to_be_visible()
        assert here.settings.retention.maximum_studies == 1
        (here.root / "conf.d" / "20-web.toml").write_text("[series]\nquiet_seconds = 5\n")
        page.goto("/administration/configuration")
        page.get_by_role("button", name="Apply").click()
        expect(page.locator(".notice")).to_contain_text("At the next start of the node: series.quiet_seconds")
        expect(page.get_by_role("row", name="retention.maximum_studies")).to_contain_text("10-ours.toml")
        assert accessibility_faults(page) == []
        page.goto("/administration/retention")
        expect(page.get_by_text("Another file has rules")).to_be_visible()
        expect(page.get_by_text("Change the rules")).to_have_count(0)
    finally:
        visitor.close()
        here.stop()


def test_a_stale_form_and_a_folder_that_cannot_be_written_are_reported_on_the_page(tmp_path: Path) -> None:
    settings = settings_of(tmp_path / "root", web=WEB)
    chief_of(settings)
    with Started(settings) as here:
        headers = {"Origin": here.url.rstrip("/"), "Accept": "text/html"}
        with httpx2.Client(base_url=here.url, headers=headers) as client:
            client.post("/login", data={"name": "chief", "password": PASSWORD})
            seen = re.findall(r'name="seen" value="(\w+)"', client.get(PAGE).text)[0]
            form = {"name": "ct9", "ae_title": "CT9", "may": "echo", "is_new": "true"}
            assert client.post("/administration/set/peers", data={**form, "seen": seen}).status_code == 303
            for name, given, words in (
                ("ct10", {"seen": seen}, "the configuration has changed meanwhile: look at it again"),
                ("ct9", {}, "choose another name"),
            ):
                refused = client.post("/administration/set/peers", data={**form, **given, "name": name})
                assert (refused.status_code, words.lower() in refused.text.lower()) == (400, True), refused.text
            pages_file(here.root).unlink()
            (here.root / "conf.d").rmdir()
            (here.root / "conf.d").symlink_to("/sys/kernel")
            refused = client.post("/administration/set/peers", data={**form, "name": "new"})
            assert "<pre>[peers.new]\nae_title = &#34;CT9&#34;\n" in refused.text
            writer = httpx2.Client(base_url=here.url, headers=headers)
            writer.post("/login", data={"name": "writer", "password": PASSWORD})
            for path in ("/administration/set/peers", "/administration/configuration/apply"):
                assert writer.post(path, data=form).status_code == 403

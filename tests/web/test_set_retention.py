"""Rules of retention that an administrator sets in a browser, by REST or by a command, and a node that follows them."""

from __future__ import annotations

import json
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
from node.lifecycle.retention import Retention
from node.settings.model import Settings
from tests.acceptance.served import until
from tests.preloaded import run
from tests.rows import view_rows
from tests.web.added import WEB, Started, audited, chief_of, settings_of, signed_in
from tests.web.conftest import DEADLINE_SECONDS, PASSWORD
from tests.web.pages import Visitor, accessibility_faults, start_browser

pytestmark = pytest.mark.slow

PAGE = "/administration/retention"
ONE = {"maximum_studies": 1, "only_converted": False}


@pytest.fixture
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        yield from start_browser(playwright)


def served(root: Path, **tables: Any) -> Settings:
    return settings_of(root, web=WEB, **tables)


def receive(here: Started, folder: Path, count: int) -> None:
    for number in range(count):
        here.receive(folder, PatientName=f"Due^{number}")


def studies(root: Path) -> int:
    return len(view_rows(root, "SELECT 1 FROM v_studies"))


def an_hour_later(here: Started) -> None:
    """Let the next pass be due, and wait until it was made."""
    [service] = [one for one in here.node.services if isinstance(one, Retention)]
    service._passed_at = None
    service.wake()
    until(lambda: service._passed_at is not None, DEADLINE_SECONDS, "the pass")


def waits_for(here: Started) -> str:
    with here.node._repository.index.reading() as index:
        return index.retention.waits_for or ""


def test_rules_are_set_in_the_browser_once_the_number_is_typed_and_the_next_pass_follows_them(
    tmp_path: Path, browser: Browser
) -> None:
    settings = served(tmp_path / "root", retention={"trash_days": 3})
    chief_of(settings)
    here = Started(settings)
    visitor = Visitor(browser, here.url)
    try:
        an_hour_later(here)
        receive(here, tmp_path, 5)
        page = signed_in(visitor, PAGE)
        expect(page.get_by_text("Retention: unlimited")).to_be_visible()
        page.get_by_text("Change the rules").click()
        form = page.locator("form[action^='/administration/retention/rules']")
        form.get_by_label("Largest number of studies").fill("1")
        form.get_by_label("Keep a study while").uncheck()
        form.get_by_role("button", name="Set the rules").click()
        expect(page.get_by_role("alert")).to_contain_text("4 studies of 5 would be due")
        expect(page.get_by_text("4 of 5 studies,", exact=False).first).to_be_visible()
        expect(page.get_by_role("rowheader", name="Due, 0")).to_be_visible()
        expect(page.get_by_text("Retention: unlimited")).to_be_visible()
        assert accessibility_faults(page) == []
        assert not here.settings.retention.is_active
        expect(form.get_by_label("Largest number of studies")).to_have_value("1")
        receive(here, tmp_path, 1)
        form.get_by_label("How many may be deleted").fill("4")
        form.get_by_role("button", name="Set the rules").click()
        expect(page.get_by_role("alert")).to_contain_text("5 studies of 6 would be due by these rules, not 4")
        assert not here.settings.retention.is_active
        form.get_by_label("How many may be deleted").fill("5")
        form.get_by_role("button", name="Set the rules").click()
        expect(page.get_by_text("chief has set rules here")).to_be_visible()
        assert here.settings.retention.maximum_studies == 1
        assert studies(here.root) == 6, "not before the next pass"
        an_hour_later(here)
        assert studies(here.root) == 1
        assert waits_for(here) == ""
        trash = view_rows(here.root, "SELECT trash_until FROM v_deletions")
        assert (len(trash), all(row["trash_until"] for row in trash)) == (5, True)
        receive(here, tmp_path, 5)
        an_hour_later(here)
        assert studies(here.root) == 6, "what was confirmed has gone, and this is an unusual number again"
        assert waits_for(here).startswith("5 studies are due at once")
        details = [line["detail"] for line in audited(here.root, "retention: {")]
        assert details[-1].startswith('done: retention: {"maximum_studies": 1, "only_converted": false}')
        assert details[-1].endswith("; 5 studies due")

        page.reload()
        page.get_by_text("Change the rules").click()
        form.get_by_label("Largest number of studies").fill("")
        form.get_by_role("button", name="Set the rules").click()
        expect(page.get_by_text("Retention: unlimited")).to_be_visible()
        until(lambda: waits_for(here) == "", DEADLINE_SECONDS, "nothing is asked any more")
        an_hour_later(here)
        assert studies(here.root) == 6
        visitor.close()
        assert visitor.complaints == []
        here.stop()
        here = Started(served(tmp_path / "root"))
        assert not here.settings.retention.only_converted, "the change stays over restarts"
    finally:
        here.stop()


def test_a_key_of_the_configuration_is_shown_and_not_changed(tmp_path: Path, browser: Browser) -> None:
    settings = served(tmp_path / "root", retention={"days": 30, "keep_where": {"modality": "MR"}})
    chief_of(settings)
    here = Started(settings)
    visitor = Visitor(browser, here.url)
    try:
        page = signed_in(visitor, PAGE)
        page.get_by_text("Change the rules").click()
        form = page.locator("form[action^='/administration/retention/rules']")
        expect(form.get_by_label("Days without a new instance")).to_have_count(0)
        expect(form.get_by_label("Series whose studies are never deleted")).to_have_count(0)
        form.get_by_label("The same for single senders").fill("CT1 = 60\nRÖ\"<b>' = never")
        form.get_by_role("button", name="Set the rules").click()
        expect(page.get_by_text("chief has set rules here")).to_be_visible()
        rules = here.settings.retention
        assert (rules.days, rules.days_by_calling_ae_title) == (30, {"CT1": 60, "RÖ\"<b>'": "never"})
        for key in ("days", "maximum_share", "trash_days"):
            with pytest.raises(UsageError, match=key):
                here.act("set-retention", who="chief", rules={key: 1}, confirmed=99)
        assert rules.keep_where == {"modality": "MR"}
    finally:
        here.stop()


def test_rules_that_nobody_has_confirmed_together_delete_nothing(tmp_path: Path) -> None:
    here = Started(settings_of(tmp_path / "root"))
    try:
        receive(here, tmp_path, 3)
        here.act("set-retention", who="chief", rules={"only_converted": False}, confirmed=0)
        here.stop()
        here = Started(settings_of(tmp_path / "root", retention={"maximum_studies": 1}))
        until(lambda: "has changed since chief" in waits_for(here), DEADLINE_SECONDS, "it waits for a person")
        assert here.act("confirm-retention", who="chief")["confirmed"] == "", "that is another question"
        assert studies(here.root) == 3
        with pytest.raises(UsageError, match="2 studies of 3 would be due"):
            here.act("set-retention", who="chief", rules={"only_converted": False}, confirmed=1)
        here.act("set-retention", who="chief", rules={"only_converted": False}, confirmed=2)
        until(lambda: waits_for(here) == "", DEADLINE_SECONDS, "it goes on")
        an_hour_later(here)
        assert studies(here.root) == 1
        here.stop()
        here = Started(settings_of(tmp_path / "root"))
        until(lambda: "has changed since chief" in waits_for(here), DEADLINE_SECONDS, "the configuration lost its rule")
        here.act("set-retention", who="chief", rules={})
        assert here.settings.added.retention is None
        until(lambda: waits_for(here) == "", DEADLINE_SECONDS, "the configuration alone")
    finally:
        here.stop()


def test_two_administrators_at_once_and_rules_that_are_wrong_change_nothing(tmp_path: Path) -> None:
    with Repository(settings_of(tmp_path / "root")) as store:
        actions, rows = store.actions.by_name, store.index.repository(ADDED["retention"])
        actions["set-retention"](who="one", rules={"days": 90}, confirmed=0, seen=NONE_YET)
        with pytest.raises(UsageError, match="one has changed this meanwhile"):
            actions["set-retention"](who="two", rules={"days": 1}, confirmed=0, seen=NONE_YET)
        for rules in (
            {"days": 0}, {"days": "soon"}, {"maximum_studies": 0}, {"keep_where": "modality = MR"},
            {"keep_where": {"modality": "MR"}}, {"day": 1}, {"days_by_calling_ae_title": {"CT1": "x"}},
        ):  # fmt: skip
            for action, given in (("set-retention", {"who": "two", "confirmed": 9}), ("try-retention", {})):
                with pytest.raises(UsageError, match=next(iter(rules))):
                    actions[action](rules=rules, **given)
        [row] = rows.listed()
        assert (row.settings["rules"], row.changed_by) == ({"days": 90}, "one")


def test_administrators_alone_see_and_change_rules_by_rest_and_no_other_page_does(tmp_path: Path) -> None:
    settings = served(tmp_path / "root", retention={"days": 3650})
    chief_of(settings)
    here = Started(settings)
    chief, writer = (httpx2.Client(base_url=here.url, auth=(name, PASSWORD)) for name in ("chief", "writer"))
    place = "/api/v1/retention"
    try:
        receive(here, tmp_path, 3)
        for method, path in {("GET", place), ("PUT", place), ("POST", f"{place}/try"), ("GET", PAGE)}:
            assert writer.request(method, path, json=ONE).status_code == 403, path
        for client, origin in ((writer, here.url.rstrip("/")), (chief, "https://evil.example")):
            posted = client.post(f"{PAGE}/rules", data={"confirmed": 9}, headers={"Origin": origin})
            assert posted.status_code == 403
        tried = chief.post(f"{place}/try", json=ONE).json()
        assert (tried["studies"], tried["of_studies"], tried["bytes"] > 0) == (2, 3, True)
        refused = chief.put(place, json=ONE)
        assert (refused.status_code, "2 studies of 3" in refused.text) == (400, True)
        shown = chief.get(place)
        assert (shown.json()["owned"], shown.json()["changed_by"]) == (["days"], None)
        assert chief.put(place, json={"days": 1}, params={"confirm": 9}).status_code == 400
        stale = {"If-Match": '"0"'}
        assert chief.put(place, json=ONE, params={"confirm": 2}, headers=stale).status_code == 412
        done = chief.put(place, json=ONE, params={"confirm": 2}, headers={"If-Match": shown.headers["ETag"]}).json()
        assert (done["studies"], done["rules"]["maximum_studies"]) == (2, 1)
        assert chief.get(place).json()["changed_by"] == "chief"
        keys = chief.get("/administration/configuration", params={"chosen": "true"}).text
        assert "retention.maximum_studies" in keys
        an_hour_later(here)
        assert studies(here.root) == 1
    finally:
        chief.close()
        writer.close()
        here.stop()


def test_commands_do_the_same_with_and_without_a_node(tmp_path: Path) -> None:
    settings = settings_of(tmp_path / "root")
    config = tmp_path / "voxelnode.toml"
    config.write_text('[peers.CT1]\nae_title = "CT1"\n[web]\nenabled = false\n')
    where = ("--config", config, "--root", settings.storage.root)
    rules = ("maximum_studies=1", "only_converted=false")
    here = Started(settings)
    try:
        an_hour_later(here)
        receive(here, tmp_path, 3)
        assert "2 of 3 studies would be due" in run("retention", "try", *rules, *where, check=True).stdout
        refused = run("retention", "set", *rules, *where)
        assert (refused.returncode, "--confirm 2" in refused.stderr) == (2, True), refused.stderr
        run("retention", "set", *rules, "--confirm", "2", *where, check=True)
        assert here.settings.retention.maximum_studies == 1
        assert json.loads(run("retention", "--json", *where, check=True).stdout)["studies"] == 3
        assert "2 of 3 studies would be deleted" in run("retention", *where, check=True).stdout
    finally:
        here.stop()
    run("retention", "set", "days=90", 'keep_where=modality == "CT"', *where, check=True)
    run("retention", "remove", *where, check=True)
    assert "unlimited" in run("retention", *where, check=True).stdout


def test_what_was_set_stays_while_administration_is_off(tmp_path: Path) -> None:
    off = {"extensions": {"disabled": ["administration"]}}
    here = Started(settings_of(tmp_path / "root"))
    try:
        receive(here, tmp_path, 3)
        here.act("set-retention", who="chief", rules=ONE, confirmed=2)
        here.act("set-hook", name="x", who="chief", hook={"on": ["study-quiet"], "url": "https://example.org/"})
        here.stop()
        here = Started(settings_of(tmp_path / "root", **off))
        until(lambda: studies(here.root) == 1, DEADLINE_SECONDS, "the pass of the start")
        assert list(here.settings.hooks) == ["x"]
        for action, given in (("set-retention", {"rules": {}}), ("remove-hook", {"name": "x"})):
            with pytest.raises(UsageError, match="switches off"):
                here.act(action, who="chief", **given)
    finally:
        here.stop()

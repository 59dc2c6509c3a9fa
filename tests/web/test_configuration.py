"""What an administrator sets in a browser or by REST, at a node that receives and sends meanwhile."""

import re
from collections.abc import Callable
from pathlib import Path

import httpx2
import pytest
from playwright.sync_api import expect

from node.control.configuration import pages_file
from tests.web.configured import PAGE, WEB, Started, chief_of, drop_in, settings_of, signed_in
from tests.web.conftest import PASSWORD
from tests.web.pages import Visitor, accessibility_faults


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

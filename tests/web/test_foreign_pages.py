"""Pages of other sites, in a real browser that is logged in here (fault W5): they change nothing and read nothing."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from playwright.sync_api import Browser, Page

from node.index.rules.people.accounts import Role
from tests import make
from tests.web.conftest import PASSWORD, Site, StartSite

pytestmark = pytest.mark.slow


@pytest.fixture
def elsewhere() -> Iterator[str]:
    """The URL of another site that serves an empty page; of another name too, so that cookies are not shared."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(b"<!doctype html><title>elsewhere</title>")

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield f"http://localhost:{server.server_port}/"
    server.shutdown()
    thread.join()
    server.server_close()


def logged_in(browser: Browser, site: Site) -> Page:
    page = browser.new_context().new_page()
    page.goto(f"{site.url}/login")
    page.fill("input[name=name]", "admin")
    page.fill("input[name=password]", PASSWORD)
    with page.expect_navigation():
        page.press("input[name=password]", "Enter")
    assert page.request.get(f"{site.url}/api/v1/studies/1.2").status == 200
    return page


SUBMIT = """url => {
    const form = document.createElement("form");
    form.method = "POST"; form.action = url;
    document.body.append(form); form.submit();
}"""
FETCH = "([url, options]) => fetch(url, options).then(answer => answer.type + answer.status, error => 'failed')"


@pytest.mark.parametrize("authentication", ["always", "auto"])
def test_a_page_elsewhere_can_neither_delete_nor_read(
    browser: Browser, start_site: StartSite, elsewhere: str, authentication: str
) -> None:
    site = start_site(authentication=authentication)
    site.take(make.instance(study_uid="1.2"))
    site.account("admin", Role.ADMIN)
    page = logged_in(browser, site)
    page.goto(elsewhere)
    with page.expect_navigation() as posted:
        page.evaluate(SUBMIT, f"{site.url}/studies/1.2/delete")
    assert posted.value.status == 403
    page.goto(elsewhere)
    study = f"{site.url}/api/v1/studies/1.2"
    assert page.evaluate(FETCH, [study, {"credentials": "include"}]) == "failed"
    assert page.evaluate(FETCH, [study, {"method": "DELETE", "credentials": "include"}]) == "failed"
    page.evaluate(FETCH, [f"{study}/reconvert", {"method": "POST", "mode": "no-cors", "credentials": "include"}])
    assert site.client(auth=("admin", PASSWORD)).get("/api/v1/studies/1.2").json()["states"] == {"receiving": 1}
    page.context.close()


def test_our_own_pages_may(browser: Browser, start_site: StartSite) -> None:
    site = start_site(authentication="always")
    site.take(make.instance(study_uid="1.2"))
    site.account("admin", Role.ADMIN)
    page = logged_in(browser, site)
    assert page.evaluate(FETCH, ["/api/v1/studies/1.2", {"method": "DELETE"}]) == "basic200"
    page.evaluate(SUBMIT, "/logout")
    page.wait_for_url(f"{site.url}/login")
    assert page.evaluate(FETCH, ["/api/v1/studies", {}]) == "basic401"
    page.context.close()

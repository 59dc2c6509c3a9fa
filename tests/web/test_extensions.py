"""An extension that is switched off serves nothing over HTTP, and the pages do not offer it."""

from collections.abc import Mapping

import pytest

from node.extensions.conformance.statement import statement
from node.registry import installed
from node.settings.model import Settings
from tests import make
from tests.web.conftest import Site, StartSite

JSON = {"Accept": "application/json"}

SERVED: Mapping[str, tuple[str, ...]] = {
    "dicomweb": ("/dicom-web/studies", "/dicom-web/series", "/dicom-web/instances", "/upload"),
    "pages": ("/", "/status", "/login", "/worklist", "/static/voxelnode.css"),
    "peers": ("/api/v1/peers", "/peers"),
    "results": (),
    "worklist": ("/worklist", "/api/v1/worklist", "/api/v1/performed-steps"),
}
"""By extension, paths of which each needs nothing but a node."""

OF_ONE = {"results": {"/api/v1/jobs/{job}", "/api/v1/jobs/{job}/outcome"}}
"""By extension, paths of something that there has to be."""

IN_MENU = {"dicomweb", "pages"}


@pytest.mark.sample(0, 2)
@pytest.mark.parametrize("name", SERVED)
def test_an_extension_that_is_off_serves_and_offers_nothing(empty: Site, start_site: StartSite, name: str) -> None:
    client, without = empty.client(), start_site({"extensions": {"disabled": [name]}}).client()
    for path in SERVED[name]:
        assert (client.get(path).status_code, without.get(path).status_code) == (200, 404), path
    described, left = (set(one.get("/api/v1/openapi.json").json()["paths"]) for one in (client, without))
    assert {path for path in SERVED[name] if path.startswith("/api/")} | OF_ONE.get(name, set()) <= described - left
    linked = [path for path in SERVED[name] if f'href="{path}"' in client.get("/").text]
    assert bool(linked) == (name in IN_MENU)
    assert not any(f'href="{path}"' in without.get("/").text for path in linked)


@pytest.mark.slow
def test_a_node_without_any_extension_receives_converts_and_serves(start_site: StartSite) -> None:
    disabled = [extension.name for extension in installed()]
    for kept, status in (("pages", 200), ("", 404)):
        site = start_site({"extensions": {"disabled": [name for name in disabled if name != kept]}})
        site.take(*make.ct_series(3, study_uid="1.2.3", series_uid="1.2.3.1"))
        site.convert()
        client = site.client()
        for path in ("/", "/studies/1.2.3", "/work", "/status"):
            shown = client.get(path, headers={"Accept": "text/html"})
            assert (shown.status_code, "/dicom-web" in shown.text) == (status, False), path
        assert shown.headers["Content-Type"].startswith("text/html" if kept else "application/problem+json")
        for path in ("/api/v1/volumes", "/readyz"):
            assert client.get(path).status_code == 200, path
        assert client.get("/api/v1/volumes").json()["items"]
    assert client.options("/dicom-web", headers=JSON).status_code == 404


def test_the_statement_says_what_is_switched_off() -> None:
    disabled = [extension.name for extension in installed()]
    whole = statement(Settings())
    without = statement(Settings.model_validate({"extensions": {"disabled": disabled}}))
    for service in (
        "Storage SOP classes of section 1.1, for C-GET",
        "C-FIND is used to query",
        "of what routes have sent | Yes",
        "Modality Worklist Information Model - FIND",
        "Basic Profile of PS3.15",
    ):
        assert (service in whole, service in without) == (True, False), service

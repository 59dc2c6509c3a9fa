"""An extension that is switched off serves nothing over HTTP, and the pages do not offer it."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pytest

from tests.web.conftest import Site

SERVED: Mapping[str, tuple[str, ...]] = {
    "results": (),
    "worklist": ("/worklist", "/api/v1/worklist", "/api/v1/performed-steps"),
    "workitems": ("/api/v1/workitems", "/dicom-web/workitems"),
}
"""By extension, paths of which each needs nothing but a node."""

OF_ONE = {"results": {"/api/v1/jobs/{job}", "/api/v1/jobs/{job}/outcome"}}
"""By extension, paths of something that there has to be."""

IN_MENU = {"worklist"}


@pytest.mark.parametrize("name", SERVED)
def test_an_extension_that_is_off_serves_and_offers_nothing(start_site: Callable[..., Site], name: str) -> None:
    client, without = start_site().client(), start_site({"extensions": {"disabled": [name]}}).client()
    for path in SERVED[name]:
        assert (client.get(path).status_code, without.get(path).status_code) == (200, 404), path
    described, left = (set(one.get("/api/v1/openapi.json").json()["paths"]) for one in (client, without))
    assert {path for path in SERVED[name] if path.startswith("/api/")} | OF_ONE.get(name, set()) <= described - left
    linked = [path for path in SERVED[name] if f'href="{path}"' in client.get("/").text]
    assert bool(linked) == (name in IN_MENU)
    assert not any(f'href="{path}"' in without.get("/").text for path in linked)

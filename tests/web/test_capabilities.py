"""What the capabilities and the conformance statement say of DICOMweb is what the routes do."""

from collections.abc import Iterator
from xml.etree import ElementTree

import httpx2
import pytest

from node.extensions.conformance.statement import statement_for_programs
from node.extensions.dicomweb.decoding import ENCODERS
from node.extensions.dicomweb.media_types import FRAME_TYPES, MULTIPART
from node.extensions.dicomweb.transactions import CapabilityResource, offered
from node.settings.model import Settings
from tests import make
from tests.web.conftest import Site, every_route, open_site

WADL = "{http://wadl.dev.java.net/2009/02}"
STUDY, SERIES, INSTANCE = "1.2.3", "1.2.3.1", "1.2.3.1.99"
ENCODED = {f'{MULTIPART}; type="{FRAME_TYPES[syntax]}"' for syntax in ENCODERS}
URI = {"requestType": "WADO", "studyUID": STUDY, "seriesUID": SERIES, "objectUID": INSTANCE}
RESOURCES = ("studies_resources", "uri_resources")
READABLE = [resource for resource in offered(Settings()) if "GET" in resource.methods and resource.transaction.produces]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A root with one image that has a long private value."""
    with open_site(tmp_path_factory.mktemp("capable") / "root") as site:
        (ds,) = make.ct_series(1, study_uid=STUDY, series_uid=SERIES)
        ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = INSTANCE
        ds.private_block(0x0009, "ACME", create=True).add_new(1, "OB", bytes(5000))
        site.take(ds)
        yield site


def get(site: Site, resource: CapabilityResource, accept: str = "", **parameters: str) -> httpx2.Response:
    names = {"study": STUDY, "series": SERIES, "instance": INSTANCE}
    path = resource.path.format(frames=1, path="00091001", **names)
    query = URI | parameters if path.endswith("/wado") else parameters
    return site.client().get(path, params=query, headers={"Accept": accept or resource.transaction.produces[0]})


def test_every_route_is_described_with_its_methods(site: Site) -> None:
    routes: dict[str, set[str]] = {}
    for path, route in every_route(site.app.routes):
        if path.startswith("/dicom-web") and route.methods != {"OPTIONS"}:
            routes.setdefault(path, set()).update(route.methods - {"HEAD"})
    reported: dict[str, set[str]] = {}
    for resource in offered(Settings()):
        reported.setdefault(resource.path, set()).update(resource.methods)
    assert reported == routes
    answer = site.client().options("/dicom-web", headers={"Accept": "application/json"})
    assert answer.headers["content-type"] == "application/json"
    assert answer.json()["base"] == f"{site.origin}/dicom-web"
    assert {f"/dicom-web{one['path']}" for one in answer.json()["resources"]} == set(routes)
    for path in ("/dicom-web", "/dicom-web/"):
        wadl = site.client().options(path)
        assert wadl.headers["content-type"] == "application/vnd.sun.wadl+xml"
        assert methods_of(ElementTree.fromstring(wadl.content)) == routes
    tables = {
        name: rows for part in statement_for_programs(Settings())["sections"] for name, rows in part["tables"].items()
    }
    stated = {path.strip("`") for name in RESOURCES for row in tables[name] for path in row["Resources"].split(", ")}
    assert stated == set(routes)


def methods_of(application: ElementTree.Element) -> dict[str, set[str]]:
    """The methods of each path of a WADL document, whose identifiers must be unique."""
    (resources,) = application
    identifiers = [method.get("id") for method in application.iter(f"{WADL}method")]
    assert len(identifiers) == len(set(identifiers))
    base = str(resources.get("base"))
    found: dict[str, set[str]] = {}

    def walk(element: ElementTree.Element, above: str) -> None:
        for below in element.findall(f"{WADL}resource"):
            path = f"{above}/{below.get('path')}"
            methods = {str(method.get("name")) for method in below.findall(f"{WADL}method")}
            if methods:
                found[path] = methods
            walk(below, path)

    walk(resources, httpx2.URL(base).path.rstrip("/"))
    return found


@pytest.mark.sample(8)
@pytest.mark.parametrize("resource", READABLE, ids=lambda resource: resource.operation)
def test_every_media_type_that_is_reported_is_given(site: Site, resource: CapabilityResource) -> None:
    for media_type in resource.transaction.produces:
        parameters = {"contentType": media_type} if resource.path.endswith("/wado") else {}
        answer = get(site, resource, media_type, **parameters)
        is_compressed = 'type="image/' in media_type or 'type="video/' in media_type
        is_made = media_type in ENCODED and resource.transaction.section == "10.4.1.1.6"  # of frames
        is_single = any(name in resource.path for name in ("{instance}", "/wado"))
        if (is_compressed and not is_made and not resource.path.endswith("/rendered")) or media_type in (
            "application/pdf",
            "text/html",
        ):
            assert answer.status_code == 406  # nobody compresses the image so, and it is not a document
        elif media_type in ("application/dicom", "application/dicom+xml") and not is_single:
            assert answer.status_code == 406  # of one instance only
        else:
            assert answer.status_code == 200, (media_type, answer.text)
            expected = media_type.partition(";")[0]
            assert answer.headers["content-type"].startswith(expected)
            if expected == MULTIPART:
                assert media_type.partition("; ")[2] in answer.headers["content-type"]


@pytest.mark.parametrize("resource", READABLE, ids=lambda resource: resource.operation)
def test_every_parameter_that_is_reported_has_an_effect(site: Site, resource: CapabilityResource) -> None:
    for name in resource.transaction.parameters:
        other = {"contentType": "application/dicom"} if name == "transferSyntax" else {}
        answer = get(site, resource, **other | {"PatientName" if name == "{attribute}" else name: "no such!value"})
        is_empty = answer.status_code == 200 and answer.content in (b"[]",)
        assert answer.status_code != 200 or "warning" in answer.headers or is_empty, name


@pytest.mark.sample(8)
@pytest.mark.parametrize("resource", READABLE, ids=lambda resource: resource.operation)
def test_every_header_that_is_reported_has_an_effect(site: Site, resource: CapabilityResource) -> None:
    long = {"includefield": "all"} if resource.transaction.name == "Search" else {}  # short answers are not compressed
    path = str(get(site, resource, **long).request.url)
    plain = site.client().get(path, headers={"Accept": resource.transaction.produces[0], "Accept-Encoding": "identity"})
    assert plain.status_code == 200
    one_file = {"application/zip", "application/octet-stream"} & set(resource.transaction.produces)
    whole = {"Accept": min(one_file, default="")}
    for name in resource.transaction.headers:
        accept = {"Accept": resource.transaction.produces[0], "Accept-Encoding": "identity"}
        if name == "Accept":
            assert site.client().get(path, headers={"Accept": "text/no-such-type"}).status_code == 406
        elif name == "If-None-Match":
            assert site.client().get(path, headers=accept | {name: plain.headers["etag"]}).status_code == 304
        elif name == "Accept-Encoding":
            assert site.client().get(path, headers=accept | {name: "gzip"}).headers["content-encoding"] == "gzip"
        elif name == "Range":
            part = whole | {name: "bytes=0-1"}
            assert site.client().get(path, headers=part).status_code == 206
            assert site.client().get(path, headers=part | {"If-Range": '"other"'}).status_code == 200
        elif name == "If-Match":
            assert site.client().get(path, headers=whole | {name: '"other"'}).status_code == 412
        else:
            assert name == "If-Range"


def test_each_resource_tells_its_own_methods(site: Site) -> None:
    names = {"study": STUDY, "series": SERIES, "instance": INSTANCE, "frames": 1, "path": "00091001"}
    expected: dict[str, set[str]] = {}
    for resource in offered(Settings()):
        expected.setdefault(resource.path.format(**names), {"OPTIONS"}).update(resource.methods)
    for path, methods in expected.items():
        answer = site.client().options(path, headers={"Accept": "application/json"})
        assert answer.status_code == 200, path
        allowed = set(answer.headers["allow"].split(", "))
        assert allowed - {"HEAD"} == methods
        assert ("HEAD" in allowed) == ("GET" in methods)
        refused = site.client().put(path)
        assert (refused.status_code, set(refused.headers["allow"].split(", "))) == (405, allowed)
        assert {method for one in answer.json()["resources"] for method in one["methods"]} | {"OPTIONS"} == methods
    assert site.client().options("/dicom-web/nothing").status_code == 404

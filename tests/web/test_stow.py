"""STOW-RS: what is stored, what is refused and how either is told; hostile bodies (row W4 of the fault catalogue)."""

import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx2
import pytest
from pydicom.uid import JPIPHTJ2KReferencedDeflate, RLELossless

from node.index.rows.records import Refused
from tests import make
from tests.make import as_file
from tests.rows import index_locked, view_rows
from tests.web.conftest import Site, StartSite, until
from tests.web.mixed import NAMES, data_set, sample

TYPE = 'multipart/related; type="application/dicom"; boundary=XX'


def body_of(*files: bytes, head: bytes = b"Content-Type: application/dicom\r\n", end: bytes = b"--XX--\r\n") -> bytes:
    return b"".join(b"--XX\r\n" + head + b"\r\n" + file + b"\r\n" for file in files) + end


def post(site: Site, body: bytes | Iterator[bytes], path: str = "studies", **headers: str) -> httpx2.Response:
    fields = {"Content-Type": TYPE} | {name.replace("_", "-"): value for name, value in headers.items()}
    return site.client().post(f"/dicom-web/{path}", content=body, headers=fields)


def items(response: httpx2.Response, tag: str) -> list[dict[str, Any]]:
    return [
        {name: element["Value"][0] for name, element in item.items()}
        for item in response.json().get(tag, {"Value": []})["Value"]
    ]


def stored(site: Site) -> set[str]:
    with site.store.index.reading() as index:
        return {one.sop_instance_uid for one in index.files.stored()}


def part_files(site: Site) -> list[Any]:
    return list((site.root / "incoming").glob("*.*"))


REFERENCED, FAILED, OTHERS = "00081199", "00081198", "0008119A"


def test_what_the_index_does_not_take_in_time_is_not_stored_where_the_index_is_promised(start_site: StartSite) -> None:
    site = start_site(tables={"journal": {"acknowledge": "index"}})
    promise = site.services.ingest.acknowledgement
    assert promise is not None
    files = [as_file(ds) for ds in make.ct_series(3)]
    with index_locked(site.root):
        promise.seconds = 0.1
        response = post(site, body_of(*files))
        assert response.status_code == 503
        assert {item["00081197"] for item in items(response, FAILED)} == {0xA700}
        assert len(items(response, FAILED)) == 3
        assert items(response, REFERENCED) == []
        refused = post(site, body_of(*files))  # before its parts are read
        assert refused.status_code == 503
        assert "the index has not taken" in refused.text
    promise.seconds = 600.0
    until(lambda: site.services.ingest.applier.lag == 0)
    response = post(site, body_of(*files))
    assert response.status_code == 200
    assert len(items(response, REFERENCED)) == 3


@pytest.mark.slow
def test_instances_are_stored_with_the_very_bytes_that_came(site: Site) -> None:
    samples = [sample(name) for name in NAMES]
    response = post(site, body_of(*(one.file for one in samples)))
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "application/dicom+json"
    reported = {item["00081155"]: item for item in items(response, REFERENCED)}
    assert set(reported) == {one.instance for one in samples}
    with site.store.index.reading() as index:
        for one in index.files.stored():
            origin = next(each for each in samples if each.instance == one.sop_instance_uid)
            kept = site.store.archive.path(one.key).read_bytes()
            assert kept[one.data_set_offset :] == data_set(origin.file)
            assert kept[:128] == bytes(128)
            assert reported[one.sop_instance_uid]["00081190"] == f"{site.origin}{origin.path}"
            assert site.client().get(origin.path).status_code == 200
        rows = view_rows(site.store.index.root, "SELECT DISTINCT source, calling_ae_title, peer FROM v_images")
    assert [row["source"] for row in rows] == ["stow"]
    assert rows[0]["peer"].startswith("127.0.0.1:")


@pytest.mark.parametrize("piece", [1, 7, 1000])
def test_cuts_of_a_body_text_around_its_parts_and_padding_of_boundaries_do_not_matter(site: Site, piece: int) -> None:
    series = make.ct_series(5, rows=8, columns=8)
    first, second, *others = map(as_file, series)
    head = b"Content-Type: application/dicom\r\n\r\n"
    padded = (
        b"This is a message in parts.\r\n--XXL is another boundary\r\n--XX \t\r\n"
        + head + first + b"\r\n--XX  \r\n" + head + second + b"\r\n--XX-- \r\nThe end.\r\n--XX\r\n"
    )  # fmt: skip
    for body in (b"\r\n" + body_of(*others), padded):
        response = post(site, (body[at : at + piece] for at in range(0, len(body), piece)))
        assert response.status_code == 200, response.text
    assert stored(site) == {ds.SOPInstanceUID for ds in series}


def test_a_long_body_without_its_boundary_is_refused(site: Site) -> None:
    response = post(site, b"--X" * 1_000_000)
    assert response.status_code == 400
    assert "does not contain the boundary" in response.json()["detail"]


def test_one_part_that_is_refused_stops_no_other(site: Site) -> None:
    good, other = make.ct_series(2)
    referring = make.instance()
    referring.file_meta.TransferSyntaxUID = JPIPHTJ2KReferencedDeflate
    query = make.instance(sop_class_uid="1.2.840.10008.5.1.4.1.2.2.1")
    unnamed = make.instance()
    del unnamed.SeriesInstanceUID
    response = post(
        site,
        body_of(as_file(good), b"no DICOM", as_file(referring), as_file(query), as_file(unnamed), b"", as_file(other)),
    )
    assert response.status_code == 202
    assert stored(site) == {good.SOPInstanceUID, other.SOPInstanceUID}
    assert {item["00081155"] for item in items(response, REFERENCED)} == stored(site)
    failed = {item["00081155"]: item["00081197"] for item in items(response, FAILED)}
    assert failed == {referring.SOPInstanceUID: 0xC122, query.SOPInstanceUID: 0x0122, unnamed.SOPInstanceUID: 0xC000}
    assert [item["00081197"] for item in items(response, OTHERS)] == [0xC000, 0xC000]
    assert part_files(site) == []


def test_nothing_stored_is_409_and_415_where_the_transfer_syntax_is_why(site: Site) -> None:
    assert post(site, body_of(b"no DICOM")).status_code == 409
    referring = make.instance()
    referring.file_meta.TransferSyntaxUID = JPIPHTJ2KReferencedDeflate
    response = post(site, body_of(as_file(referring)))
    assert response.status_code == 415
    assert items(response, FAILED)[0]["00081197"] == 0xC122


def test_what_was_refused_is_reported_where_people_look_for_it(site: Site) -> None:
    reported: list[Refused] = []
    object.__setattr__(site.services, "on_refusal", reported.append)
    referring = make.instance()
    referring.file_meta.TransferSyntaxUID = JPIPHTJ2KReferencedDeflate
    post(site, body_of(b"no DICOM", as_file(referring)))
    assert [(one.what, one.rule, one.peer) for one in reported] == [
        ("instance", "status 0xC000", "127.0.0.1"),
        ("instance", "status 0xC122", "127.0.0.1"),
    ]
    assert all(one.remedy for one in reported)


def test_a_study_in_the_url_takes_its_own_instances_only(site: Site) -> None:
    own, foreign = make.instance(study_uid="1.2.3"), make.instance(study_uid="1.2.4")
    response = post(site, body_of(as_file(own), as_file(foreign)), "studies/1.2.3")
    assert response.status_code == 202
    assert response.json()["00081190"]["Value"] == [f"{site.origin}/dicom-web/studies/1.2.3"]
    assert [item["00081197"] for item in items(response, FAILED)] == [0xA900]
    assert stored(site) == {own.SOPInstanceUID}


def test_the_study_is_found_behind_a_long_header(site: Site) -> None:
    ds = make.instance(study_uid="1.2.3")
    ds.add_new(0x00091001, "UN", bytes(300_000))
    ds.add_new(0x00090010, "LO", "TEST")
    assert post(site, body_of(as_file(ds)), "studies/1.2.3").status_code == 200
    ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = "1.2.3.9"
    assert post(site, body_of(as_file(ds)), "studies/1.2.4").status_code == 409
    assert len(stored(site)) == 1


def test_what_is_here_already_is_stored_again_without_harm(site: Site) -> None:
    body = body_of(as_file(make.instance(sop_instance_uid="1.2.3.1")))
    assert [post(site, body).status_code for _ in range(2)] == [200, 200]
    assert stored(site) == {"1.2.3.1"}


@pytest.mark.parametrize(("answer", "status", "reason"), [("success", 200, None), ("warning", 202, 0xB000)])
def test_a_sender_is_warned_of_a_version_that_is_not_current_if_so_configured(
    start_site: StartSite, answer: str, status: int, reason: int | None
) -> None:
    site = start_site(storage={"conflict_answer": answer})
    first, other = make.ct_series(2)
    second = make.corrected(first)
    assert post(site, body_of(as_file(first))).status_code == 200
    for _ in range(2):  # also when it comes again
        response = post(site, body_of(as_file(second), as_file(other)))
        assert response.status_code == status
        warned = {item["00081155"]: item.get("00081196") for item in items(response, REFERENCED)}
        assert warned == {first.SOPInstanceUID: reason, other.SOPInstanceUID: None}
    assert post(site, body_of(as_file(first))).status_code == 200


@pytest.mark.sample(2)
@pytest.mark.parametrize("rows", [16, 1024])
@pytest.mark.parametrize("is_encapsulated", [False, True])
def test_an_instance_cut_in_its_pixels_is_stored_with_a_warning(site: Site, rows: int, is_encapsulated: bool) -> None:
    whole, cut = make.ct_series(2, rows=rows, columns=rows)
    if is_encapsulated:
        for ds in (whole, cut):
            ds.compress(RLELossless, generate_instance_uid=False)
    data = as_file(cut)
    for lost in (1, 8, 20, rows * rows):
        response = post(site, body_of(as_file(whole), data[:-lost]))
        assert response.status_code == 202, lost
        warned = {item["00081155"]: item.get("00081196") for item in items(response, REFERENCED)}
        assert warned == {whole.SOPInstanceUID: None, cut.SOPInstanceUID: 0xB007}
        assert response.headers["warning"] == (
            f'299 voxelnode "{cut.SOPInstanceUID}: the data set has not all pixels that it states"'
        )
    assert post(site, body_of(data)).status_code == 200


def test_a_single_instance_may_be_the_whole_body(site: Site) -> None:
    first, other = make.ct_series(2, study_uid="1.2.3")
    for path, ds in (("studies", first), ("studies/1.2.3", other)):
        response = post(site, as_file(ds), path, Content_Type="application/dicom")
        assert response.status_code == 200, response.text
        assert [item["00081155"] for item in items(response, REFERENCED)] == [ds.SOPInstanceUID]
    assert stored(site) == {first.SOPInstanceUID, other.SOPInstanceUID}
    assert post(site, as_file(first), "studies/1.9", Content_Type="application/dicom").status_code == 409
    assert post(site, b"", Content_Type="application/dicom").status_code == 400
    assert post(site, b"no DICOM", Content_Type="application/dicom").status_code == 409
    wrong = post(site, b"{}", Content_Type="image/png")
    assert (wrong.status_code, "the Content-Type is image/png" in wrong.text) == (415, True)
    assert part_files(site) == []


@pytest.mark.slow
def test_many_requests_at_once_are_all_stored(site: Site) -> None:
    several = [make.ct_series(6, rows=8, columns=8) for _ in range(8)]
    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(lambda series: post(site, body_of(*map(as_file, series))), several))
    assert [answer.status_code for answer in answers] == [200] * 8
    assert stored(site) == {ds.SOPInstanceUID for series in several for ds in series}


@pytest.mark.sample(6)
@pytest.mark.parametrize(
    ("body", "fields", "status"),
    [
        (b"", {}, 400),
        (b"--XX--\r\n", {}, 400),
        (body_of(), {}, 400),
        (body_of(b"no DICOM", end=b""), {}, 400),
        (b"anything else", {}, 400),
        (body_of(b"x"), {"Content_Type": 'multipart/related; type="application/dicom"'}, 400),
        (body_of(b"x"), {"Content_Type": f"{TYPE[:-2]}{'X' * 5000}"}, 400),
        (body_of(b"x"), {"Content_Type": "application/dicom"}, 409),
        (body_of(b"x"), {"Content_Type": 'multipart/related; type="text/html"; boundary=XX'}, 415),
        (body_of(b"x"), {"Content_Encoding": "gzip"}, 415),
        (body_of(b"x"), {"Accept": "text/html"}, 406),
        (body_of(b"x", head=b"Content-Type: application/dicom+json\r\n"), {}, 409),
        (body_of(b"x", head=b"X-Long: " + b"a" * 100_000 + b"\r\n"), {}, 400),
        (body_of(b"x", head=b"".join(b"X-%d: a\r\n" % n for n in range(1000))), {}, 400),
    ],
    ids=range(14),
)
def test_a_body_that_makes_no_sense_is_refused(site: Site, body: bytes, fields: dict[str, str], status: int) -> None:
    response = post(site, body, **fields)
    assert response.status_code == status, response.text
    assert stored(site) == set()
    assert part_files(site) == []
    assert site.client().get("/healthz").status_code == 200


def test_a_body_that_is_cut_short_keeps_what_came_whole(site: Site) -> None:
    first, second = (as_file(ds) for ds in make.ct_series(2))
    assert post(site, body_of(first, second)[: -len(second) // 2]).status_code == 400
    assert len(stored(site)) == 1
    assert part_files(site) == []


def test_a_client_that_goes_away_leaves_nothing_half(site: Site) -> None:
    whole, cut = (as_file(ds) for ds in make.ct_series(2, rows=1024, columns=1024))
    body = body_of(whole, cut)
    host, port = site.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        head = f"POST /dicom-web/studies HTTP/1.1\r\nHost: {host}\r\nContent-Type: {TYPE}\r\n"
        head += f"Content-Length: {len(body)}\r\n\r\n"
        connection.sendall(head.encode() + body[: -len(cut) // 2])
        until(lambda: len(part_files(site)) > 0 or len(stored(site)) > 0)
    until(lambda: part_files(site) == [] and len(stored(site)) == 1)


@pytest.mark.slow
def test_a_hundred_thousand_empty_parts_do_no_harm(site: Site) -> None:
    response = post(site, body_of(*[b""] * 100_000))
    assert response.status_code == 413
    assert "send several requests" in response.json()["detail"]
    assert site.client().get("/healthz").status_code == 200


def test_a_body_larger_than_allowed_is_refused(start_site: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("node.web.application.MAXIMUM_UPLOAD_BYTES", 1_000_000)
    site = start_site()
    assert post(site, body_of(bytes(1_000_001))).status_code == 413
    assert post(site, (bytes(100_000) for _ in range(11))).status_code in (400, 413)
    assert part_files(site) == []


def test_a_full_disk_is_reported_before_anything_is_sent(site: Site) -> None:
    site.store.archive.intake.stop("disk: EIO: Input/output error")
    response = post(site, body_of(as_file(make.instance())))
    assert response.status_code == 503
    assert response.headers["retry-after"]
    assert "EIO" in response.json()["detail"]


def test_a_program_in_disguise_is_stored_without_its_preamble(site: Site) -> None:
    data = bytearray(as_file(make.instance()))
    data[:4] = b"MZ\x90\0"
    assert post(site, body_of(bytes(data))).status_code == 200
    with site.store.index.reading() as index:
        (one,) = index.files.stored()
    assert site.store.archive.path(one.key).read_bytes()[:128] == bytes(128)


# DELETE by DICOMweb: who may, what goes, and that it goes into the trash with a line in the audit log.


@pytest.mark.slow
def test_an_instance_a_series_and_a_study_go_to_the_trash(guarded: Site) -> None:
    site = guarded
    first = make.ct_series(3, study_uid="1.2.3", series_uid="1.2.3.1")
    other, kept = make.ct_series(1, study_uid="1.2.3", series_uid="1.2.3.2"), make.ct_series(1, study_uid="1.2.4")
    for ds in (*first, *other, *kept):
        site.take(ds)
    of_study, client = "/dicom-web/studies/1.2.3", site.client()
    instance = f"{of_study}/series/1.2.3.1/instances/{first[0].SOPInstanceUID}"
    assert client.delete(of_study).status_code == 401
    writer = {"Authorization": f"Bearer {site.token('writer')}"}
    assert client.delete(instance, headers=writer).status_code == 403
    admin = {"Authorization": f"Bearer {site.token('admin')}"}
    assert client.delete(instance.replace("series/1.2.3.1", "series/1.2.3.2"), headers=admin).status_code == 404
    left = {ds.SOPInstanceUID for ds in (*first, *other, *kept)}
    assert stored(site) == left
    for path, gone in (
        (instance, {first[0].SOPInstanceUID}),
        (f"{of_study}/series/1.2.3.1", {ds.SOPInstanceUID for ds in first}),
        (of_study, {ds.SOPInstanceUID for ds in other}),
    ):
        answer = client.delete(path, headers=admin)
        assert (answer.status_code, answer.content) == (204, b"")
        left -= gone
        assert stored(site) == left
        assert client.delete(path, headers=admin).status_code == 410
        assert client.get(path, headers=admin).status_code == 410
    assert client.delete("/dicom-web/studies/1.9", headers=admin).status_code == 404
    assert len(client.get("/api/v1/trash", headers=admin).json()) == 3
    lines = [*site.audited("DICOM Study Deleted"), *site.audited("DICOM Instances Accessed")]
    deleted = {line["objects"][0]["level"] for line in lines if "level" in line["objects"][0]}
    assert deleted == {"study", "series", "instance"}
    site.take(first[1])  # what comes again is there again
    assert first[1].SOPInstanceUID in stored(site)
    assert view_rows(site.root, "SELECT count(*) AS n FROM v_images")[0]["n"] == 2

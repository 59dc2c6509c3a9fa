"""Files of a revision over HTTP, for the viewer and for people, and what the pages need to be fast and safe."""

import gzip
import hashlib
import json
import os
import re
import socket
import struct
from io import BytesIO
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest
from PIL import Image

from node import __version__
from node.extensions.ohif.package import MANIFEST, folder_of
from tests import make
from tests.conftest import ROOT
from tests.web.conftest import Site, until

PLACE = "/studies/1.2.3/series/1.2.3.1"


@pytest.mark.slow
def test_a_file_is_the_one_on_the_disk(filled: Site) -> None:
    answer = filled.client().get(f"{PLACE}/files/1/volume.nii.gz")
    (path,) = filled.root.glob("volumes/1.2.3/*/1-*/volume.nii.gz")
    assert answer.content == path.read_bytes()
    assert answer.headers["content-type"] == "application/gzip"
    assert "content-encoding" not in answer.headers


@pytest.mark.slow
def test_a_part_of_a_file_is_sent_when_asked_for(filled: Site) -> None:
    whole = filled.client().get(f"{PLACE}/files/1/volume.zraw").content
    part = filled.client().get(f"{PLACE}/files/1/volume.zraw", headers={"Range": "bytes=2-5"})
    assert part.status_code == 206
    assert part.content == whole[2:6]


def test_a_file_that_a_browser_has_is_not_sent_again(filled: Site) -> None:
    client = filled.client()
    etag = client.get(f"{PLACE}/files/1/volume.json").headers["etag"]
    again = client.get(f"{PLACE}/files/1/volume.json", headers={"If-None-Match": etag})
    assert again.status_code == 304
    assert again.content == b""


@pytest.mark.parametrize(
    ("path", "status"),
    [
        *((f"1/{name}", 404) for name in (
            "..%2f..%2fconversion.json", "%2e%2e", "..%5c..%5cx", "volume.nii.gz%00", "no.nii.gz", "%2fetc%2fpasswd",
            ".", "volume.json/reduced", "volume.zraw/reduced", "no.nii.gz/reduced", "..%2fx.nii.gz/reduced",
        )),
        ("2/volume.nii.gz", 404),
        *((f"{revision}/volume.nii.gz", 422) for revision in ("0", "-1", "9" * 30, "x")),
    ],
)  # fmt: skip
def test_a_file_that_the_folder_does_not_hold_is_not_found(filled: Site, path: str, status: int) -> None:
    assert filled.client().get(f"{PLACE}/files/{path}").status_code == status


@pytest.mark.slow
def test_a_reduced_volume_is_a_nifti_file_that_a_browser_may_ask_for_again(filled: Site) -> None:
    client = filled.client()
    answer = client.get(f"{PLACE}/files/1/volume.nii.gz/reduced")
    image = nibabel.Nifti1Image.from_bytes(gzip.decompress(answer.content))
    whole = nibabel.Nifti1Image.from_bytes(gzip.decompress(client.get(f"{PLACE}/files/1/volume.nii.gz").content))
    assert (image.get_fdata() == whole.get_fdata()).all()
    same = {"If-None-Match": answer.headers["etag"]}
    assert client.get(f"{PLACE}/files/1/volume.nii.gz/reduced", headers=same).status_code == 304
    only_body = client.get(f"{PLACE}/files/1/volume.nii.gz/reduced", params={"only_body": True}, headers=same)
    assert only_body.status_code == 200
    wrong = client.get(f"{PLACE}/files/1/volume.nii.gz/reduced", params={"only_body": "perhaps"})
    assert wrong.status_code == 422


@pytest.mark.slow
def test_metaimage_is_reduced_as_nifti_is(filled: Site) -> None:
    client = filled.client()
    copies = [client.get(f"{PLACE}/files/1/{name}/reduced").content for name in ("volume.mhd", "volume.nii.gz")]
    ours, theirs = (nibabel.Nifti1Image.from_bytes(gzip.decompress(copy)) for copy in copies)
    assert (ours.get_fdata() == theirs.get_fdata()).all()
    assert (ours.affine == theirs.affine).all()


def test_a_browser_may_keep_what_is_named_by_version_and_nothing_of_a_patient(filled: Site) -> None:
    client = filled.client()
    assert "max-age=31536000" in client.get(f"/static/voxelnode.css?v={__version__}").headers["cache-control"]
    assert client.get("/static/voxelnode.css").headers["cache-control"] == "no-cache"
    assert client.get("/studies/1.2.3").headers["cache-control"] == "no-store"


def test_text_is_compressed_for_those_who_take_it(filled: Site) -> None:
    client = filled.client()
    for path, part in (
        ("/status", "Series by state"),
        ("/static/voxelnode.css", ":root"),
        ("/static/pages.js", "htmx"),
        ("/queue/rows", "Under way"),
    ):
        answer = client.get(path, headers={"Accept-Encoding": "gzip"})
        assert answer.headers["content-encoding"] == "gzip"
        assert answer.headers["vary"] == "Accept-Encoding"
        plain = client.get(path, headers={"Accept-Encoding": "identity"})
        assert "content-encoding" not in plain.headers
        assert part in answer.text
        assert part in plain.text
    style = client.get("/static/voxelnode.css", headers={"Accept-Encoding": "gzip"})
    known = {"Accept-Encoding": "gzip", "If-None-Match": style.headers["etag"]}
    assert client.get("/static/voxelnode.css", headers=known).status_code == 304
    part = client.get("/static/voxelnode.css", headers={"Accept-Encoding": "gzip", "Range": "bytes=0-9"})
    assert (part.status_code, len(part.content)) == (206, 10)


def test_a_page_comes_in_the_colours_that_were_chosen(filled: Site) -> None:
    client = filled.client()
    assert 'data-theme="dark"' in client.get("/status", headers={"Cookie": "theme=dark"}).text
    assert "data-theme" not in client.get("/status", headers={"Cookie": 'theme="><script>'}).text


@pytest.mark.parametrize("path", ["/", "/queue", "/status", "/upload", "/problems", "/login", "/studies/1.2.3", PLACE])
def test_no_page_has_a_script_or_a_style_of_its_own(filled: Site, path: str) -> None:
    answer = filled.client().get(path)
    policy = answer.headers["content-security-policy"]
    assert policy.startswith("default-src 'self';")
    assert "unsafe" not in policy
    assert not re.search(r"<style|\sstyle=|\son\w+=|<script(?![^>]*\ssrc=)", answer.text)


def test_a_part_of_a_page_is_sent_again_only_when_it_has_changed(filled: Site) -> None:
    client = filled.client()
    seen = re.search(r"seen=(\w+)", client.get("/queue/rows").text)
    assert client.get(f"/queue/rows?seen={seen[1]}").status_code == 204


def test_the_form_works_without_scripts(filled: Site) -> None:
    answer = filled.client().post("/", data={"modalities": "SR"})
    assert answer.text.count('scope="row"') == 1
    assert "<!doctype html>" in answer.text


@pytest.mark.parametrize(
    "search",
    [
        {"first_date": "yesterday"},
        {"after": "x"},
        {"after": "9" * 40},
        {"after": "3 2026-99-99"},
        {"order": "random", "condition": "no such"},
        {"words": "%_\\' \" ;--"},
        {"words": "\u202e\x00"},
    ],
)
def test_a_search_that_makes_no_sense_is_answered(filled: Site, search: dict[str, str]) -> None:
    assert filled.client().post("/", data=search, headers={"HX-Request": "true"}).status_code == 200


@pytest.mark.slow
@pytest.mark.parametrize(
    ("search", "status"),
    [
        ({"words": "a " * 100}, 200),
        ({"words": "a " * 300}, 422),
        ({"words": "a" * 60_000}, 422),
        ({"description": "a" * 60_000}, 422),
        ({"modalities": "a" * 60_000}, 422),
    ],
    ids=["100 words", "300 words", "a long word", "a long description", "a long modality"],
)
def test_a_search_is_as_long_as_its_fields_at_most(filled: Site, search: dict[str, str], status: int) -> None:
    assert filled.client().post("/", data=search).status_code == status


def test_what_is_not_ours_is_what_its_licence_list_says() -> None:
    vendor = ROOT / "node/extensions/pages/static/vendor"
    reported = dict(
        re.findall(r"^\| `([^`]+)` \| `([0-9a-f]{64})` \|", (vendor / "LICENSES.md").read_text(), re.MULTILINE)
    )
    scripts = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in vendor.glob("*.js")}
    assert reported == scripts


def test_ohif_is_offered_where_it_is_installed(site: Site) -> None:
    site.take(*make.ct_series(1, study_uid="1.2.3", series_uid="1.2.3.1"))
    client = site.client()
    assert "/ohif/" not in client.get("/studies/1.2.3").text
    folder = folder_of(site.root)
    folder.mkdir(parents=True)
    (folder / MANIFEST).write_text(json.dumps({"package": "@ohif/app", "version": "3", "files": ["index.html"]}))
    assert 'href="/ohif/viewer?StudyInstanceUIDs=1.2.3"' in client.get("/studies/1.2.3").text


@pytest.mark.slow
def test_a_zip_file_that_nobody_waits_for_leaves_no_file_open(site: Site) -> None:
    site.take(*make.ct_series(40, study_uid="1.2.3", series_uid="1.2.3.1", rows=512, columns=512))
    site.convert()

    def held() -> list[str]:
        links = [os.readlink(one) for one in Path("/proc/self/fd").iterdir() if one.is_symlink()]
        return [link for link in links if link.endswith((".dcm", ".gz", ".zraw", ".json", ".png"))]

    assert held() == []
    study = "/studies/1.2.3"
    for path in (f"{study}/volumes.zip", f"{study}/dicom.zip", f"/dicom-web{study}?accept=application/zip"):
        for _ in range(10):
            with socket.create_connection(("127.0.0.1", int(site.url.rpartition(":")[2])), timeout=10) as connection:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # hang up at once
                connection.sendall(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())
                assert connection.recv(1000).startswith(b"HTTP/1.1 200"), path
        until(lambda: not site.server._server.server_state.tasks)
        until(lambda: held() == [])


@pytest.mark.slow
def test_masks_and_reports_are_listed_and_served_as_files_of_their_series(site: Site) -> None:
    images = make.ct_series(2, study_uid="1.2.9", series_uid="1.2.9.1")
    square = [(2.0, 2.0), (8.0, 2.0), (8.0, 10.0), (2.0, 10.0)]
    contours = [make.contour(make.on_slice(image, square)) for image in images]
    structures = make.structure_set(images, {"Heart": contours}, series_uid="1.2.9.2")
    number = make.measured(("81827009", "SCT", "Diameter"), "12.5", "mm")
    site.take(*images, structures, make.measurement_report(images, number, series_uid="1.2.9.3"))
    site.convert()
    client = site.client()
    assert "volume_roi1_mask.nii.gz" in client.get("/studies/1.2.9/series/1.2.9.2").text
    assert client.get("/studies/1.2.9/series/1.2.9.2/files/1/volume_roi1_mask.nii.gz").status_code == 200
    report = client.get("/studies/1.2.9/series/1.2.9.3")
    assert report.status_code == 200
    assert "measurements.json" in report.text
    record = client.get("/studies/1.2.9/series/1.2.9.3/files/1/measurements.json").json()
    assert record["groups"][0]["measurements"][0]["value"] == 12.5
    assert client.get("/studies/1.2.9").status_code == 200
    rows = client.get("/api/v1/volumes", params={"series_instance_uid": "1.2.9.3"}).json()["items"]
    assert [(row["kind"], row["format"], row["shape"]) for row in rows] == [("measurements", "json", [])]


@pytest.mark.slow
def test_the_thumbnail_of_a_segmentation_lies_on_its_image(site: Site, corpus: Path) -> None:
    images = [pydicom.dcmread(path) for path in sorted((corpus / "dcmqi/ct-3-slices").rglob("*.dcm"))]
    [mask] = [pydicom.dcmread(path) for path in (corpus / "dcmqi/seg-liver").rglob("*.dcm")]
    site.take(mask)
    site.convert()
    place = f"/studies/{mask.StudyInstanceUID}/series/{mask.SeriesInstanceUID}"
    client = site.client()
    assert f'src="{place}/overlaid/1/' in client.get(f"/studies/{mask.StudyInstanceUID}").text
    alone = np.asarray(Image.open(BytesIO(client.get(f"{place}/overlaid/1/volume_thumbnail.png").content)))
    assert alone.ndim == 2, "the thumbnail as it is, without the image"
    site.take(*images)
    site.convert()
    answer = client.get(f"{place}/overlaid/1/volume_thumbnail.png")
    seen = np.asarray(Image.open(BytesIO(answer.content)).convert("RGB"), dtype=int)
    is_red = seen[..., 0] - seen[..., 1] > 30
    assert 0.05 < is_red.mean() < 0.3, "the liver"
    assert (seen[~is_red] > 50).any(), "and the rest of the slice"
    headers = {"If-None-Match": answer.headers["etag"]}
    assert client.get(f"{place}/overlaid/1/volume_thumbnail.png", headers=headers).status_code == 304
    assert client.get(f"{place}/overlaid/1/volume.png").status_code == 404

"""`node.connect`: what `node.open` shows of a root, from the node that runs on it."""

from __future__ import annotations

import re
import socket
import zipfile
from collections.abc import Callable
from pathlib import Path

import httpx2
import numpy as np
import pytest

import node
from node.control.opened import Opened, OpenedVolume, Row
from node.errors import NodeFailed, UsageError
from node.index.engine.backend import Place
from tests import make
from tests.peers import Proxy
from tests.protocol.conftest import keys  # noqa: F401
from tests.web.conftest import Site

DOCUMENTS = Path(__file__).parents[2] / "docs"


def beside(site: Site) -> Opened:
    place: Place = site.store.index.place
    return node.open(site.root, {} if isinstance(place, Path) else {"index.url": place.url})


@pytest.mark.slow
def test_a_running_node_shows_what_its_root_does(filled: Site, tmp_path: Path) -> None:
    there, here = node.connect(filled.url), beside(filled)
    assert [(one.patient_id, one.name) for one in there.patients()] == [
        (one.patient_id, one.name) for one in here.patients()
    ]
    assert {study.uid for study in there.patients()[0].studies()} == {"1.2.3", "1.2.4"}
    [study] = [study for study in there.studies() if study.uid == "1.2.3"]
    [series], [same] = study.series(), [one for one in here.series() if one.uid == "1.2.3.1"]
    assert (series.uid, series.verdict, series.reason) == (same.uid, same.verdict, same.reason)
    assert {row["kind"] for row in series.files()} == {row["kind"] for row in same.files()}
    [volume], [on_disk] = series.volumes(), same.volumes()
    assert volume.name == on_disk.name
    assert np.array_equal(volume.array(), on_disk.array())
    assert np.allclose(volume.affine_ras, on_disk.affine_ras, atol=1e-4)
    assert volume.sidecar == on_disk.sidecar
    made_of, known = volume.provenance, on_disk.provenance
    assert made_of["sha256"] == known["sha256"]
    assert {row["sop_instance_uid"]: row["sha256"] for row in made_of["instances"]} == {
        row["sop_instance_uid"]: row["sha256"] for row in known["instances"]
    }
    assert np.array_equal(volume.project("coronal"), on_disk.project("coronal"))
    for one, folder in ((volume, tmp_path / "by" / "rest"), (on_disk, tmp_path / "of" / "root")):
        saved = one.save(folder)
        assert saved.read_bytes() == on_disk.path.read_bytes()
        assert one.save(folder) == saved
        assert sorted(path.name for path in folder.iterdir()) == ["volume.json", "volume.nii.gz"]
        saved.write_bytes(b"the volume of another series")
        with pytest.raises(FileExistsError, match="is another volume: give each volume a folder of its own"):
            one.save(folder)
        assert saved.read_bytes() == b"the volume of another series"
    with pytest.raises(FileNotFoundError, match="save"):
        _ = volume.path


@pytest.mark.slow
def test_a_column_has_one_value_in_the_rows_of_a_root_and_of_its_node(filled: Site) -> None:
    there, here = rows_of(node.connect(filled.url)), rows_of(beside(filled))
    assert there.keys() == here.keys()
    for key, served in there.items():
        shared = served.keys() & here[key].keys()
        assert {name: served[name] for name in shared} == {name: here[key][name] for name in shared}


def rows_of(opened: Opened) -> dict[object, Row]:
    found: dict[object, Row] = {(one.patient_id, one.name): one.row for one in opened.patients()}
    found |= {study.uid: study.row for study in opened.studies()}
    for series in opened.series():
        found[series.uid] = series.row
        found |= {(series.uid, "volume", number): one.row for number, one in enumerate(series.volumes())}
        found |= {(series.uid, "failure", number): row for number, row in enumerate(series.failures)}
    return found | {("catalog", row["sha256"]): row for row in opened.catalog()}


def test_a_header_comes_with_its_voxels(filled: Site, tmp_path: Path) -> None:
    [series] = [series for series in node.connect(filled.url).series() if series.uid == "1.2.3.1"]
    [row] = [row for row in series.files() if row["format"] == "mhd"]
    header = OpenedVolume(row["name"], row, series._source)
    assert np.array_equal(header.array(), series.volumes()[0].array())
    header.save(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["volume.json", "volume.mhd", "volume.zraw"]


@pytest.mark.slow
def test_what_cannot_be_saved_leaves_no_file(site: Site, tmp_path: Path) -> None:
    site.take(*make.ct_series(3, study_uid="1.2.3", series_uid="1.2.3.1"))
    site.convert()
    [series] = node.connect(site.url).series()
    [volume] = series.volumes()
    with pytest.raises(NodeFailed, match="other bytes"):
        OpenedVolume(volume.name, {**volume.row, "sha256": "0" * 64}, series._source).save(tmp_path / "copies")
    site.client().delete("/api/v1/studies/1.2.3").raise_for_status()
    with pytest.raises(FileNotFoundError, match="deleted"):
        volume.save(tmp_path / "copies")
    assert not list((tmp_path / "copies").iterdir())


@pytest.mark.slow
def test_what_was_refused_and_excluded_is_reported(site: Site) -> None:
    site.take(*make.duplicate_series(5), make.structured_report(study_uid="1.9", series_uid="1.9.1"))
    site.convert()
    for one in node.connect(site.url).series():
        [same] = [other for other in beside(site).series() if other.uid == one.uid]
        assert [row["reason"] for row in one.failures] == [row["reason"] for row in same.failures]
        assert sorted(row["sop_instance_uid"] for row in one.exclusions) == sorted(
            row["sop_instance_uid"] for row in same.exclusions
        )


def test_series_are_selected_as_by_the_command(filled: Site, tmp_path: Path) -> None:
    for opened in (node.connect(filled.url), beside(filled)):
        uids = {series.uid for series in opened.series()}
        assert len(uids) > 1
        [one] = opened.series(where='modality == "CT" and series_instance_uid == "1.2.3.1"')
        assert one.uid == "1.2.3.1"
        assert {one.uid for one in opened.series(where='last_received_at >= "2001-01-01T00:00"')} == uids
        assert opened.series(where='last_received_at >= "2100-01-01T00:00"') == []
        with pytest.raises(node.VoxelnodeError, match="modallity"):
            opened.series(where='modallity == "CT"')
    (tmp_path / "conversion.json").write_text('{"series": []}')
    with pytest.raises(UsageError, match="no index"):
        node.open(tmp_path).series(where='modality == "CT"')


@pytest.mark.slow
def test_the_recipe_for_a_running_node_runs(
    guarded: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    guarded.take(*make.ct_series(3, study_uid="1.2.3", series_uid="1.2.3.1"))
    guarded.convert()
    [segmentation] = make.saved(make.ct_series(1, study_uid="1.2.3", series_uid="1.2.3.2"), tmp_path)  # any instance
    monkeypatch.chdir(tmp_path)
    [recipe] = re.findall(r"```py\n(.*?)```", (DOCUMENTS / "python.md").read_text(encoding="utf-8"), re.DOTALL)
    given = {"url": guarded.url, "token": guarded.token("writer"), "moment": "2001-01-01T00:00"}
    exec(compile(recipe, "docs/python.md", "exec"), {"node": node, "segmentation": segmentation, **given})
    assert "copies/1.2.3.1/volume.nii.gz [[" in capsys.readouterr().out
    assert len(node.connect(guarded.url, given["token"]).series()) == 2


def test_the_catalog_has_the_columns_of_the_view(filled: Site) -> None:
    [row], [known] = node.connect(filled.url).catalog(), beside(filled).catalog()
    assert row.keys() - {"name", "url"} == known.keys() - {"path"}
    for column in ("patient", "patient_age", "rows", "slices", "times", "slice_spacing_mm", "verdict", "sha256"):
        assert row[column] == known[column], column


def test_a_selector_chooses_rows_of_the_catalog(filled: Site) -> None:
    for opened in (node.connect(filled.url), beside(filled)):
        for where, count in (('modality == "CT" and slices > 1', 1), ('modality == "MR"', 0)):
            assert len(opened.catalog(where)) == count
        with pytest.raises((UsageError, NodeFailed), match='unknown field "slicse", did you mean "slices"'):
            opened.catalog("slicse > 1")


@pytest.mark.slow
def test_a_volume_that_was_replaced_is_distinguished_from_one_that_is_wrong(site: Site) -> None:
    site.take(*make.ct_series(3, study_uid="1.2", series_uid="1.2.1"))
    site.convert()
    [series] = node.connect(site.url).series()
    [volume] = series.volumes()
    copy = next((site.root / "volumes").rglob("volume.nii.gz"))
    copy.write_bytes(copy.read_bytes()[:-1] + b"x")
    with pytest.raises(FileNotFoundError, match="damaged"):
        volume.array()
    site.client().delete("/api/v1/studies/1.2").raise_for_status()
    with pytest.raises(FileNotFoundError, match="deleted"):
        volume.array()


def test_refusals_have_a_status_and_a_remedy(guarded: Site) -> None:
    with pytest.raises(node.NodeFailed, match="account") as refused:
        node.connect(guarded.url)
    assert refused.value.status == 401
    assert ".." not in str(refused.value).removesuffix("...`")
    assert str(refused.value).count("account token") == 1
    assert node.connect(guarded.url, token=guarded.token("reader")).series() == []
    with pytest.raises(NodeFailed, match=r'The request is not valid: .*"modality"\? Correct the request; ') as refused:
        node.connect(guarded.url, token=guarded.token("reader")).series(where='modalit == "CT"')
    assert "?." not in str(refused.value)
    with pytest.raises(UsageError, match="not the address"):
        node.connect("pacs:8080")
    with pytest.raises(NodeFailed, match=r"/healthz answered 404: "):
        node.connect(f"{guarded.url}/healthz")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(NodeFailed, match="does not answer: ReadTimeout"):
            node.connect(address, timeout=0.2)
    with pytest.raises(NodeFailed, match="does not answer: ConnectError"):
        node.connect(address)


def test_the_certificate_of_a_node_is_verified(
    start_site: Callable[..., Site],
    keys: Path,  # noqa: F811
) -> None:
    site = start_site(tls_certificate=keys / "server.pem", tls_key=keys / "server.key")
    with pytest.raises(NodeFailed, match="name the authority of its certificate by ca_file"):
        node.connect(site.url)
    assert node.connect(site.url, ca_file=keys / "ca.pem").studies() == []


@pytest.mark.slow
def test_a_medium_is_fetched_although_the_connection_breaks(site: Site, tmp_path: Path) -> None:
    site.take(*make.ct_series(6, study_uid="1.2.3", series_uid="1.2.3.1", rows=512, columns=512))
    passed, cuts = 0, 0

    def changed(answer: bytes) -> bytes:
        nonlocal passed, cuts
        passed += len(answer)
        if passed > (cuts + 1) * 1_000_000 and cuts < 2:
            cuts += 1
            proxy.cut()
        return answer

    with Proxy(httpx2.URL(site.url).port or 0) as proxy:
        there = node.connect(f"http://127.0.0.1:{proxy.port}")
        proxy.changed = changed
        path = there.download_medium(tmp_path / "medium.zip", ["1.2.3"])
    assert cuts == 2
    with zipfile.ZipFile(path) as opened:
        assert opened.testzip() is None
        assert opened.namelist()[-1] == "DICOMDIR"
    assert site.client().get("/api/v1/work?kind=download").json()["items"] == []
    with pytest.raises(NodeFailed) as refused:
        node.connect(site.url).download_deidentified(tmp_path / "x.zip", "none", ["1.2.3"])
    assert refused.value.status == 400

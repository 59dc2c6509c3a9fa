"""DELETE by DICOMweb: who may, what goes, and that it goes into the trash with a line in the audit log."""

import pytest

from tests import make
from tests.rows import view_rows
from tests.web.conftest import Site
from tests.web.test_stow import stored


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

"""The tree of links by name of a node: it follows the index."""

from io import BytesIO
from math import inf
from pathlib import Path
from zipfile import ZipFile

import pytest

from node.api import read_voxels
from node.conversion.naming import name_template, node_template
from node.conversion.offline import convert_folder, planned
from node.conversion.out_folder import Layout
from node.extensions.names import tree
from node.extensions.names.tree import NameTree, Tree
from node.settings.section import Convert
from node.writers.options import write_options
from tests import make
from tests.converting import here
from tests.web.conftest import Site, StartSite

pytestmark = pytest.mark.slow


TEMPLATE = "{patient_name}_{modality}/{series_number:03}_{series_description}"


def settled(names: NameTree) -> None:
    while names.step() == 0.0:
        pass


def test_the_tree_follows_conversions_deletions_and_their_end(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    names = NameTree(Tree(site.root, node_template(TEMPLATE)), site.services.index)
    settled(names)
    instances = make.ct_series(7, study_uid="1.2.3", series_uid="1.2.3.1", PatientName="Doe^Jane")
    site.take(*instances[:5])
    site.convert()
    settled(names)
    [header] = (site.root / "names").rglob("*.mhd")
    assert header.parent.name == "Doe_Jane_CT"
    assert read_voxels(header)[0].shape[2] == 5
    [volume] = header.parent.glob("*.nii.gz")
    first = volume.resolve(strict=True)
    assert first.is_relative_to(site.root / "volumes")

    site.take(instances[5])
    site.convert()
    settled(names)
    assert volume.resolve(strict=True) != first
    assert read_voxels(header)[0].shape[2] == 6

    assert site.client().delete("/api/v1/studies/1.2.3").json()["deleted"]
    settled(names)
    assert list((site.root / "names").iterdir()) == []
    [entry] = site.client().get("/api/v1/trash").json()
    site.client().post(f"/api/v1/trash/{entry['number']}/restore")
    site.convert()
    settled(names)
    assert Path(volume).resolve(strict=True).is_file()

    stuck = header.with_name(f".{volume.name}.part")
    stuck.mkdir()  # as a disk that fails in one folder
    site.take(instances[6], *make.ct_series(5, study_uid="1.2.4", series_uid="1.2.4.1", PatientName="Roe^Ann"))
    site.convert()
    settled(names)
    assert list((site.root / "names/Roe_Ann_CT").glob("*.nii.gz")), "a folder that fails delays no other"
    stuck.rmdir()
    monkeypatch.setattr(tree, "monotonic", lambda: inf)
    assert names.step() is None
    assert read_voxels(header)[0].shape[2] == 7


@pytest.mark.parametrize("template", [None, "{patient_id}/{study_date}_{study_id}/{station}_{series_number:02}"])
def test_convert_zip_files_and_the_tree_give_a_series_one_path(
    template: str | None, tmp_path: Path, start_site: StartSite
) -> None:
    """Two studies of two people, one of whom has no name, and one of whom is called like a way out."""
    site = start_site(storage={} if template is None else {"names": template})
    whose = {
        "1.2.3": {
            "PatientName": "",
            "PatientID": "../P1",
            "StudyDate": "20261120",
            "StudyID": "S 1",
            "StationName": "MR/7",
        },
        "1.2.4": {"PatientName": "Roe^Ann", "PatientID": "P2", "StudyDate": "", "StudyID": "", "StationName": ""},
    }
    instances = [
        ds
        for study, values in whose.items()
        for number in (1, 2)
        for ds in make.mr_series(3, study_uid=study, series_uid=f"{study}.{number}", SeriesNumber=number, **values)
    ]
    site.take(*instances)
    site.convert()
    settled(NameTree(Tree(site.root, node_template(template)), site.services.index))
    tree = {str(path.relative_to(site.root / "names")) for path in (site.root / "names").rglob("*.nii.gz")}

    answer = site.client().post("/selected/volumes.zip", data={"study": [*whose]}, follow_redirects=True)
    members = {name for name in ZipFile(BytesIO(answer.content)).namelist() if name.endswith(".nii.gz")}

    layout = Layout(None if template is None else name_template(template))
    options = write_options(Convert(thumbnails=False, formats=("nifti",)))
    files = make.saved(instances, tmp_path / "in")
    listing = convert_folder(files, tmp_path / "out", options, here, layout=layout)
    converted = {row["path"] for row in listing["volumes"]}
    planned_paths = {f"{row['path']}.nii.gz" for row in planned(files, tmp_path / "out", layout)["series"]}

    assert tree == members == converted == planned_paths
    folders = ["P1_20261120_MR", "Roe_Ann_MR"] if template is None else ["P1/20261120_S_1", "P2/unknown"]
    assert sorted({path.rpartition("/")[0] for path in tree}) == folders


def test_zip_files_of_studies_in_one_folder_of_a_person_can_be_unpacked_together(start_site: StartSite) -> None:
    """With the template of a site, the days of studies do not tell their folders apart."""
    site = start_site(storage={"names": "{patient_id}/{series_number:03}"})
    for study, day in (("1.2.3", "20261120"), ("1.2.4", "20261121")):
        site.take(*make.mr_series(3, study_uid=study, series_uid=f"{study}.1", PatientID="P1", StudyDate=day))
    site.convert()
    zips = [ZipFile(BytesIO(site.client().get(f"/studies/{uid}/dicom.zip").content)) for uid in ("1.2.3", "1.2.4")]
    assert [one.namelist()[0] for one in zips] == ["P1/001/000001.dcm", "P1-2/001/000001.dcm"]

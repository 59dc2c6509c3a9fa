"""The tree of links by name of a node: it follows the index."""

from __future__ import annotations

from math import inf
from pathlib import Path

import pytest

from node.extensions.names import tree
from node.extensions.names.template import read_template
from node.extensions.names.tree import NameTree, Tree
from node.writers.reading import read_voxels
from tests import make
from tests.web.conftest import Site

TEMPLATE = "{patient_name}_{modality}/{series_number:03}_{series_description}"


def settled(names: NameTree) -> None:
    while names.step() == 0.0:
        pass


@pytest.mark.slow
def test_the_tree_follows_conversions_deletions_and_their_end(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    names = NameTree(Tree(site.root, read_template(TEMPLATE)), site.services.index)
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

"""Queries that profiles of IHE name, beyond those of images."""

from pydicom.dataset import Dataset

from node.dicom.matching import Options, read_query
from tests import make
from tests.integration.conftest import Root

PRESENTATION_STATE = "1.2.840.10008.5.1.4.1.1.11.1"
KEY_OBJECTS = "1.2.840.10008.5.1.4.1.1.88.59"


def found(root: Root, **keys: object) -> list[str]:
    identifier = make.dataset(QueryRetrieveLevel="IMAGE", SOPInstanceUID="", **keys)
    query = read_query(identifier, options=Options(relational=True))
    return [str(one["SOPInstanceUID"]) for one in root.index.find(query)]


def title(code: str) -> list[Dataset]:
    return [make.dataset(CodeValue=code, CodingSchemeDesignator="DCM")]


def test_key_images_and_presentation_states_are_found_by_title_and_label(root: Root) -> None:
    states = [
        make.instance(sop_class_uid=PRESENTATION_STATE, modality="PR", ContentLabel=label) for label in ("LUNG", "BONE")
    ]
    notes = [make.instance(sop_class_uid=KEY_OBJECTS, modality="KO") for _ in range(2)]
    for note, code in zip(notes, ("113000", "113004"), strict=True):
        note.ConceptNameCodeSequence = title(code)
        note.ConceptNameCodeSequence[0].CodeMeaning = "of interest"
    root.take_all([*states, *notes, *make.ct_series(1)])
    assert found(root, ContentLabel="BONE") == [states[1].SOPInstanceUID]
    assert sorted(found(root, ContentLabel="*N*")) == sorted(ds.SOPInstanceUID for ds in states)
    assert found(root, ConceptNameCodeSequence=title("113004")) == [notes[1].SOPInstanceUID]

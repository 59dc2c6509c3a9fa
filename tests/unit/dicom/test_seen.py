"""How each storage class of the standard is seen."""

from highdicom._standard_utils import get_iod_module_map, get_sop_class_iod_map

from node.dicom.seen import Seen, seen_as
from node.dicom.uids import storage_classes


def test_every_storage_class_is_seen_as_something() -> None:
    seen = {keyword: seen_as(uid) for keyword, uid in storage_classes().items()}
    assert {*seen.values()} == {*Seen} - {Seen.VIDEO}
    for keyword, kind in seen.items():
        if (iod := get_sop_class_iod_map().get(storage_classes()[keyword])) is not None:
            has_pixels = any("pixel" in module["key"] for module in get_iod_module_map()[iod])
            assert (kind is Seen.PICTURE) is has_pixels, keyword
        assert (kind is Seen.REPORT) is (
            keyword.endswith(("SRStorage", "SRStorageTrial", "SelectionDocumentStorage"))
            or ".88." in storage_classes()[keyword]
        ), keyword
    assert seen_as("1.2.3.4", has_rows=True) is Seen.PICTURE
    assert seen_as("1.2.3.4") is Seen.ATTRIBUTES

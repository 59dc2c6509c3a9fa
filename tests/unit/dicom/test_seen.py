"""How each storage class of the standard is seen."""

from node.dicom.seen import Seen, seen_as
from node.dicom.uids import storage_classes


def test_every_storage_class_is_seen_as_something() -> None:
    seen = {keyword: seen_as(uid) for keyword, uid in storage_classes().items()}
    assert {*seen.values()} == {*Seen} - {Seen.VIDEO}
    for keyword, kind in seen.items():
        is_image = ("Image" in keyword or "RTDose" in keyword) and "Trial" not in keyword
        assert kind is Seen.PICTURE or not is_image, keyword
        assert (kind is Seen.REPORT) is (
            keyword.endswith(("SRStorage", "SRStorageTrial", "SelectionDocumentStorage"))
            or ".88." in storage_classes()[keyword]
        ), keyword
    assert seen_as("1.2.3.4", has_rows=True) is Seen.PICTURE
    assert seen_as("1.2.3.4") is Seen.ATTRIBUTES

"""Read documents in the Native DICOM Model (PS3.19 A.1), which the node only writes."""

from typing import Any
from xml.etree import ElementTree

from node.dicom.json_model import NAME_GROUPS, Json
from node.extensions.dicomweb.xml_model import FLOATS, NAME_COMPONENTS, first_block

_WHOLE = ("US", "SS", "UL", "SL", "UV", "SV")


def json_from_native(document: bytes) -> Json:
    """Return a document as a data set in the DICOM JSON Model; values of DS and IS stay text (PS3.18 table F.2.3-1)."""
    return _data_set(ElementTree.fromstring(document))


def _data_set(parent: ElementTree.Element) -> Json:
    model: Json = {}
    for one in parent:
        tag, vr = one.attrib["tag"], one.attrib["vr"]
        if (creator := one.get("privateCreator")) is not None:
            tag = f"{tag[:4]}{first_block(model, tag[:4], creator)}{tag[6:]}"
        assert tag not in model
        element = model[tag] = {"vr": vr}
        for number, child in enumerate(one, start=1):
            name = child.tag.rpartition("}")[2]
            if name == "BulkData":
                element["BulkDataURI"] = child.get("uri") or child.attrib["uuid"]  # which DCMTK writes
            elif name == "InlineBinary":
                element["InlineBinary"] = child.text or ""
            else:
                assert child.attrib["number"] == str(number)
                read = {"Item": _data_set, "PersonName": _name}.get(name)
                element.setdefault("Value", []).append(read(child) if read else _value(vr, child.text))
    return model


def _name(element: ElementTree.Element) -> dict[str, str] | None:
    found = {}
    for group in element:
        parts = {part.tag.rpartition("}")[2]: part.text or "" for part in group}
        found[group.tag.rpartition("}")[2]] = "^".join(parts.pop(name, "") for name in NAME_COMPONENTS).rstrip("^")
        assert not parts
    assert set(found) <= set(NAME_GROUPS)
    return found or None


def _value(vr: str, text: str | None) -> Any:
    if text is None:
        return None
    if vr in FLOATS:
        return {"INF": "inf", "-INF": "-inf", "NaN": "NaN"}.get(text) or float(text)
    return int(text) if vr in _WHOLE else text

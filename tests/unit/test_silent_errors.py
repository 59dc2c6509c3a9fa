"""An error in data is said or impossible: no handler skips what came from a person or the network without a word."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import node

ROOT = Path(node.__file__).parent

OF_DATA = {
    "ArithmeticError", "AttributeError", "BadZipFile", "CONVERSION_ERRORS", "ConversionRefused", "DAMAGE", "EOFError",
    "Exception", "HeaderCut", "IndexError", "InvalidDicomError", "KeyError", "LookupError", "NotDecoded", "NotDicom",
    "NotSendable", "NotUnderstood", "OverflowError", "ResultRefused", "TypeError", "UnicodeDecodeError",
    "ValueError",
}  # fmt: skip
"""Exceptions of data, and those of modules of which all are."""

MODULES_OF_DATA = {"binascii", "struct", "zlib"}

OF_WHOLE_DATA_SETS = {
    "BadZipFile", "CONVERSION_ERRORS", "ConversionRefused", "DAMAGE", "Exception", "HeaderCut", "NotDecoded",
    "NotUnderstood",
}  # fmt: skip
"""Those after which a default stands for more than one value that is no number, date or address."""

ACCEPTED = {
    "extensions/results/segmentation.py _placed": "a grid that the mask is not of; why it was refused is raised",
    "receive/aside.py stranger": "who asks says that the other patient is not known",
    "archive/proof.py last_proof": "a proof that cannot be read counts as none, and doctor warns of that",
    "association/services/c_find.py _audited_keys": "the audit line says that the keys are not readable",
    "runtime/background.py failed": "the log itself fails; the service is failed nevertheless",
    "children/serving.py _keep_freed_memory": "the C library has no such function; it goes on as it would",
    "children/decoding.py _different_elements": "the element is named as one that differs",
    "children/forwarding.py _compress": "the instance goes uncompressed",
    "lifecycle/scrub.py _forget_cached": "the system has no such function; nothing of a person is read",
    "runtime/background.py share_fairly": "the C library has no such function; nothing of a person is read",
    "conversion/found_series.py _read_head": "more is read; the conversion of the file names the damage",
    "conversion/volume_files.py settle": "the process died while it wrote the note: nothing was published",
    "dicom/documents.py _items": "the answer has the sequence without items; the instance keeps its bytes",
    "dicom/header.py cut_pixels": "a data set that ends too early is the finding: it has no pixels",
    "dicom/header.py read_changed": "the whole header is read instead",
    "dicom/header.py read_elements": "a mark in the result says that it is not the whole header",
    "dicom/header.py read_items": "items of requests are keys of a worklist; the instance keeps its bytes",
    "dicom/header.py require_parsable": "it counts elements only; whoever reads them names the damage",
    "dicom/recoded.py is_recoded": "what cannot be compared counts as different: a conflict that a person decides",
    "dicom/json_model.py _from_short_bytes": "pydicom converts the value instead, or its bytes are answered",
    "dicom/matching.py key_item": "a key that cannot be read is no item, and matches everything",
    "dicom/encoding.py file_meta": "a head without the UIDs of an instance is listed as skipped, or refused",
    "files/heads.py may_be_own_copy": "it is another version then, about which the policy or a person decides",
    "extensions/worklist/hl7.py _decoded": "the next character set is tried; without any the message is refused",
    "dicom/values.py private_items": "what is not as documented counts as absent, and what lacks is a warning",
    "dicom/values.py private_sequences": "what is not as documented counts as absent, and what lacks is a warning",
    "dicom/values.py value": "absent and unreadable values are the same: who needs one refuses",
    "extensions/deidentify/attributes.py _private": "a private element that cannot be cleaned is removed",
    "extensions/dicomweb/bulk_data.py begun_frame": "the next accepted form is tried; the last one raises",
    "extensions/dicomweb/decoding.py long_value": "it is answered 404, with the reason",
    "extensions/pages/files.py overlaid": "the thumbnail is shown without the image below it",
    "extensions/peers/search.py _read": "a note on the page counts the answers that are left out",
    "extensions/worklist/queries.py _has_value": "a key that cannot be read is reported as not supported",
    "runtime/logs.py handleError": "the log itself fails; a line in its place says so",
    "receive/custody.py _attributes": "the comparison says that the file of the version cannot be read",
    "receive/dicom_files.py _uids": "fewer UIDs are read, and without any the file is listed as skipped",
    "receive/ingest.py lacks_pixels": "`finish` refuses the instance, with the reason",
    "settings/load.py _network": "it looks for a hint; the value is refused without one",
    "settings/section.py _host": "what is no address is judged as a name",
    "volume/arrange/duplicates.py has_same_pixels": "no copy if it cannot be decoded; reported as different pixels",
    "volume/read/lookup_tables.py _channel": "both widths are tried, and then the palette is refused",
    "volume/read/transcoding.py _representation": "the element is written with its bytes, as UN",
    "web/api/routing.py parse_cursor": "the cursor is refused",
}
"""The handlers that skip, by function, and why nobody misses anything. The list may only become shorter."""


def _names(caught: ast.expr | None) -> Iterator[str]:
    for part in ast.walk(caught) if caught is not None else ():
        if isinstance(part, ast.Attribute) and isinstance(part.value, ast.Name) and part.value.id in MODULES_OF_DATA:
            yield "ValueError"
        elif isinstance(part, ast.Attribute):
            yield part.attr
        elif isinstance(part, ast.Name):
            yield part.id


def _is_default(value: ast.expr | None) -> bool:
    is_empty = isinstance(value, ast.List | ast.Tuple | ast.Set) and not value.elts
    return (
        value is None or isinstance(value, ast.Constant) or is_empty or (isinstance(value, ast.Dict) and not value.keys)
    )


def _is_silent(handler: ast.ExceptHandler) -> bool:
    """Return whether a handler only goes on, or only puts a default in the place of what could not be read."""
    caught = set(_names(handler.type))
    (only, *more) = handler.body
    if more or not caught & OF_DATA:
        return False
    if isinstance(only, ast.Pass | ast.Continue | ast.Break):
        return True
    is_default = isinstance(only, ast.Return | ast.Assign) and _is_default(only.value)
    return is_default and bool(caught & OF_WHOLE_DATA_SETS)


def _silent_in(part: ast.AST, function: str = "") -> Iterator[str]:
    """Yield the function of each silent handler below a node of a syntax tree."""
    if isinstance(part, ast.FunctionDef | ast.AsyncFunctionDef):
        function = part.name
    is_suppressed = isinstance(part, ast.Call) and isinstance(part.func, ast.Name) and part.func.id == "suppress"
    if is_suppressed and any(set(_names(each)) & OF_DATA for each in part.args):
        yield function
    if isinstance(part, ast.ExceptHandler) and _is_silent(part):
        yield function
    for below in ast.iter_child_nodes(part):
        yield from _silent_in(below, function)


@pytest.mark.slow
def test_no_handler_skips_data_without_a_word() -> None:
    found = {
        f"{path.relative_to(ROOT)} {function}"
        for path in ROOT.rglob("*.py")
        for function in _silent_in(ast.parse(path.read_text()))
    }
    assert found == set(ACCEPTED), "say it, or make it impossible"


def test_a_handler_that_skips_is_found() -> None:
    source = """
def read(lines):
    for line in lines:
        try:
            yield float(line)
        except ValueError:
            continue
    with suppress(KeyError, struct.error):
        yield first(lines)
    try:
        return whole(lines)
    except NotUnderstood:
        return []
    try:
        return whole(lines)
    except NotUnderstood as error:
        raise Refused from error
"""
    assert list(_silent_in(ast.parse(source))) == ["read"] * 3

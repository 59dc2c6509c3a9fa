"""docs/sidecar.md has the table that the code makes, and the reasons that the comparison with dcm2niix accepts."""

import re

from tests.field_tables import DCM2NIIX, DERIVED, DOCS, OTHER_NAMES, UNIT_OF, sources, with_table
from tests.reference.sidecar_differences import DIFFERENCES

DOCUMENT = (DOCS / "sidecar.md").read_text(encoding="utf-8")


def test_the_document_has_the_table_of_the_code() -> None:
    assert with_table("sidecar.md") == DOCUMENT, "run: python -m tests.field_tables"


def test_every_name_with_a_unit_or_another_writer_is_a_field() -> None:
    assert {*UNIT_OF, *DCM2NIIX, *OTHER_NAMES, *DERIVED} <= sources().keys()


def test_the_document_has_every_reason_for_a_difference_from_dcm2niix_and_no_other() -> None:
    rows = re.findall(r"^\| (.+?) \| (.+?) \|$", DOCUMENT.split("## Beside dcm2niix")[1], flags=re.MULTILINE)
    documented = {(frozenset(re.findall(r"`(\w+)`", fields)), reason) for fields, reason in rows[1:]}
    assert documented - {(frozenset(), "---")} == {(rule.fields, rule.reason) for rule in DIFFERENCES}

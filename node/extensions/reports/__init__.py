"""Measurements of structured reports, and selections of key objects, become JSON (PS3.3 A.35)."""

from node.api import Extension, ObjectKind, Statement


class _Reports(Extension):
    """Structured reports and key object documents."""

    name = "reports"
    objects = (ObjectKind(frozenset(("1.2.840.10008.5.1.4.1.1.88.",)), f"{__name__}.report:ReportsOfSeries"),)
    statement = Statement(
        words={
            "read_reports": " A conversion reads the numeric content items of all templates, and\n"
            "the references of key object selections (TID 2010), into JSON files."
        }
    )


EXTENSION = _Reports()

"""Measurements of structured reports, and selections of key objects, become JSON (PS3.3 A.35)."""

from __future__ import annotations

from node.api import Extension, ObjectKind


class _Reports(Extension):
    """Structured reports and key object documents."""

    name = "reports"
    objects = (ObjectKind(frozenset(("1.2.840.10008.5.1.4.1.1.88.",)), f"{__name__}.report:ReportsOfSeries"),)


EXTENSION = _Reports()

"""FHIR R5: stored studies as `ImagingStudy` resources, for record systems that know FHIR rather than DICOM."""

from __future__ import annotations

from node.hookspecs import Extension, Router


class _Fhir(Extension):
    """ImagingStudy over HTTP, read and searched."""

    name = "fhir"
    routers = (Router("rest", f"{__name__}.rest:router"),)


EXTENSION = _Fhir()

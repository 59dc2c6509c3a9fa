"""FHIR R5: stored studies as `ImagingStudy` resources, for record systems that know FHIR rather than DICOM."""

from __future__ import annotations

from node.hookspecs import Extension, Key, Router


class _Fhir(Extension):
    """ImagingStudy over HTTP: read, searched, and sent by hooks."""

    name = "fhir"
    routers = (Router("rest", f"{__name__}.rest:router"),)
    channels = (Key("fhir", f"{__name__}.hook:opened"),)


EXTENSION = _Fhir()

"""Links to installed viewers."""

from __future__ import annotations

from urllib.parse import urlencode

from node.web.services import Services
from node.web.viewers import BASE, installed


def ohif_url(node: Services, study_instance_uid: str) -> str:
    """Return the URL of a study in OHIF; empty if OHIF is not installed (``voxelnode viewers install ohif``)."""
    if installed(node.archive.root) is None:
        return ""
    return f"{BASE}viewer?{urlencode({'StudyInstanceUIDs': study_instance_uid})}"

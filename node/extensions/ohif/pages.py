"""OHIF, if installed (``voxelnode viewers install ohif``): links to it, its files, and its page for all other paths."""

from urllib.parse import urlencode

from fastapi import APIRouter, HTTPException
from fastapi.responses import FileResponse

from node.api import MEMBERS, Node, Services
from node.extensions.ohif.package import BASE, folder_of, installed

router = APIRouter(include_in_schema=False, dependencies=MEMBERS)

PAGE = "index.html"

HEADERS = {
    # The WebAssembly modules compile glue code with `new Function`, and scripts set styles.
    "Content-Security-Policy": (
        "default-src 'self'; script-src 'self' 'unsafe-eval' 'wasm-unsafe-eval' blob:; worker-src 'self' blob:; "
        "style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; font-src 'self' data:; media-src 'self' blob:; "
        "connect-src 'self' data: blob:; object-src 'none'; frame-src 'self' blob:; base-uri 'none'; "
        "form-action 'self'; frame-ancestors 'none'"
    ),
    "Cross-Origin-Embedder-Policy": "require-corp",  # with COOP, required for shared memory in workers
    "Cache-Control": "private, no-cache",
}

MEDIA_TYPES = {".js": "text/javascript", ".wasm": "application/wasm", ".css": "text/css", ".html": "text/html"}
"""Media types that must be correct, whatever the tables of the machine contain."""


@router.api_route(BASE.rstrip("/"), methods=["GET", "HEAD"])
@router.api_route(BASE + "{path:path}", methods=["GET", "HEAD"])
def ohif(node: Node, path: str = "") -> FileResponse:
    """A file of the package; for any other path the page, since OHIF routes in the browser."""
    manifest = installed(node.archive.root)
    if manifest is None:
        raise HTTPException(404, "OHIF is not installed: `voxelnode viewers install ohif`")
    files = manifest["files"]
    name = path if isinstance(files, list) and path in files else PAGE
    file = folder_of(node.archive.root) / name
    return FileResponse(file, headers=HEADERS, media_type=MEDIA_TYPES.get(file.suffix))


def ohif_url(node: Services, study_instance_uid: str) -> str:
    """Return the URL of a study in OHIF; empty if OHIF is not installed (``voxelnode viewers install ohif``)."""
    if installed(node.archive.root) is None:
        return ""
    return f"{BASE}viewer?{urlencode({'StudyInstanceUIDs': study_instance_uid})}"

"""Stylesheet and scripts, and the documents of the package.

Stylesheet and scripts contain no secrets, so browsers may cache them. Each is compressed once, when it is first asked
for, and then kept in memory.
"""

import gzip
import re
from functools import cache
from itertools import pairwise
from pathlib import Path, PurePath
from typing import Any

from fastapi import APIRouter
from markupsafe import Markup
from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.staticfiles import StaticFiles

from node.cli.look.help import documents
from node.version import __version__
from node.web.access import MEMBERS, CurrentCall, for_anybody
from node.web.errors import ResourceNotFound
from node.web.headers import accepts_gzip, has_etag
from node.web.pages.rendering import page

FOLDER = Path(__file__).with_name("static")

CACHED = "public, max-age=31536000, immutable"
"""For a year, since a new version of the node has new URLs (`static_url`)."""


JOINED = {"pages.js": ("vendor/htmx-2.0.11.min.js", "voxelnode.js")}
"""Scripts that every page needs, by the name under which they are served as one: a request less for the first page."""

COMPRESSED = frozenset({".js", ".css", ".svg"})
HTTP_OK = 200


class Assets(StaticFiles):
    """Serves `FOLDER` and `JOINED`; files requested by their `static_url` may be cached for a year."""

    def __init__(self) -> None:
        super().__init__(directory=FOLDER)

    async def get_response(self, path: str, scope: Any) -> Response:
        if path not in JOINED or scope["method"] not in ("GET", "HEAD"):
            return await super().get_response(path, scope)
        is_compressed = accepts_gzip(Headers(scope=scope))
        response = Response(_joined(path, is_compressed), media_type="text/javascript")
        if is_compressed:
            response.headers["Content-Encoding"] = "gzip"
        response.headers["Vary"] = "Accept-Encoding"
        response.headers["Cache-Control"] = _cache_control(scope)
        return response

    def file_response(self, full_path: Any, stat_result: Any, scope: Any, status_code: int = 200) -> Response:
        response = super().file_response(full_path, stat_result, scope, status_code)
        if Path(full_path).suffix in COMPRESSED:
            if accepts_gzip(Headers(scope=scope)) and status_code == HTTP_OK and "range" not in Headers(scope=scope):
                response = _gzip_response(Path(full_path), response, scope)
            response.headers["Vary"] = "Accept-Encoding"
        response.headers["Cache-Control"] = _cache_control(scope)
        return response


def _cache_control(scope: Any) -> str:
    return CACHED if scope["query_string"] == f"v={__version__}".encode() else "no-cache"


def _gzip_response(path: Path, plain: Response, scope: Any) -> Response:
    content = _compressed(path)
    etag = f'{plain.headers["etag"].removesuffix(chr(34))}-gzip"'
    headers = {"Content-Encoding": "gzip", "ETag": etag, "Last-Modified": plain.headers["last-modified"]}
    if has_etag(Headers(scope=scope), etag):
        return Response(status_code=304, headers=headers)
    body = b"" if scope["method"] == "HEAD" else content
    headers["Content-Length"] = str(len(content))
    return Response(body, 200, headers, media_type=plain.media_type)


@cache
def _compressed(path: Path) -> bytes:
    return gzip.compress(path.read_bytes(), mtime=0)


@cache
def _joined(name: str, is_compressed: bool) -> bytes:
    content = b";\n".join((FOLDER / part).read_bytes() for part in JOINED[name])
    return gzip.compress(content, mtime=0) if is_compressed else content


router = APIRouter()
router.mount("/static", for_anybody(Assets()))


@router.get("/help/{topic}", include_in_schema=False, dependencies=MEMBERS)
def document(call: CurrentCall, topic: str) -> Response:
    """A document, to which pages link."""
    if topic not in documents():
        raise ResourceNotFound("document")
    return page(call, "help.html", text=_rendered(topic), topic=topic)


@cache
def _rendered(topic: str) -> Markup:
    """Return a document as HTML with the anchors of its headings. Pictures do not ship, and are left out.

    A link to something else than a document of the package, such as to the code, becomes text.
    """
    from markdown_it import MarkdownIt  # for the first document that is read

    known = documents()
    markdown = MarkdownIt("commonmark", {"html": True}).enable("table")
    markdown.add_render_rule("image", lambda *_: "")
    tokens = markdown.parse(known[topic].read_text(encoding="utf-8"))
    for before, token in pairwise(tokens):
        if before.type == "heading_open":
            before.attrs["id"] = re.sub(r"[^\w -]", "", token.content.lower()).replace(" ", "-")
        for part in token.children or ():
            place, _, anchor = str(part.attrs.get("href", "")).partition("#")
            name = PurePath(place).stem
            if place and "//" not in place:
                part.attrs["href"] = f"/help/{name}{anchor and f'#{anchor}'}"
                if not place.endswith(".md") or name not in known:
                    del part.attrs["href"]
    return Markup(markdown.renderer.render(tokens, markdown.options, {}))

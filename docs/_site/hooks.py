"""Hooks of MkDocs: the documents are written for a checkout, and become a site without a change.

The README is the first page. Files outside of this folder that a document links to come with the site; what a site
cannot show, such as a folder, loses its link.
"""

from __future__ import annotations

import os
import re
from pathlib import Path, PurePosixPath

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files, InclusionLevel

ROOT = Path(__file__).resolve().parents[2]
PAGES = {"README.md": "index.md"} | {name: name for name in ("CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md")}
"""Pages of the site that lie outside of this folder."""

_LINK = re.compile(r"\[([^\[\]]*(?:\[[^\]]*\])?[^\[\]]*)\]\(([^)\s#]+)(#[^)]*)?\)")
_CODE_IN_LIST = re.compile(r"^ {7}(?=\S)", re.MULTILINE)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages and files of the checkout to which the documents lead."""
    for name, uri in PAGES.items():
        text = (ROOT / name).read_text(encoding="utf-8")
        files.append(File.generated(config, uri, content=_on_site(text, PurePosixPath(name))))
    for path in _linked_files():
        files.append(File.generated(config, path, abs_src_path=str(ROOT / path), inclusion=InclusionLevel.NOT_IN_NAV))
    return files


def on_page_markdown(markdown: str, page: object, config: MkDocsConfig, files: Files) -> str:
    """Adapt the links and the code of a document: MkDocs wants code in lists indented by eight spaces."""
    file: File = page.file  # type: ignore[attr-defined]
    if file.generated_by is None:
        markdown = _on_site(markdown, PurePosixPath("docs", file.src_uri))
    return _CODE_IN_LIST.sub(" " * 8, markdown)


def _on_site(text: str, document: PurePosixPath) -> str:
    """Return a document with the links as the site needs them."""

    def adapted(match: re.Match[str]) -> str:
        words, target, anchor = match[1], match[2], match[3] or ""
        if "://" in target or target.startswith("mailto:"):
            return match[0]
        path = _of_root(document, target)
        uri = PAGES.get(path) or (path.removeprefix("docs/") if path.startswith("docs/") else path)
        if not (ROOT / path).is_file() or _is_code(path):
            return words
        here = "." if document.parts[0] != "docs" else str(PurePosixPath(*document.parts[1:]).parent)
        return f"[{words}]({os.path.relpath(uri, here)}{anchor})"

    return _LINK.sub(adapted, text)


def _of_root(document: PurePosixPath, target: str) -> str:
    return os.path.normpath(document.parent / target)


def _is_code(path: str) -> bool:
    return path.endswith(".py")


def _linked_files() -> set[str]:
    """Return the files outside of this folder, and of `PAGES`, that documents link to."""
    found = set()
    for document in (*(ROOT / "docs").rglob("*.md"), *(ROOT / name for name in PAGES)):
        here = PurePosixPath(document.relative_to(ROOT))
        for _, target, _ in _LINK.findall(document.read_text(encoding="utf-8")):
            path = "" if "://" in target else _of_root(here, target)
            if (ROOT / path).is_file() and not path.startswith("docs/") and path not in PAGES and not _is_code(path):
                found.add(path)
    return found

"""``voxelnode help``: the documents, which come with the package."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from node.cli.output import Answer, Listing, listing
from node.errors import UsageError, nearest

LIST = "voxelnode help"


def help_(
    topic: Annotated[
        str | None,
        typer.Argument(metavar="TOPIC", help="Name of a document.", autocompletion=lambda: sorted(_documents())),
    ] = None,
) -> Answer | Listing:
    """List the documents, or show one."""
    documents = _documents()
    if topic is None:
        titles = {name: _title(path) for name, path in sorted(documents.items())}
        rows = [{"topic": name, "about": title} for name, title in titles.items()]
        return listing("", {"topic": "topic", "about": "about"}, rows, data=titles)
    name = topic.rpartition("/")[2].removesuffix(".md")
    if name not in documents:
        raise UsageError(f"{topic!r} is not a document{nearest(name, sorted(documents), LIST)}")
    text = documents[name].read_text(encoding="utf-8")
    return Answer({"topic": name, "text": text}, lambda: _show(text))


def _documents() -> dict[str, Path]:
    installed = Path(__file__).parents[2] / "docs"
    folder = installed if installed.is_dir() else Path(__file__).parents[3] / "docs"
    return {path.stem: path for path in folder.rglob("*.md")}


def _title(path: Path) -> str:
    with path.open(encoding="utf-8") as file:
        return file.readline().removeprefix("#").strip()


def _show(text: str) -> None:
    if not sys.stdout.isatty():
        print(text, end="")
        return
    from rich.console import Console
    from rich.markdown import Markdown

    console = Console()
    with console.pager(styles=True):
        console.print(Markdown(text))

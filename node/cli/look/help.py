"""``voxelnode help``: the documents, which come with the package."""

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from node.cli.output import Answer, Listing, listing
from node.errors import UsageError, meant

LIST = "voxelnode help"
MOST = 6
"""Documents that are named for a word that is in no heading."""


def help_(
    topic: Annotated[
        str | None,
        typer.Argument(
            metavar="TOPIC",
            help="Name of a document, or a word of a heading.",
            autocompletion=lambda: sorted(documents()),
        ),
    ] = None,
) -> Answer | Listing:
    """List the documents, show one, or the sections about a word."""
    known = documents()
    if not topic:
        titles = {name: _title(path) for name, path in sorted(known.items())}
        rows = [{"topic": name, "about": title} for name, title in titles.items()]
        return listing("", {"topic": "topic", "about": "about"}, rows, data=titles)
    name = topic.rpartition("/")[2].removesuffix(".md")
    if name not in known:
        texts = documents_with(topic)
        text = "\n".join(part for document in texts.values() for part in _sections(topic, document))
        if not text:
            mentions = f"; it is mentioned in {', '.join([*texts][:MOST])}" if texts else f"; `{LIST}` lists them"
            raise UsageError(f"{topic!r} is not a document{meant(name, sorted(known)) or mentions}")
    else:
        text = known[name].read_text(encoding="utf-8")
    return Answer({"topic": name, "text": text}, lambda: _show(text))


def documents() -> dict[str, Path]:
    """Return the files of the documents by their names."""
    installed = Path(__file__).parents[2] / "docs"
    folder = installed if installed.is_dir() else Path(__file__).parents[3] / "docs"
    return {path.stem: path for path in folder.rglob("*.md")}


def documents_with(word: str) -> dict[str, str]:
    """Return the documents that have a word, by their names; those that are about it rather than name it, first."""
    texts = {name: path.read_text(encoding="utf-8") for name, path in sorted(documents().items())}
    shares = {name: len(re.findall(rf"\b{re.escape(word)}", text, re.I)) / len(text) for name, text in texts.items()}
    return {name: texts[name] for name in sorted(shares, key=lambda name: -shares[name]) if shares[name]}


def _sections(word: str, text: str) -> Iterator[str]:
    """Yield the sections, with those below them, that have a word in their heading."""
    found = 0
    for part in re.split(r"\n(?=#+ )", text):
        marks, _, rest = part.partition(" ")
        found = 0 if len(marks) <= found else found
        found = found or len(marks) * bool(re.match(rf".*\b{re.escape(word)}", rest, re.IGNORECASE))
        if found:
            yield part


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

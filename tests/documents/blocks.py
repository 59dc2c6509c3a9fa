"""The blocks of README.md and docs/: which ones a reader types into a shell, and why some of these are not run.

A block that a reader types is run by a scenario of its document, as it stands. What cannot be run has a mark above it,
an HTML comment with the reason: ``<!-- not run: needs Docker -->``.
"""

import ast
import json
import re
import shutil
import subprocess
import tomllib
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from markdown_it import MarkdownIt

PROJECT = Path(__file__).resolve().parents[2]
DOCUMENTS = [
    PROJECT / "README.md",
    *sorted((PROJECT / "docs").glob("*.md")),
    *sorted(PROJECT.glob("docs/project/*.md")),
]

MARK = re.compile(r"<!-- not run: (.+) -->\s*")
PROGRAMS = (
    "aws", "datasette", "docker", "export", "helm", "kubectl", "npm", "pg_basebackup", "pg_dump", "pg_restore", "pip",
    "pip-audit", "python", "rsync", "sudo", "umask", "uv", "voxelnode",
)  # fmt: skip
"""Commands of the shell, and programs that a machine which runs tests may lack."""

SQL = re.compile(r"(SELECT|CREATE|ALTER) ")
OPTIONAL = re.compile(r" \[--[^\[\]]*(\[[^\[\]]*\])?[^\[\]]*\]|\.\.\.(?= |$)")
"""Of how a command is used, what may be left out: ``[--alike]``, ``NUMBER...``."""


@dataclass(frozen=True)
class Command:
    """One command, with its here-document, and the lines that a document with prompts shows as its output."""

    text: str
    shown: tuple[str, ...] = ()


@dataclass(frozen=True)
class Block:
    """An indented or fenced block. `reason`: why it is not run, of the mark above it, or empty."""

    document: str
    line: int
    text: str
    language: str
    reason: str

    @property
    def commands(self) -> list[Command]:
        """What a reader types, one after the other."""
        return list(_commands(self.text))


def blocks(document: Path) -> Iterator[Block]:
    """Every block of a document, in order."""
    name, reason = str(document.relative_to(PROJECT)), ""
    for token in MarkdownIt().parse(document.read_text(encoding="utf-8")):
        if token.type in ("code_block", "fence"):
            text = token.content.strip("\n")
            yield Block(name, (token.map or [0])[0] + 1, text, token.info.strip() or language(text), reason)
        mark = MARK.fullmatch(token.content) if token.type == "html_block" else None
        reason = mark[1] if mark else ""


def typed(name: str, section: str = "") -> list[Block]:
    """The blocks of commands of a document, such as ``docs/backup.md``, that are run; of one section if it is named."""
    text = (PROJECT / name).read_text(encoding="utf-8").split("\n")
    begins = next((n for n, line in enumerate(text, 1) if line.lstrip("#") == f" {section}"), 0)
    depth = len(text[begins - 1]) - len(text[begins - 1].lstrip("#"))
    after = (n for n, line in enumerate(text[begins:], begins + 1) if re.match(rf"#{{1,{depth}}} ", line))
    ends = next(after, len(text)) if section else len(text)
    assert begins or not section, f"{name} has no section {section}"
    found = [block for block in blocks(PROJECT / name) if begins <= block.line <= ends]
    return [block for block in found if block.language == "shell" and not block.reason]


def inline(name: str) -> list[str]:
    """Return the commands of the node, and requests to it, that stand within sentences of a document, each once."""
    text = (PROJECT / name).read_text(encoding="utf-8")
    return list(dict.fromkeys(re.findall(r"`((?:voxelnode|curl) [^`]+)`", text)))


def language(text: str) -> str:
    """Return what a block without a language is: what can be read as data or as a program is no command.

    Text that is none of these and begins with no program, behind comments, is shown, not typed.
    """
    readers: dict[str, Callable[[str], Any]] = {"json": json.loads, "toml": tomllib.loads, "python": ast.parse}
    for name, read in readers.items():
        with suppress(ValueError, SyntaxError):
            read(text)
            return name if len(text.split()) > 1 else "shown"
    if SQL.match(text):
        return "sql"
    first = next((line for line in text.split("\n") if not line.startswith("#")), "")
    return "shell" if begins_with_program(first) else "shown"


def begins_with_program(line: str) -> bool:
    """Whether a line begins with a program, behind a prompt, a parenthesis, or variables; not with what one prints."""
    words = re.sub(r"^(\$ )?\(?([A-Z_]+=(\$\(.*\)\S*|\S*)( |$))*", "", line).split()
    return (is_program(words[0]) and words[1:2] != ["ready:"]) if words else bool(line)


@cache
def is_program(word: str) -> bool:
    """Whether a word is a program, or a command of the shell."""
    return word.startswith((".venv/bin/", ".ci/", "/opt/")) or word in PROGRAMS or shutil.which(word) is not None


def _commands(text: str) -> Iterator[Command]:
    lines = text.split("\n")
    prompt = "$ " if lines[0].startswith("$ ") else ""
    while lines:
        command = lines.pop(0).removeprefix(prompt)
        if not command or command.startswith("#"):
            continue
        while not _is_whole(command):
            command += "\n" + lines.pop(0)
        ends = next((n for n, line in enumerate(lines) if line.startswith(prompt)), len(lines)) if prompt else 0
        yield Command(command, tuple(line for line in lines[:ends] if line))
        del lines[:ends]


def _is_whole(command: str) -> bool:
    read = subprocess.run(["bash", "-nc", command], capture_output=True, text=True, check=False)
    return not (command.endswith("\\") or read.stderr)

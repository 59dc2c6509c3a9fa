"""``voxelnode conformance``."""

from __future__ import annotations

import json as jsons
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from node.cli.options import PEER, CallingAet, Configured, Json
from node.errors import UsageError

if TYPE_CHECKING:
    from node.extensions.conformance.target import Target
    from node.settings.model import Settings


class StatementFormat(StrEnum):
    """Format of the statement."""

    MD = "md"
    JSON = "json"


def conformance(
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", help="Write to this file instead of standard output."),
    ] = None,
    format: Annotated[
        StatementFormat, typer.Option("--format", help="Markdown for people, JSON for programs.")
    ] = StatementFormat.MD,
    verify: Annotated[
        bool, typer.Option("--verify", help="Check each claim of the statement on a running node, and print a report.")
    ] = False,
    store: Annotated[
        bool,
        typer.Option(
            "--store",
            help="With --verify: store test images of patients VOXELNODE-VERIFY-..., as Quality Control Subject.",
        ),
    ] = False,
    node: Annotated[
        str | None,
        typer.Option(
            "--node",
            help="With --verify: a name in [peers], or AET@HOST:PORT. [default: the node of the configuration]",
            **PEER,
        ),
    ] = None,
    web: Annotated[
        str | None,
        typer.Option(
            "--web",
            metavar="URL",
            help="With --verify: its HTTP server, or an empty text for none. [default: that of the configuration]",
        ),
    ] = None,
    token_file: Annotated[
        Path | None,
        typer.Option("--token-file", metavar="FILE", help="With --verify: file with a token of an account."),
    ] = None,
    calling_aet: CallingAet = None,
    *,
    configured: Configured,
    json: Json = False,
) -> None:
    """Print the DICOM Conformance Statement.

    It describes this version with the values of the configuration. With --verify, print what becomes of each claim
    instead: held, broken, or not checked with the reason. Exit 1 if one is broken.
    """
    settings = configured.settings
    as_json = json or format is StatementFormat.JSON

    if verify:
        is_broken, text = _report(settings, _target(settings, node, web, token_file, calling_aet, store), as_json)
    elif store or node is not None or web is not None or token_file is not None or calling_aet is not None:
        raise UsageError("--store, --node, --web, --token-file and --calling-aet are for --verify")
    else:
        is_broken, text = False, _statement(settings, as_json)
    if output is None:
        print(text, end="")
    else:
        output.write_text(text, encoding="utf-8")
    if is_broken:
        raise typer.Exit(1)


def _statement(settings: Settings, as_json: bool) -> str:
    from node.extensions.conformance.statement import statement, statement_for_programs

    if as_json:
        return _json(statement_for_programs(settings))
    return statement(settings)


def _json(content: object) -> str:
    return jsons.dumps(content, indent=2, ensure_ascii=False) + "\n"


def _target(
    settings: Settings, node: str | None, web: str | None, token_file: Path | None, calling: str | None, store: bool
) -> Target:
    from node.association.client.association import Address, address_of
    from node.extensions.conformance.target import Target

    dicom = settings.dicom
    own = Address(dicom.ae_title, _reached(dicom.host or ""), dicom.port)
    address = own if node is None else address_of(node, settings)
    if web is None:
        web = settings.web.public_url or _web_address(settings)
    token = ""
    if token_file is not None:
        try:
            token = token_file.read_text(encoding="utf-8").strip()
        except (OSError, ValueError) as error:
            raise UsageError(f"--token-file: {token_file} cannot be read") from error
    return Target(address, calling or dicom.ae_title, web, token, store, dicom.response_seconds)


def _web_address(settings: Settings) -> str:
    if not settings.web.enabled:
        return ""
    host = _reached(settings.web.host)
    scheme = "https" if settings.web.tls_certificate is not None else "http"
    return f"{scheme}://{f'[{host}]' if ':' in host else host}:{settings.web.port}"


def _reached(host: str) -> str:
    """Return the address by which a server that listens on all addresses is reached from this machine."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}.get(host, host)


def _report(settings: Settings, target: Target, as_json: bool) -> tuple[bool, str]:
    """Return whether a claim is broken, and a line for each claim with a summary."""
    from node.extensions.conformance.verification import summary, verified

    results = list(verified(settings, target))
    counts = summary(results)
    if as_json:
        rows = [
            {
                "table": result.claim.table,
                "claim": dict(result.claim.row),
                "outcome": result.finding.outcome,
                "detail": result.finding.detail,
            }
            for result in results
        ]
        return counts["broken"] > 0, _json({"summary": dict(counts), "claims": rows})
    lines = []
    for result in results:
        detail = f": {result.finding.detail}" if result.finding.detail else ""
        lines.append(f"{result.finding.outcome:<12} {result.claim.table}: {result.claim.text}{detail}")
    lines.append(", ".join(f"{count} {outcome}" for outcome, count in counts.items()))
    return counts["broken"] > 0, "\n".join(lines) + "\n"

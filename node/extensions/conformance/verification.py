"""``voxelnode conformance --verify``: what becomes of each claim of the statement on a node.

Every row of every table has a check, or a reason why it has none; a table or a row without either is a KeyError, which
a test finds.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

from node.association.client.association import EchoFailed, NoAssociation, PeerAddresses, verify
from node.errors import UsageError
from node.extensions.conformance import dimse_checks, made_checks, web_checks
from node.extensions.conformance.claims import HELD, Claim, Finding, NotChecked, Unchecked
from node.extensions.conformance.dimse_checks import Check
from node.extensions.conformance.document import Table
from node.extensions.conformance.specimens import ANNEX_NAMES
from node.extensions.conformance.statement import tables_of
from node.extensions.conformance.target import Target
from node.settings.model import Settings

_CONFIGURATION = NotChecked("it is the configuration that this command reads, not what the node says")
_AS_REQUESTOR = NotChecked("it is what the node proposes to others, which only they see")
_OWN_ROWS = NotChecked("its resources or SOP classes are claims of their own")

CHECKS: Mapping[str, Check | NotChecked] = {
    "storage_classes": dimse_checks.contexts,
    "transfer_syntaxes": dimse_checks.contexts,
    "dimse_services": dimse_checks.services,
    "web_services": _OWN_ROWS,
    "media_services": NotChecked("`voxelnode import` and `export` are not asked of a running node"),
    "mapping": _OWN_ROWS,
    "query_keys": dimse_checks.query_keys,
    "web_media_types": web_checks.media_types,
    "web_parameters": web_checks.parameters,
    "web_headers": web_checks.headers,
    "dicom_keys": _CONFIGURATION,
    "peer_keys": _CONFIGURATION,
    "web_keys": _CONFIGURATION,
    "audit_keys": _CONFIGURATION,
    "proposed_contexts": _AS_REQUESTOR,
    "accepted_contexts": dimse_checks.accepted_contexts,
    "ports": _CONFIGURATION,
    "route_copies": _CONFIGURATION,
    "audit_events": NotChecked("the audit log is read on the host of the node"),
    "deidentification_codes": NotChecked("`voxelnode deidentify` is not asked of a running node"),
    "uri_resources": web_checks.resources,
    "studies_resources": web_checks.resources,
    "web_attributes": web_checks.attributes,
    "added_attributes": NotChecked("it would store instances by metadata and bulk data"),
    "created_classes": made_checks.validated,
    "iod_common": made_checks.described,
    "iod_segmentations": made_checks.described,
    "iod_segmentation": made_checks.described,
    "iod_label_map": made_checks.described,
    "iod_reports": made_checks.described,
    "iod_measurements": made_checks.described,
    "iod_document": made_checks.described,
    "created_templates": made_checks.described,
    "created_codes": made_checks.described,
    "commitment_resources": web_checks.resources,
    "character_sets": dimse_checks.character_sets,
}
"""The check of all rows of a table. Those of `_BY_ROW` have one for each row."""

_Checks = Mapping[tuple[str, ...], Check | NotChecked]

_BY_ROW: Mapping[str, tuple[tuple[str, ...], _Checks]] = {
    "association": (("Parameter",), {(name,): check for name, check in dimse_checks.ASSOCIATION.items()}),
    "statuses": (("Service", "Status"), {key: check for key, check in dimse_checks.STATUSES.items()}),
    "http_statuses": (("Status",), {(status,): check for status, check in web_checks.HTTP_STATUSES.items()}),
}


def claims_of(settings: Settings) -> Iterator[Claim]:
    """Yield the claims of a configuration: each row, the names of PS3.5 annexes H to K, and each peer with a host."""
    for name, table in tables_of(settings).items():
        yield from _rows(name, table)
    for section, term, _, name in ANNEX_NAMES:
        yield Claim("character_sets", {"PS3.5": section, "Specific Character Set": term, "Patient's Name": name})


def _rows(name: str, table: Table) -> Iterator[Claim]:
    for row in table.rows:
        yield Claim(name, dict(zip(table.columns, row, strict=True)))


def check_of(claim: Claim) -> Check | NotChecked:
    """Return the check of a claim, or why it has none; KeyError if nobody has thought of it."""
    if claim.table in _BY_ROW:
        columns, checks = _BY_ROW[claim.table]
        return checks[tuple(claim.row[column] for column in columns)]
    return CHECKS[claim.table]


@dataclass(frozen=True, slots=True)
class Result:
    """What became of a claim."""

    claim: Claim
    finding: Finding


def verified(settings: Settings, target: Target) -> Iterator[Result]:
    """Check each claim, in the order of the statement, and whether the peers of the configuration answer."""
    claims = list(claims_of(settings))
    with suppress(Exception):  # each claim says so
        target.negotiate(pair for claim in claims for pair in dimse_checks.pairs_of(claim))
    try:
        for claim in claims:
            yield Result(claim, _found(claim, target))
        yield from _peers(settings, target)
    finally:
        target.close()


def _found(claim: Claim, target: Target) -> Finding:
    check = check_of(claim)
    if isinstance(check, NotChecked):
        return Finding("not checked", check.reason)
    try:
        return check(target, claim)
    except Unchecked as reason:
        return Finding("not checked", str(reason))
    except Exception as error:
        # what a node answers that no client expects; a check must not end those of others
        return Finding("broken", f"the answer cannot be understood: {type(error).__name__}: {error}")


def _peers(settings: Settings, target: Target) -> Iterator[Result]:
    try:
        addresses = PeerAddresses(settings)
    except UsageError as error:
        yield Result(Claim("peers", {"Peer": "all"}), Finding("not checked", str(error)))
        return
    for name, address in addresses.items():
        claim = Claim("peers", {"Peer": name, "Claim": "it answers C-ECHO of this host"})
        try:
            verify(address, target.calling_ae_title, settings.dicom.response_seconds)
        except (NoAssociation, EchoFailed) as error:
            yield Result(claim, Finding("not checked", f"the peer is away: {error}"))
        else:
            yield Result(claim, HELD)


def summary(results: Sequence[Result]) -> Mapping[str, int]:
    """Return how many claims had each outcome."""
    counts = Counter(result.finding.outcome for result in results)
    return {outcome: counts[outcome] for outcome in ("held", "broken", "not checked")}

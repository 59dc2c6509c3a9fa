"""The section of the conformance statement, and its table."""

from __future__ import annotations

from collections.abc import Mapping

from node.extensions.commitment.web import TRANSACTIONS, router
from node.extensions.conformance.document import Table
from node.extensions.conformance.statement import resource_table
from node.extensions.dicomweb.capabilities import resources
from node.settings.model import Settings

COMMITMENT = """\
The node is an SCP of the Storage Commitment Push Model SOP Class.

- Each referenced instance is reported as committed only after its stored file was compared with the size and the digest
  recorded at reception. A commitment ends only by deletion, on command or by `[retention]`.
- The N-EVENT-REPORT is sent on the same association while it is open, otherwise on a new association to the host and
  port of the peer under `[peers]`. A report that cannot be delivered is retained across restarts and attempted up to
  ten times.
"""

WEB_COMMITMENT = """\
A request for at most 2000 instances in Referenced SOP Sequence is answered with 200 when their files were read, so
Result Check is answered with 404. Requests by Referenced Study Sequence are refused with 400.

[table commitment_resources]
"""


def tables_of(settings: Settings) -> Mapping[str, Table]:
    """Return the table of the section by its name."""
    return {"commitment_resources": resource_table(resources(router.routes, TRANSACTIONS))}

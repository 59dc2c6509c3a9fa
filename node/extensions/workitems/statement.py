"""The section of the conformance statement, and its tables."""

from __future__ import annotations

from collections.abc import Mapping

from node.extensions.conformance.document import Table, table
from node.extensions.conformance.statement import resource_table
from node.extensions.dicomweb.capabilities import resources
from node.extensions.workitems.workitem_keys import CONSTANT, OF_SERIES, OWN
from node.extensions.workitems.workitems import TRANSACTIONS, router
from node.settings.model import Settings

WORKLIST_SERVICE = """\
Clients create workitems, which others than the node perform. The node schedules and performs a workitem for each
conversion of a series, each send of a series or study to a destination, each retrieval from a peer and each job of a
hook. [dicomweb.md](dicomweb.md#worklist) has the states, and what can be changed and cancelled.

Every workitem has SOP Class UPS Push. Requests have the behaviour of UPS Push, Pull and Query (PS3.4 CC); DIMSE,
subscriptions and event reports are not offered.

[table worklist_resources]

- Create adds attributes of type 2 that are missing, without a value, and a Worklist Label; private and binary
  elements are left out. The response then has a Warning.
- A change to CANCELED sets Procedure Step Cancellation DateTime and the reason "Discontinued for unspecified reason",
  if they have no value. COMPLETED requires the attributes of PS3.4 table CC.2.5-3.
- The node does not judge whether a performer is still there: a workitem that is IN PROGRESS stays so until its
  performer ends it. Those that have ended are removed `[worklist] keep_days` later.
- Claims, updates and changes of workitems that the node performs are refused. Conversions are removed with their
  series.
- A request to cancel a workitem of a client that is IN PROGRESS is refused: the node cannot contact its performer.

Keys of Search Workitems. Conversions are matched by these, all other workitems by every attribute of PS3.6 with a
textual value representation, in sequences too:

[table workitem_keys]

Conversions match no value of another key. Scheduled Procedure Step Start DateTime, its modification and Input
Readiness State are not matched for conversions, with a warning. Every answer has all attributes.
"""


def tables_of(settings: Settings) -> Mapping[str, Table]:
    """Return the tables of the section by name."""
    return {
        "worklist_resources": resource_table(resources(router.routes, TRANSACTIONS)),
        "workitem_keys": _workitem_keys(),
    }


def _workitem_keys() -> Table:
    rows = [(keyword, "list of values") for keyword in OWN]
    for keyword, sequences in OF_SERIES.items():
        above = " or in ".join(sequence for sequence in sequences if sequence)
        rows.append((f"{keyword}{f', also in {above}' if above else ''}", "as in searches for series"))
    rows += [(keyword, f"always `{constant}`") for keyword, constant in CONSTANT.items()]
    return table(("Attribute", "Matching"), rows)

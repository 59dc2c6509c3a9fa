"""The sections of the conformance statement on the worklist and performed procedure steps, and their statuses."""

from __future__ import annotations

from collections.abc import Mapping

from node.dicom import status
from node.dicom.conformance import StatementTable, status_table, table
from node.extensions.worklist.queries import MATCHED_VRS
from node.extensions.worklist.settings import WorklistSettings
from node.settings.model import Settings

BASIC_WORKLIST = f"""\
##### SCP of the Modality Worklist Information Model

Entries are received by REST and by HL7 v2 orders, and read from files ([worklist.md](worklist.md)).

- Every attribute of PS3.6 is returned if requested, in sequences to a depth of eight, and empty if the entry lacks it.
- Attributes of these value representations are matched as in section 5.2.7.2, the others only returned (0xFF01 if a
  value is requested): {", ".join(sorted(MATCHED_VRS))}.
- A range of Scheduled Procedure Step Start Dates and one of Start Times of the same form are one period, from the first
  date and time to the last (PS3.4 table K.6-1). Other dates and times are matched separately. Extended negotiation is
  not supported.
"""

PERFORMED_STEPS = """\
##### SCP of the Modality Performed Procedure Step SOP Class

- A step is durable before success is returned.
- N-CREATE requires the attributes of type 1 of PS3.4 table F.7.2-1 and the status IN PROGRESS.
- N-SET replaces attributes as a whole; it must not change those that the table does not allow.
- A final state requires the end date and time, COMPLETED also the Performed Series Sequence. A step in a final state is
  never changed.
- The instances that an ended step lists decide when a series is converted ([lifecycle.md](lifecycle.md)).

##### SCP of the Modality Performed Procedure Step Retrieve SOP Class

N-GET returns a step with all attributes that it has, or those of the Attribute Identifier List. Every step can be read,
whoever created it.
"""

_STEP = "N-CREATE, N-SET"


def tables_of(settings: Settings) -> Mapping[str, StatementTable]:
    """Return the rows of the statement."""
    port = settings.table(WorklistSettings).hl7_port
    row = (port or "unset", "HL7 v2 by MLLP, with or without TLS", "`[worklist] hl7_port`")
    return {"statuses": _STATUSES, "ports": table(("Port", "Service", "Parameter"), [row])}


_STATUSES = status_table(
    (_STEP, status.SUCCESS, "the step is durable"),
    (_STEP, status.INVALID_ATTRIBUTE_VALUE, "the status, or an attribute that must not change, has another value"),
    ("N-CREATE", status.MISSING_ATTRIBUTE, "an attribute of type 1 is missing; Attribute Identifier List names it"),
    (_STEP, status.MISSING_ATTRIBUTE_VALUE, "an attribute of type 1 has no value, or the final state lacks one"),
    ("N-CREATE", status.DUPLICATE_INSTANCE, "there is a step with this UID"),
    ("N-SET", status.NO_SUCH_INSTANCE, "there is no step with this UID"),
    (
        _STEP,
        status.PROCESSING_FAILURE,
        "the step is in a final state (Error ID 0xA710); undecodable data set; internal error",
    ),
    ("N-GET", status.SUCCESS, "the step, or the attributes of it that were asked for"),
    ("N-GET", status.NO_SUCH_INSTANCE, "there is no step with this UID"),
    ("N-GET", status.PROCESSING_FAILURE, "internal error of the node; see its log"),
)

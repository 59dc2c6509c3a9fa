"""Named steps at which a test can kill the process.

``VOXELNODE_FAILPOINT=rows-written`` kills the process when it reaches that step, ``rows-written:5`` when it reaches it
for the fifth time. Without the variable a step costs one comparison.
"""

import itertools
import os
import signal

VARIABLE = "VOXELNODE_FAILPOINT"

RECEIVING = (
    "part-opened",
    "part-written",
    "part-synced",
    "folder-made",
    "record-begun",
    "record-synced",
    "file-written",
    "rows-written",
    "rows-committed",
    "batch-cleared",
    "ledger-written",
    "ledger-synced",
    "journal-freed",
    "release-recorded",
    "release-answered",
)
"""Steps of receiving, in order: instances are answered after ``record-synced``, releases after ``release-recorded``."""

CONVERTING = ("series-claimed", "volumes-written", "volumes-published", "outcome-recorded")
JUDGING = ("sidecars-noted", "sidecar-written", "sidecars-renamed", "sidecars-done")
RECOVERING = ("journal-replayed", "parts-swept", "file-adopted", "files-compared", "claims-released", "renewal-begun")
DELETING = ("deletion-ordered", "deletion-unlinked", "deletion-noted")
ERASING = ("erasure-owed", "erasure-deleted", "erasure-purged", "erasure-certified")
LISTING = ("ledger-begun", "write-off-noted")
TRASH = ("restore-begun", "restore-indexed", "trash-emptied")
DELIVERING = ("message-composed", "message-delivered")
RESULTS = ("result-stored", "results-stored", "results-done")
FORWARDING = ("instance-forwarded", "forwarded-recorded")
CHANGING = ("change-ordered", "configuration-written", "configuration-renamed", "change-committed", "workers-ended")
EXPORTING = ("session-replaced", "study-exported")
BACKING_UP = (
    "backup-index-copied",
    "backup-file-copied",
    "backup-copied",
    "backup-renamed",
    "backup-moving",
    "backup-settled",
)
RESTORING = ("restore-copied", "restore-repaired", "restore-moving", "restore-moved")
UPLOADING = ("object-written", "object-put", "objects-recorded", "objects-removed")
POINTS = (
    RECEIVING
    + CONVERTING
    + JUDGING
    + RECOVERING
    + DELETING
    + ERASING
    + TRASH
    + LISTING
    + DELIVERING
    + RESULTS
    + FORWARDING
    + CHANGING
    + EXPORTING
    + BACKING_UP
    + RESTORING
    + UPLOADING
)

_name, _, _count = os.environ.get(VARIABLE, "").partition(":")
_fatal = int(_count or 1)
_reached = itertools.count(1)


def reached(point: str) -> None:
    """Kill the process here if the variable names this step."""
    if point == _name and next(_reached) == _fatal:
        os.kill(os.getpid(), signal.SIGKILL)

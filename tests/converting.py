"""How tests convert without a child process, where the process is not what they test."""

from __future__ import annotations

import threading

from node.conversion.job import ConversionJob, Converted
from node.conversion.pipeline import convert


def here(job: ConversionJob, cancelled: threading.Event) -> Converted:
    """Convert in this process; never cancelled."""
    return convert(job)

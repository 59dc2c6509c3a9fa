"""Make one result in a child process: a DICOM file in the study of its source, with references to the source.

Libraries are loaded in the functions that need them, so that the node can import this module.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from node.durable import NO_ROOM
from node.errors import ConversionRefused, ResultRefused, is_out_of_memory, type_and_location
from node.extensions.results.making import Making, identifiers, sample_of
from node.extensions.results.manifest import ResultKind


def answer(making: Making, _limits: object) -> bytes:
    """Make a result; return what became of it, for `node.extensions.results.makers.made_of`.

    JSON of ``made``, ``refused``, ``shortage`` (of room on the disk) or ``failed``, with identifiers or the reason.
    """
    from pydicom.errors import InvalidDicomError

    try:
        return _encoded("made", _MAKERS[making.entry.kind](making))
    except (ResultRefused, ConversionRefused) as error:
        return _encoded("refused", {"reason": str(error)})
    except InvalidDicomError:
        return _encoded("refused", {"reason": "the file is no DICOM file"})
    except Exception as error:  # the boundary of the process
        if is_out_of_memory(error):
            return _encoded("refused", {"reason": "it needs more memory than the node allows"})
        if isinstance(error, OSError) and error.errno in NO_ROOM:
            return _encoded("shortage", {"reason": str(error.strerror)})
        return _encoded("failed", {"reason": type_and_location(error)})


def _encoded(outcome: str, content: dict[str, Any]) -> bytes:
    return json.dumps([outcome, content]).encode()


def _segmentation(making: Making) -> dict[str, Any]:
    from node.extensions.results.segmentation import make_segmentation

    return make_segmentation(making)


def _report(making: Making) -> dict[str, Any]:
    from node.extensions.results.report import make_report

    return make_report(making)


def _document(making: Making) -> dict[str, Any]:
    from node.extensions.results.document import make_document

    return make_document(making)


def _instance(making: Making) -> dict[str, Any]:
    """Accept an instance that is DICOM already: it must be of the patient and the study of its source."""
    from pydicom import dcmread

    from node.dicom.values import items, text

    ds, sample = dcmread(making.file, stop_before_pixels=True), sample_of(making)
    for keyword in ("StudyInstanceUID", "PatientID"):
        if ds.get(keyword, "") != sample.get(keyword, ""):
            raise ResultRefused(f"its {keyword} is not that of the source; copy patient and study from an instance")
    found = identifiers(ds)
    if not all(found.values()):
        raise ResultRefused("it lacks a UID of its study, series, instance or class")
    if found["series_instance_uid"] == making.source.series_instance_uid:
        raise ResultRefused("it is in the series of its source; give it a series of its own")
    referred = [text(item, "SeriesInstanceUID") for item in items(ds, "ReferencedSeriesSequence")]
    if referred and making.source.series_instance_uid not in referred:
        raise ResultRefused("it refers to other series than that of the job: name its series by series_instance_uid")
    return found


_MAKERS: Mapping[ResultKind, Callable[[Making], dict[str, Any]]] = {
    "segmentation": _segmentation,
    "report": _report,
    "document": _document,
    "instance": _instance,
}

"""Messages for tests of channels, which need no index."""

import datetime as dt

from node.api import HookEvent, HookMessage


def sample(event: HookEvent, ae_title: str, now: dt.datetime) -> HookMessage:
    """Return a made-up message with ``"test": true``; its paths lead nowhere."""
    series = {"series_instance_uid": "1.2.3.4"} if event != "study-quiet" else {}
    instance = {
        "sop_class_uid": "1.2.840.10008.5.1.4.1.1.2", "transfer_syntax_uid": "1.2.840.10008.1.2.1",
        "instance_number": 1, "number_of_frames": None, "path": "/nowhere/1.dcm", "data_set_offset": 0, "bytes": 0,
        "sha256": "0" * 64,
    }  # fmt: skip
    volume = {
        "path": "/nowhere/1/1.nii.gz", "url": "/api/v1/volumes/1/file/1.nii.gz", "stack": 0, "kind": "volume",
        "format": "nifti", "shape": [2, 2, 2], "spacing_mm": [1.0, 1.0, 1.0], "dtype": "int16", "geometry": "regular",
        "orientation": "axial", "instances": 2, "warnings": [], "bytes": 0, "sha256": "0" * 64,
    }  # fmt: skip
    content = {
        "id": f"test-{now.timestamp():.6f}", "event": event, "happened_at": f"{now:%Y-%m-%dT%H:%M:%S.%fZ}",
        "node": ae_title,
        "test": True, "study_instance_uid": "1.2.3", "series_instance_uid": None, "sop_instance_uid": None,
        "revision": 1, "detail": "a test message", "calling_ae_titles": [],
        "series_description": None, "body_part_examined": None, "protocol_name": None, "modality": "CT", "state": None,
        "instances": 2, "verdict": None, "verdict_before": None, "failures": [], "series": [],
        "volumes": [volume] if event.startswith("volume-") else [],
        "instance": instance if event == "instance-stored" else None,
        "job": None,
    }  # fmt: skip
    sop = {"sop_instance_uid": "1.2.3.4.5"} if event == "instance-stored" else {}
    return HookMessage(content | series | sop)

"""What each resource of UPS-RS takes and gives (`node.web.dicomweb.transactions`)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from node.extensions.workitems import workitems
from node.web.dicomweb.media_types import DICOM_JSON, DICOM_XML, JSON, MULTIPART
from node.web.dicomweb.transactions import ACCEPT, DOCUMENT, Transaction

_WORKITEM = (DICOM_JSON, JSON, DICOM_XML, f'{MULTIPART}; type="{DICOM_XML}"')

TRANSACTIONS: Mapping[Callable[..., Any], Transaction] = {
    workitems.create_workitem: Transaction(
        "Create Workitem",
        "11.4",
        (),
        {"{workitem}": "UID of the workitem, without a value; or the value of workitem; or that of the data set"},
        ("Content-Type",),
        _WORKITEM,
    ),
    workitems.update_workitem: Transaction(
        "Update Workitem",
        "11.6",
        (),
        {"{transaction}": "Transaction UID, without a value; or the value of transaction-uid; or that of the data set"},
        ("Content-Type",),
        _WORKITEM,
    ),
    workitems.change_state: Transaction("Change Workitem State", "11.7", (), {}, ("Content-Type",), _WORKITEM),
    workitems.search_workitems: Transaction(
        "Search Workitems",
        "11.9",
        (DICOM_JSON, JSON, f'{MULTIPART}; type="{DICOM_XML}"'),
        {
            **ACCEPT,
            "{attribute}": "keyword or tag, after those of its sequences, with the value to match",
            "includefield": "ignored: every answer has all attributes",
            "fuzzymatching": "true or false",
            "limit": f"at most {workitems.MAX_WORKITEMS}",
            "offset": "number of results to skip",
        },
        DOCUMENT,
    ),
    workitems.retrieve_workitem: Transaction(
        "Retrieve Workitem",
        "11.5",
        (DICOM_JSON, JSON, f'{MULTIPART}; type="{DICOM_XML}"', DICOM_XML),
        ACCEPT,
        DOCUMENT,
    ),
    workitems.request_cancellation: Transaction("Request Cancellation", "11.8", (), {}, ("Content-Type",), _WORKITEM),
}

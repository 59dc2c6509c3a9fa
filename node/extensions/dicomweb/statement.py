"""The sections of the conformance statement, and their tables."""

from __future__ import annotations

from collections.abc import Mapping

from pydicom.datadict import dictionary_description

from node.extensions.conformance.document import Table, table
from node.extensions.conformance.statement import query_keys, resource_table
from node.extensions.dicomweb.assembling import ADDED
from node.extensions.dicomweb.capabilities import resources
from node.extensions.dicomweb.qido import DEFAULTS
from node.extensions.dicomweb.transactions import TRANSACTIONS, studies, uri
from node.settings.model import Settings

URI_SERVICE = """\
[table uri_resources]

Requests with parameters that require a modified instance, such as `anonymize`, are refused.
"""

STUDIES_SERVICE = """\
Media types are negotiated by the Accept header or the `accept` query parameter (PS3.18 8.7). Without a transfer syntax
parameter, instances are returned uncompressed; with `*`, as stored. Matching is that of C-FIND, always relational, with
combined date-time matching, and with fuzzy matching for `fuzzymatching=true`. [dicomweb.md](dicomweb.md) has the
details.

[table studies_resources]

OPTIONS on `/dicom-web` returns these resources for programs, as WADL or JSON (Retrieve Capabilities, PS3.18 8.9), and
on each resource what it offers, with the methods in `Allow`. DELETE, which PS3.18 does not define, requires the role
admin: what is deleted goes to the trash, if there is one, and later requests for it are answered 410.
"""

ATTRIBUTES = """\
Timezone offsets are not adjusted. The answers also have Retrieve URL (0008,1190).

[table web_attributes]
"""

ASSEMBLED = """\
Metadata and bulk data of a STOW-RS request become instances as the client describes them; text is stored in UTF-8.
These attributes are added if the metadata lack them, and the pixel data or the document say them:

[table added_attributes]
"""


def tables_of(settings: Settings) -> Mapping[str, Table]:
    """Return the tables of the sections by name."""
    return {
        "uri_resources": resource_table(resources(uri.routes, TRANSACTIONS)),
        "studies_resources": resource_table(resources(studies.routes, TRANSACTIONS)),
        "web_attributes": _web_attributes(),
        "added_attributes": table(
            ("Attribute", "Tag"), [(dictionary_description(tag), f"({tag[:4]},{tag[4:]})") for tag in sorted(ADDED)]
        ),
    }


def _web_attributes() -> Table:
    return table(
        ("Level", "Attribute", "VR", "Matching", "Returned"),
        [
            (
                level,
                keyword,
                vr,
                matching,
                "by default"
                if keyword.startswith("> ") or keyword in DEFAULTS[one]
                else "if matched or in includefield",
            )
            for one in DEFAULTS
            for level, keyword, vr, _, matching in query_keys(one)
        ],
    )

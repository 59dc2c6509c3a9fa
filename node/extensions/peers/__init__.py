"""Searches at other nodes, and retrievals from them (C-FIND and C-GET as a service user), for people and by rules.

The senders of series are asked what they have: `asking`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from node.association.added import Parts, Running
from node.hookspecs import Command, Extension, MenuEntry, Router, Statement

if TYPE_CHECKING:
    from node.settings.model import Settings

QUERIES = """\
C-FIND is used to query the sender of a series for the number of its instances, at the SERIES level, and if it has more
than were received for their SOP Instance UIDs, at the IMAGE level (`[peers.NAME] confirm_by_find`); and by commands,
pages and REST. So is C-GET; C-FIND first asks for the SOP classes. Instances of other studies or series than requested
are refused with 0x0124.
"""


class _Peers(Extension):
    """What the node asks of peers that have series."""

    name = "peers"
    commands = (
        Command(
            "peers find",
            "Exchange",
            f"{__name__}.commands:find",
            ("voxelnode peers find --from PACS PatientID=17", "voxelnode peers find --from PACS StudyDate=20260101-"),
        ),
        Command("peers get", "Exchange", f"{__name__}.commands:get", ("voxelnode peers get 1.2.840.1 --from PACS",)),
    )
    routers = (Router("rest", f"{__name__}.routes:router"), Router("pages", f"{__name__}.routes:pages_router"))
    actions = f"{__name__}.search:actions_of"
    menu = (MenuEntry("/peers", "Peers", before="/upload", key="e"),)
    templates = __name__
    asks = ("1.2.840.10008.5.1.4.1.2.2.1", "1.2.840.10008.5.1.4.1.2.2.3")
    statement = Statement(
        {"SCU of the Query/Retrieve SOP Classes": f"{__name__}:QUERIES"},
        words={"queries": "\nqueries and retrieves on command, asks senders how many instances a series has,"},
    )

    def mistakes(self, settings: Settings) -> Iterator[str]:
        if self.name in settings.extensions.disabled:
            for name, peer in settings.peers.items():
                if peer.confirm_by_find:
                    yield f"peers.{name}: confirm_by_find is of an extension that [extensions] disabled switches off"

    def run(self, node: Parts) -> Running:
        from node.extensions.peers.asking import questions
        from node.extensions.peers.retrieving import Retrieving
        from node.index.work_loop import RequestLoop

        index, now = node.ingest.index, node.ingest.now
        retrieving = Retrieving(node.settings, index, node.ingest, node.audit, node.on_refusal)
        retrievals = RequestLoop("retrievals", index, {"retrieval": retrieving}, now)
        return Running(services=(retrievals, *questions(node.settings, index, now)))


EXTENSION = _Peers()

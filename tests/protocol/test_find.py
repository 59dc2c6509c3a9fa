"""C-FIND as a service user: what a sender tells of its series."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from pydicom import Dataset
from pynetdicom import AE, evt

from node.api import Address
from node.association.client.association import NoAssociation
from node.dicom.uids import STUDY_ROOT_FIND
from node.extensions.peers.find import FindFailed, find_instance_count


@pytest.fixture
def peer() -> Iterator[Callable[..., int]]:
    """Start a peer that gives these answers, each (status, identifier or None), to every query; returns its port."""
    servers: list[Any] = []

    def start(*answers: tuple[int, dict[str, Any] | None], asked: list[Dataset] | None = None) -> int:
        def handle(event: Any) -> Iterator[tuple[int, Dataset | None]]:
            if asked is not None:
                asked.append(event.identifier)
            for status, values in answers:
                identifier = None
                if values is not None:
                    identifier = Dataset()
                    identifier.QueryRetrieveLevel = "SERIES"
                    for keyword, value in values.items():
                        setattr(identifier, keyword, value)
                yield status, identifier

        ae = AE("PACS")
        ae.add_supported_context(STUDY_ROOT_FIND)
        server = ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_FIND, handle)])
        servers.append(server)
        return int(server.server_address[1])

    yield start
    for server in servers:
        server.shutdown()


def ask(port: int) -> int | None:
    return find_instance_count(Address("PACS", "127.0.0.1", port), "VOXELNODE", ("1.2.3", "1.2.3.4"), 5)


def test_the_count_of_the_series_is_reported_and_the_query_is_a_hierarchical_one(peer: Callable[..., int]) -> None:
    asked: list[Dataset] = []
    port = peer(
        (0xFF00, {"SeriesInstanceUID": "1.2.3.4", "NumberOfSeriesRelatedInstances": 120}), (0x0000, None), asked=asked
    )
    assert ask(port) == 120
    [query] = asked
    assert (query.QueryRetrieveLevel, query.StudyInstanceUID, query.SeriesInstanceUID) == ("SERIES", "1.2.3", "1.2.3.4")
    assert query.NumberOfSeriesRelatedInstances is None


@pytest.mark.parametrize(
    "values", [{}, *({"NumberOfSeriesRelatedInstances": count} for count in (None, 0, -3, 10**11))]
)
def test_a_peer_may_give_no_count(peer: Callable[..., int], values: dict[str, Any]) -> None:
    assert ask(peer((0xFF00, {"SeriesInstanceUID": "1.2.3.4", **values}), (0x0000, None))) is None


@pytest.mark.parametrize(
    "answers",
    [[(0x0000, None)], [(0xFF00, {"SeriesInstanceUID": "9.9", "NumberOfSeriesRelatedInstances": 1}), (0x0000, None)]],
    ids=["no series", "another series"],
)
def test_a_peer_without_the_series_has_none_of_it(peer: Callable[..., int], answers: list[Any]) -> None:
    assert ask(peer(*answers)) == 0


def test_a_failure_says_so(peer: Callable[..., int]) -> None:
    with pytest.raises(FindFailed):
        ask(peer((0xC001, None)))


def test_a_peer_that_is_not_there_is_reported_as_such(peer: Callable[..., int]) -> None:
    with pytest.raises(NoAssociation, match="does not answer"):
        ask(1)

"""The addresses of peers, while administrators change them."""

from node.association.client.addresses import PeerAddresses
from node.settings.model import Settings
from node.settings.peers import Peer


def test_peers_that_are_added_and_removed_while_the_node_runs_are_followed() -> None:
    settings = Settings(peers={"pacs": Peer(ae_title="PACS", host="10.1.2.3"), "ct": Peer(ae_title="CT1")})
    addresses = PeerAddresses(settings)
    assert list(addresses) == ["PACS"], "one without a host is not called"
    first, new = settings.peers, Peer(ae_title="NEW", host="10.1.2.4", port=105)
    settings.put_in_force(Settings(peers={**first, "new": new}), settings.loaded_from)
    assert (addresses["NEW"].host, addresses["NEW"].port, len(addresses)) == ("10.1.2.4", 105, 2)
    settings.put_in_force(Settings(peers=first), settings.loaded_from)
    assert "NEW" not in addresses
    assert addresses.get("NEW") is None

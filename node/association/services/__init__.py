"""The DIMSE services that the node gives to peers, one module each."""

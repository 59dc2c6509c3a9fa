"""The DIMSE services that the node asks of peers, one module each."""

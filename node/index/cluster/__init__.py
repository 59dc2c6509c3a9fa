"""Hosts that share an index and an object store: their rows, their leases, and `Turn` for one of several."""

"""Describe a volume in its sidecar: BIDS fields from an allow-list."""

"""Facts about a volume for its sidecar."""

"""The REST API at ``/api/v1``: stored objects, their state, and actions on them."""

"""REST at ``/api/v1``, for scripts: what is stored, its state, and actions on it."""

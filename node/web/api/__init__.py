"""REST at ``/api/v1``: what is there, what became of it, and what to do about it, for scripts."""

"""Commands of the panel "Look"."""

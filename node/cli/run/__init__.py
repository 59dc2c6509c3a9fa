"""Commands of the panel "Run"."""

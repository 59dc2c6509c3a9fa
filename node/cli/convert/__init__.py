"""Commands of the panel "Convert"."""

"""Commands of the panel "Maintain"."""

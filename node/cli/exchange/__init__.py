"""Commands of the panel "Exchange"."""

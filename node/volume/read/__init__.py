"""Data sets in, frames out: pixels, position and time of each."""

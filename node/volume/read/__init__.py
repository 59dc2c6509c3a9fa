"""Data sets -> frames with pixels, place and time."""

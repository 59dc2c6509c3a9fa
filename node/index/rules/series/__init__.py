"""A series grows, is due, is claimed and ends."""

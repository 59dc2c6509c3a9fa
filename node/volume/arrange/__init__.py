"""Frames -> stacks, and the place and time of each slice."""

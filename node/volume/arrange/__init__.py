"""Arrangement of frames into stacks, in which every slice has a position and a time."""

"""Frames in, stacks out: every slice of a stack has its position and time."""

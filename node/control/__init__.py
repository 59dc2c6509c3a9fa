"""A node as a whole: its parts put together, its root, and the commands that reach it."""

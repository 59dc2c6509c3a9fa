"""An instance comes: what becomes of it, and the rows above it."""

"""The index of one root as a whole: `Index` writes and reads, `ReadIndex` reads."""

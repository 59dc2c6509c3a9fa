"""The nouns of the index, one module each: what is written about it, and what is read of it."""

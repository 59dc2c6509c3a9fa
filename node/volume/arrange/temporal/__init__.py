"""Times of a stack: which frames that share a position belong to which time, in which order, and when they began."""

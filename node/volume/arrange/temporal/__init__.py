"""Times of a stack: the assignment of frames at one position to times, their order, and their starts."""

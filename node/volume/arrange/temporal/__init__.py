"""What the frames that share a position are to each other: times, in which order and when."""

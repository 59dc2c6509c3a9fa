"""Reading of frames from data sets: the pixels, position and time of each."""

"""What a running process has: threads that last, places and turns, log, metrics, network, steps of a crash."""

"""The ground of a running process: its threads, places, log and metrics, network addresses, and crash points."""

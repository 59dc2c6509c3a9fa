"""The audit log: its lines and its files."""

"""The audit log: its lines, its files, and its copy at a syslog collector."""

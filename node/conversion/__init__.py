"""What happens after a series is quiet: claim, convert in a child process, record."""

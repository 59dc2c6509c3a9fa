"""What is owed: events, messages, jobs."""

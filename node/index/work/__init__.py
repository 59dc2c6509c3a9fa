"""What the node owes to others: messages, sends, jobs, retrievals and commitments."""

"""What the node owes to others: messages, sends, retrievals, commitments and workitems."""

"""What happens in the transaction when something comes, ends, is lost, is decided or is owed."""

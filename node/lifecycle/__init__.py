"""What becomes of what is stored: deletion, retention, and the comparison of index and files."""

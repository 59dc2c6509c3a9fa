"""The life of stored studies: deletion, retention, and the comparison of index and files."""

"""The life cycle of stored studies: deletion, retention, and consistency checks of index and files."""

"""The standard in code: UIDs, statuses, attributes. Pure: no disk, no socket, no database."""

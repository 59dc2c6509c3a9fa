"""The archive: instances as files."""

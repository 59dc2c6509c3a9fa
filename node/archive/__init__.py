"""The archive: the bytes of instances, as files."""

"""The archive: instances as files under one root, and what it asks of an object store behind it."""

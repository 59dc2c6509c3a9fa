"""The archive: instances as files under one root, and their copies in an object store behind it."""

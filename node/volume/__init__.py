"""Data sets in, volumes and refusals out. Pure: no disk, no socket, no database, no file format."""

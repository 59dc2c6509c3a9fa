"""Conversion of data sets to volumes and refusals. Pure: no disk, socket, database or file format."""

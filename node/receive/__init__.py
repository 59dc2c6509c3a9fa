"""Instances come in: bytes and their origin -> stored, indexed, owed a conversion."""

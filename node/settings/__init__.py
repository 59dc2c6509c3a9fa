"""The configuration: its model, its sources, and the commented example."""

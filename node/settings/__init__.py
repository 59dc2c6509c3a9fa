"""The configuration: its model, how it is read, and the commented example."""

"""The node as a whole: its assembled parts, its root, and the control socket for commands."""

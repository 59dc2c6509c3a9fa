"""What the extension adds to the conformance statement."""

GREETINGS = """\
Each study is greeted within a minute; no instance is changed by it.
"""

"""Child processes for work that may crash, hang or leak memory: untrusted pixels, third-party plugins.

`child` is the node's side, `serving` runs in the children, and `messages` is what passes between them.
"""

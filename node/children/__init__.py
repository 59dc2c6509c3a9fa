"""Child processes for work that may crash, hang or leak memory: untrusted pixels, third-party plugins.

`child` is the node's side, `serving` runs in the children, `messages` is what passes between them, and `confinement`
what they may still do. `decoder` has some decode (`decoding`) and write copies that leave (`forwarding`).
"""

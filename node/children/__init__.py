"""Child processes for work that may crash, hang or leak memory: untrusted pixels, third-party plugins.

`child` is the node's side, `serving` runs in the children, `messages` passes between both, and `confinement` limits the
children. `decoder` runs children that decode (`decoding`) or write copies that leave the node (`forwarding`).
"""

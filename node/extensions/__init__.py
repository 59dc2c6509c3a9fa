"""What is added to the node: each room registers itself by `node.hookspecs`, and no module of the core imports one."""

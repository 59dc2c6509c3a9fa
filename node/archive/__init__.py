"""Where the bytes of instances lie."""

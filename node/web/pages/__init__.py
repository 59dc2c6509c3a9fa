"""What pages of all extensions are made of."""

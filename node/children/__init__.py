"""What runs in child processes beside conversions: decoding, transcoding, forwarding, assembling, downloads."""

"""What runs in child processes beside conversions: decoding, transcoding, and copies that leave."""

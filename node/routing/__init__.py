"""Routes: copies of instances that are sent on, at least once, after their commit."""

"""A durable journal: bytes that were appended are on the disk when `append` returns, and stay until they are freed."""

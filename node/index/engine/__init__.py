"""The engine of the index: SQLite or PostgreSQL, its schema, its one writer, and the base of every repository."""

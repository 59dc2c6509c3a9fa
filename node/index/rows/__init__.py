"""How rows are kept, written and migrated, in SQLite and in PostgreSQL."""

"""The index: the rows of a root, in SQLite or PostgreSQL. Only this package imports SQLAlchemy and Alembic."""

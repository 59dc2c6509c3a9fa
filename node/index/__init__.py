"""The index: a SQLite database. Only this package imports SQLAlchemy and Alembic."""

"""Where reviews are kept: append-only tables in SQLite or PostgreSQL. The only door to SQLAlchemy, Alembic and pg8000."""

from ipfvision.store.database import address, file_address, parse_address
from ipfvision.store.reviews import TABLES, AnyReview, Held, Kept, NewCase, Store, reader_key

__all__ = ["TABLES", "AnyReview", "Held", "Kept", "NewCase", "Store", "address", "file_address", "parse_address", "reader_key"]

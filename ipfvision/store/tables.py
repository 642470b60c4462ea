"""The tables, as queries need them. What makes and changes them is in `ipfvision.store.migrations`.

All but `drafts` only ever grow: triggers refuse an UPDATE or DELETE. Times are text, ISO 8601 in UTC, and contents are JSON as
text (`ipfvision.store.content`), so that SQLite and PostgreSQL hold the same.
"""

from sqlalchemy import Column, Float, ForeignKey, ForeignKeyConstraint, Integer, MetaData, String, Table, Text

METADATA = MetaData()

STUDIES = Table(
    "studies",
    METADATA,
    Column("id", String(32), primary_key=True),
    Column("title", Text, nullable=False),
    Column("mode", String(20), nullable=False),
    Column("seed", Integer, nullable=False),
    Column("created", String(40), nullable=False),
    Column("application_version", String(40), nullable=False),
)
MEMBERS = Table(
    "members",
    METADATA,
    Column("study_id", String(32), ForeignKey("studies.id"), primary_key=True),
    Column("key", Text, primary_key=True),
    Column("name", Text, nullable=False),
    Column("role", String(20), nullable=False),
    Column("joined", String(40), nullable=False),
)
CASES = Table(
    "cases",
    METADATA,
    Column("id", String(32), primary_key=True),
    Column("study_id", String(32), ForeignKey("studies.id"), nullable=False),
    Column("number", Integer, nullable=False),
    Column("series_instance_uid", Text),
    Column("study_instance_uid", Text),
    Column("added", String(40), nullable=False),
)
CASE_SLICES = Table(
    "case_slices",
    METADATA,
    Column("case_id", String(32), ForeignKey("cases.id"), primary_key=True),
    Column("slice_index", Integer, primary_key=True),
    Column("pixel_sha256", String(64), nullable=False),
    Column("sop_instance_uid", Text),
    Column("frame", Integer),
    Column("rows", Integer, nullable=False),
    Column("columns", Integer, nullable=False),
)
REVIEWS = Table(
    "reviews",
    METADATA,
    Column("id", String(32), primary_key=True),
    Column("study_id", String(32), nullable=False),
    Column("case_id", String(32), ForeignKey("cases.id"), nullable=False),
    Column("reader_key", Text, nullable=False),
    Column("opened", String(40), nullable=False),
    Column("supersedes", String(32), ForeignKey("reviews.id")),
    Column("application_version", String(40), nullable=False),
    ForeignKeyConstraint(["study_id", "reader_key"], ["members.study_id", "members.key"]),
)
STEPS = Table(
    "steps",
    METADATA,
    Column("review_id", String(32), ForeignKey("reviews.id"), primary_key=True),
    Column("kind", String(20), primary_key=True),
    Column("at", String(40), nullable=False),
    Column("seconds", Float(53), nullable=False),
    Column("content", Text, nullable=False),
    Column("application_version", String(40), nullable=False),
)
DRAFTS = Table(
    "drafts",
    METADATA,
    Column("review_id", String(32), ForeignKey("reviews.id"), primary_key=True),
    Column("revision", Integer, nullable=False),
    Column("seconds", Float(53), nullable=False),
    Column("saved", String(40), nullable=False),
    Column("content", Text, nullable=False),
)

KEPT = (STUDIES, MEMBERS, CASES, CASE_SLICES, REVIEWS, STEPS)
"""The tables that only grow, each after those that it refers to."""
KINDS = ("locked", "revealed", "finished")
"""Of steps, in the order in which they happen."""

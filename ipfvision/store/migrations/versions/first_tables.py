"""Studies, members, cases, reviews and their steps; drafts."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

ONLY_GROW = ("studies", "members", "cases", "case_slices", "reviews", "steps")

OUT_OF_ORDER = """
    (NEW.kind = 'revealed'
        AND EXISTS (SELECT 1 FROM reviews JOIN studies ON studies.id = reviews.study_id
            WHERE reviews.id = NEW.review_id AND studies.mode = 'blinded')
        AND NOT EXISTS (SELECT 1 FROM steps WHERE review_id = NEW.review_id AND kind = 'locked'))
    OR (NEW.kind = 'locked'
        AND EXISTS (SELECT 1 FROM steps WHERE review_id = NEW.review_id AND kind = 'revealed'))
    OR (NEW.kind = 'finished'
        AND EXISTS (SELECT 1 FROM reviews WHERE id = NEW.review_id AND supersedes IS NULL)
        AND NOT EXISTS (SELECT 1 FROM steps WHERE review_id = NEW.review_id AND kind = 'revealed'))
"""
"""No answer before the lock, no lock after the answer, no end without the answer; a correction has its forerunner's."""


def upgrade() -> None:
    """Make the tables, and the triggers that keep them honest."""
    op.create_table(
        "studies",
        sa.Column("id", sa.String(32), primary_key=True),
        sa.Column("title", sa.Text, nullable=False),
        sa.Column("mode", sa.String(20), sa.CheckConstraint("mode IN ('blinded', 'open')"), nullable=False),
        sa.Column("seed", sa.Integer, nullable=False),
        sa.Column("created", sa.String(40), nullable=False),
        sa.Column("application_version", sa.String(40), nullable=False),
    )
    op.create_table(
        "members",
        sa.Column("study_id", sa.String(32), sa.ForeignKey("studies.id"), primary_key=True),
        sa.Column("key", sa.Text, primary_key=True),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("role", sa.String(20), sa.CheckConstraint("role IN ('reader', 'coordinator')"), nullable=False),
        sa.Column("joined", sa.String(40), nullable=False),
    )
    op.create_table(
        "cases",
        sa.Column("id", sa.String(32), primary_key=True),
        sa.Column("study_id", sa.String(32), sa.ForeignKey("studies.id"), nullable=False),
        sa.Column("number", sa.Integer, nullable=False),
        sa.Column("series_instance_uid", sa.Text),
        sa.Column("study_instance_uid", sa.Text),
        sa.Column("added", sa.String(40), nullable=False),
        sa.UniqueConstraint("study_id", "number"),
        sa.UniqueConstraint("id", "study_id"),
    )
    op.create_table(
        "case_slices",
        sa.Column("case_id", sa.String(32), sa.ForeignKey("cases.id"), primary_key=True),
        sa.Column("slice_index", sa.Integer, primary_key=True),
        sa.Column("pixel_sha256", sa.String(64), nullable=False),
        sa.Column("sop_instance_uid", sa.Text),
        sa.Column("frame", sa.Integer),
        sa.Column("rows", sa.Integer, nullable=False),
        sa.Column("columns", sa.Integer, nullable=False),
    )
    op.create_table(
        "reviews",
        sa.Column("id", sa.String(32), primary_key=True),
        sa.Column("study_id", sa.String(32), nullable=False),
        sa.Column("case_id", sa.String(32), nullable=False),
        sa.Column("reader_key", sa.Text, nullable=False),
        sa.Column("opened", sa.String(40), nullable=False),
        sa.Column("supersedes", sa.String(32), sa.ForeignKey("reviews.id"), unique=True),
        sa.Column("application_version", sa.String(40), nullable=False),
        sa.ForeignKeyConstraint(["study_id", "reader_key"], ["members.study_id", "members.key"]),
        sa.ForeignKeyConstraint(["case_id", "study_id"], ["cases.id", "cases.study_id"]),
    )
    # One reading of a case by a reader, however many tabs are open; corrections follow it in a chain.
    op.create_index(
        "one_reading",
        "reviews",
        ["case_id", "reader_key"],
        unique=True,
        sqlite_where=sa.text("supersedes IS NULL"),
        postgresql_where=sa.text("supersedes IS NULL"),
    )
    op.create_table(
        "steps",
        sa.Column("review_id", sa.String(32), sa.ForeignKey("reviews.id"), primary_key=True),
        sa.Column("kind", sa.String(20), sa.CheckConstraint("kind IN ('locked', 'revealed', 'finished')"), primary_key=True),
        sa.Column("at", sa.String(40), nullable=False),
        sa.Column("seconds", sa.Float(53), nullable=False),
        sa.Column("content", sa.Text, nullable=False),
        sa.Column("application_version", sa.String(40), nullable=False),
    )
    op.create_table(
        "drafts",
        sa.Column("review_id", sa.String(32), sa.ForeignKey("reviews.id"), primary_key=True),
        sa.Column("revision", sa.Integer, nullable=False),
        sa.Column("seconds", sa.Float(53), nullable=False),
        sa.Column("saved", sa.String(40), nullable=False),
        sa.Column("content", sa.Text, nullable=False),
    )
    if op.get_bind().dialect.name == "sqlite":
        _guard_sqlite()
    else:
        _guard_postgresql()


def _guard_sqlite() -> None:
    for table in ONLY_GROW:
        for change in ("UPDATE", "DELETE"):
            op.execute(
                f"CREATE TRIGGER {table}_no_{change.lower()} BEFORE {change} ON {table} "
                f"BEGIN SELECT RAISE(ABORT, '{table} only grows'); END"
            )
    op.execute(
        f"CREATE TRIGGER steps_in_order BEFORE INSERT ON steps WHEN {OUT_OF_ORDER} "
        "BEGIN SELECT RAISE(ABORT, 'steps come in their order'); END"
    )


def _guard_postgresql() -> None:
    op.execute(
        "CREATE FUNCTION only_grows() RETURNS trigger LANGUAGE plpgsql AS $$ "
        "BEGIN RAISE EXCEPTION '% only grows', TG_TABLE_NAME; END $$"
    )
    for table in ONLY_GROW:
        op.execute(
            f"CREATE TRIGGER {table}_only_grows BEFORE UPDATE OR DELETE OR TRUNCATE ON {table} "
            "FOR EACH STATEMENT EXECUTE FUNCTION only_grows()"
        )
    op.execute(
        "CREATE FUNCTION steps_in_order() RETURNS trigger LANGUAGE plpgsql AS $$ "
        f"BEGIN IF {OUT_OF_ORDER} THEN RAISE EXCEPTION 'steps come in their order'; END IF; RETURN NEW; END $$"
    )
    op.execute("CREATE TRIGGER steps_in_order BEFORE INSERT ON steps FOR EACH ROW EXECUTE FUNCTION steps_in_order()")

"""The database itself: what it refuses, and what becomes of reviews when things break."""

import json
import sqlite3
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError

from ipfvision.core.review import BlindReview, Draft, MapVerdict, RevealedReview, Review
from ipfvision.errors import ReviewChanged, ReviewRefused, StoreUnavailable
from ipfvision.store import address, database, parse_address
from ipfvision.workflow.studies import Studies
from tests import killed_writer
from tests.postgresql import Server
from tests.reviewing import MODEL, answer, box, read_whole, said, stack

ROOT = Path(__file__).parents[1]

pytestmark = pytest.mark.xdist_group("postgresql")


@pytest.fixture
def studies(database_url: str) -> Iterator[Studies]:
    with Studies.open(database_url) as opened:
        yield opened


@pytest.fixture
def engine(database_url: str) -> Iterator[sa.Engine]:
    """A way around the store."""
    made = sa.create_engine(parse_address(database_url))
    yield made
    made.dispose()


def _study(studies: Studies, cases: int = 2) -> str:
    study = studies.create("Trial", "Ada", seed=7)
    studies.add_cases(study.id, "Ada", [stack(seed) for seed in range(1, cases + 1)])
    return study.id


def _open(studies: Studies, study: str) -> BlindReview:
    case = studies.next_case(study, "Ada")
    assert case is not None
    begun = studies.open_case(study, case.id, "Ada")
    assert isinstance(begun, BlindReview)
    return begun


KEPT = ("studies", "members", "cases", "case_slices", "reviews", "steps")


@pytest.mark.parametrize("change", ["UPDATE {} SET application_version = 'x'", "DELETE FROM {}"])
def test_what_is_kept_can_be_neither_changed_nor_deleted(studies: Studies, engine: sa.Engine, change: str) -> None:
    study = _study(studies)
    done = read_whole(studies, study, studies.cases(study)[0].id, "Ada")
    columns = {"members": "role", "cases": "added", "case_slices": "pixel_sha256"}
    for table in KEPT:
        order = change.format(table).replace("application_version", columns.get(table, "application_version"))
        with pytest.raises(DBAPIError, match="only grows"), engine.begin() as connection:
            connection.execute(sa.text(order))
    assert [one.id for one in studies.reviews(study, "Ada")] == [done.id]


@pytest.mark.parametrize("kind", ["revealed", "finished"])
def test_the_database_refuses_an_answer_before_the_lock_whoever_writes_it(
    studies: Studies, engine: sa.Engine, kind: str
) -> None:
    begun = _open(studies, _study(studies))
    insert = sa.text(
        "INSERT INTO steps (review_id, kind, at, seconds, content, application_version) "
        "VALUES (:review, :kind, '2026-01-01T00:00:00+00:00', 0, '{}', '0')"
    )
    with pytest.raises(DBAPIError, match="in their order"), engine.begin() as connection:
        connection.execute(insert, {"review": begun.id, "kind": kind})
    studies.lock(begun.id, "Ada", begun.revision, said(), MODEL)
    assert isinstance(studies.reveal(begun.id, "Ada", answer), RevealedReview)


def test_the_store_says_what_comes_too_early_or_too_late_even_if_nobody_asked_before(studies: Studies) -> None:
    """As in a race, when what the use case looked at is no longer so."""
    begun = _open(studies, _study(studies))
    opinion, draft, store = said().opinion(), said(), studies._store
    assert opinion is not None
    with pytest.raises(ReviewRefused, match="lock it first"):
        store.reveal(begun.id, answer(begun.case), 0, begun.times.opened)
    with pytest.raises(ReviewRefused, match="look at it first"):
        store.finish(begun.id, begun.revision, opinion, None, (), 0, begun.times.opened)
    assert store.held(begun.id).revision == begun.revision  # nothing of it was written
    studies.lock(begun.id, "Ada", begun.revision, draft, MODEL)
    with pytest.raises(ReviewChanged):
        store.lock(begun.id, begun.revision + 1, draft, opinion, MODEL, 0, begun.times.opened)


def test_two_servers_that_start_at_once_make_the_tables_once(database_url: str) -> None:
    together = threading.Barrier(4)

    def start(_: int) -> int:
        together.wait()
        with Studies.open(database_url) as studies:
            return len(studies.all())

    with ThreadPoolExecutor(4) as servers:
        assert list(servers.map(start, range(4))) == [0] * 4


def test_the_tables_that_migrations_make_are_those_that_queries_expect(studies: Studies, engine: sa.Engine) -> None:
    from ipfvision.store.tables import METADATA

    assert studies.all() == ()
    made = sa.inspect(engine)
    for name, table in METADATA.tables.items():
        assert [column["name"] for column in made.get_columns(name)] == [column.name for column in table.columns]
        assert {column["name"] for column in made.get_columns(name) if column["nullable"]} == {
            column.name for column in table.columns if column.nullable
        }
        assert made.get_pk_constraint(name)["constrained_columns"] == [column.name for column in table.primary_key.columns]


def test_sqlite_writes_through_to_the_disk_before_it_acknowledges(tmp_path: Path) -> None:
    with Studies.open(f"sqlite:///{tmp_path / 'reviews.sqlite'}") as studies:
        with studies._store._database._engine.connect() as connection:
            told = [connection.exec_driver_sql(f"PRAGMA {name}").scalar() for name in ("journal_mode", "synchronous")]
            assert told == ["wal", 2]  # 2 is FULL
            assert connection.exec_driver_sql("PRAGMA foreign_keys").scalar() == 1
        assert studies.all() == ()


@pytest.mark.parametrize(("kind", "times"), [("sqlite", 200), ("postgresql", 30)])
def test_a_writer_that_is_killed_at_any_moment_loses_nothing_acknowledged(
    kind: str, times: int, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    if kind == "sqlite":
        url = f"sqlite:///{tmp_path / 'reviews.sqlite'}"
    else:
        server: Server = request.getfixturevalue("postgresql")
        url = server.new_database()
    with Studies.open(url) as studies:
        study = _study(studies, cases=3)
    command = [sys.executable, "-m", "tests.killed_writer", url, study, str(times)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    said_to_be_saved = [json.loads(line) for line in done.stdout.splitlines()]
    counts = Counter(one["kind"] for one in said_to_be_saved)
    assert min(counts[step] for step in ("opened", "saved", "locked", "revealed", "finished")) >= times // 10, counts

    with Studies.open(url) as studies:
        readers = {one.name for one in studies.members(study)}
        assert {one["reader"] for one in said_to_be_saved if one["kind"] == "joined"} <= readers
        latest = [studies._store.latest(case, reader) for case, reader in studies._store.stages(study)]
        found = {one.id: one for one in latest if one is not None}
    for told in said_to_be_saved:
        if told["review"]:
            _there(found[told["review"]], told["kind"], told["number"])
    for one in found.values():
        _whole(one)
    if kind == "sqlite":
        with sqlite3.connect(tmp_path / "reviews.sqlite") as connection:
            assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        connection.close()


def _there(found: BlindReview | RevealedReview | Review, kind: str, number: int) -> None:
    """What was acknowledged, or what came after it."""
    if kind == "saved" and isinstance(found, BlindReview) and found.first is None:
        assert int(found.draft.comment) >= number
    if kind in ("locked", "revealed", "finished"):
        assert found.first is not None
    if kind == "locked":
        assert found.first == killed_writer.thought(number).opinion()
    if kind == "revealed":
        assert not isinstance(found, BlindReview)
    if kind == "finished":
        assert isinstance(found, Review)
        assert found.revised == killed_writer.thought(number).opinion()


def _whole(found: BlindReview | RevealedReview | Review) -> None:
    """Every part says the same number."""
    if isinstance(found, Review):
        assert found.revised == killed_writer.thought(int(found.revised.comment)).opinion()
        assert found.judgment is not None
    elif found.draft != Draft():
        assert found.draft == killed_writer.thought(int(found.draft.comment))
    if not isinstance(found, BlindReview):
        expected = answer(found.case).slices[0].explanation
        kept = found.answer.slices[0].explanation
        assert kept is not None
        assert expected is not None
        assert kept.cells.tobytes() == expected.cells.tobytes()


# Faults


def test_a_full_database_is_said_and_what_was_saved_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = f"sqlite:///{tmp_path / 'reviews.sqlite'}"
    with Studies.open(url) as studies:
        study = _study(studies)
        begun = _open(studies, study)
        revision = studies.autosave(begun.id, "Ada", begun.revision, Draft(comment="before"))
        pages = sqlite3.connect(tmp_path / "reviews.sqlite")
        count = pages.execute("PRAGMA page_count").fetchone()[0]
        pages.close()
        sa.event.listen(
            studies._store._database._engine, "begin", lambda c: c.exec_driver_sql(f"PRAGMA max_page_count={count + 1}")
        )
        with pytest.raises(StoreUnavailable, match="no room left where the reviews are kept"):
            studies.autosave(begun.id, "Ada", revision, Draft(comment="x" * 10_000))
        again = studies.open_case(study, begun.case.id, "Ada")
        assert isinstance(again, BlindReview)
        assert (again.revision, again.draft.comment) == (revision, "before")


FULL_DISK = """
import resource, sys
from ipfvision.core.review import Draft
from ipfvision.errors import ReviewChanged, ReviewRefused, StoreUnavailable
from ipfvision.workflow.studies import Studies
studies = Studies.open(sys.argv[1])
revision = int(sys.argv[3])
size = int(sys.argv[4])
resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
try:
    for _ in range(200):
        revision = studies.autosave(sys.argv[2], "Ada", revision, Draft(comment=str(revision) + "x" * 9_000))
except StoreUnavailable as error:
    print(revision, error)
"""


def test_a_disk_that_fills_up_loses_no_save_that_was_acknowledged(tmp_path: Path) -> None:
    path = tmp_path / "reviews.sqlite"
    with Studies.open(f"sqlite:///{path}") as studies:
        study = _study(studies)
        begun = _open(studies, study)
        size = max(part.stat().st_size for part in tmp_path.iterdir()) + 200_000
        command = [sys.executable, "-c", FULL_DISK, f"sqlite:///{path}", begun.id, str(begun.revision), str(size)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
        revision, _, sentence = done.stdout.strip().partition(" ")
        assert sentence == database.FULL
        assert int(revision) > 2
        again = studies.open_case(study, begun.case.id, "Ada")
        assert isinstance(again, BlindReview)
        assert again.revision == int(revision)
        assert again.draft.comment.rstrip("x") == str(int(revision) - 1)
        studies.autosave(begun.id, "Ada", again.revision, Draft(comment="room again"))


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("SQLITE_IOERR_FSYNC", database.BROKEN),
        ("SQLITE_IOERR_SHMSIZE", database.FULL),
        ("SQLITE_READONLY", database.NOT_WRITABLE),
    ],
)
def test_an_error_of_the_disk_is_not_taken_for_a_full_one(name: str, sentence: str) -> None:
    """A disk that breaks cannot be had here: this is sqlite3's error for it."""
    error = sqlite3.OperationalError("disk I/O error")
    error.sqlite_errorname = name
    with pytest.raises(StoreUnavailable) as caught, database._in_words():
        raise DBAPIError("SELECT 1", None, error)
    assert str(caught.value) == sentence


def test_a_file_that_another_program_holds_is_waited_for_then_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "PATIENCE_SECONDS", 0.2)
    path = tmp_path / "reviews.sqlite"
    with Studies.open(f"sqlite:///{path}") as studies:
        begun = _open(studies, _study(studies))
        holder = sqlite3.connect(path, isolation_level=None)
        holder.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreUnavailable, match="written by another program"):
            studies.autosave(begun.id, "Ada", begun.revision, said())
        assert isinstance(studies.open_case(begun.study.id, begun.case.id, "Ada"), BlindReview)  # reading goes on
        holder.close()
        assert studies.autosave(begun.id, "Ada", begun.revision, said()) == 1


def test_more_readers_than_connections_are_told_to_try_again(tmp_path: Path) -> None:
    with Studies.open(f"sqlite:///{tmp_path / 'reviews.sqlite'}") as studies:
        pool = studies._store._database._engine.pool
        pool._timeout = 0.1
        taken = [pool.connect() for _ in range(pool.size() + pool._max_overflow)]
        with pytest.raises(StoreUnavailable, match="try again"):
            studies.all()
        for one in taken:
            one.close()
        assert studies.all() == ()


def test_a_server_that_goes_away_is_said_and_when_it_is_back_all_is_there(postgresql: Server) -> None:
    with Studies.open(postgresql.new_database()) as studies:
        study = _study(studies)
        done = read_whole(studies, study, studies.cases(study)[0].id, "Ada")
        begun = _open(studies, study)
        revision = studies.autosave(begun.id, "Ada", begun.revision, said())
        postgresql.stop()
        try:
            for _ in range(2):
                with pytest.raises(StoreUnavailable, match="does not answer"):
                    studies.autosave(begun.id, "Ada", revision, Draft(comment="lost?"))
        finally:
            postgresql.start()
        assert [one.id for one in studies.reviews(study, "Ada")] == [done.id]
        locked = studies.lock(begun.id, "Ada", revision, said(), MODEL)
        assert isinstance(studies.reveal(locked.id, "Ada", answer), RevealedReview)


def test_a_connection_that_was_cut_is_made_again_without_a_word(postgresql: Server) -> None:
    with Studies.open(postgresql.new_database()) as studies:
        study = _study(studies)
        postgresql.stop()
        postgresql.start()
        assert len(studies.cases(study)) == 2


@pytest.mark.parametrize(
    ("content", "sentence"),
    [(b"not a database at all, but long enough to be looked at" * 20, "damaged"), (b"", None)],
)
def test_a_file_that_is_no_database_is_said_and_an_empty_one_is_filled(
    tmp_path: Path, content: bytes, sentence: str | None
) -> None:
    path = tmp_path / "reviews.sqlite"
    path.write_bytes(content)
    if sentence is None:
        with Studies.open(f"sqlite:///{path}") as studies:
            assert studies.all() == ()
        return
    with pytest.raises(StoreUnavailable, match=sentence):
        Studies.open(f"sqlite:///{path}")
    assert path.read_bytes() == content


def test_tables_of_a_newer_version_are_left_alone(studies: Studies, engine: sa.Engine, database_url: str) -> None:
    with engine.begin() as connection:
        connection.execute(sa.text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(StoreUnavailable, match="newer ipfvision"):
        Studies.open(database_url)
    with engine.begin() as connection:
        assert connection.execute(sa.text("SELECT version_num FROM alembic_version")).scalar() == "9999"


def test_a_row_that_was_damaged_is_said_and_not_guessed(studies: Studies, engine: sa.Engine) -> None:
    begun = _open(studies, _study(studies))
    for damaged in ("{", "[]", "{}", json.dumps({"confidence": 9}), "[" * 100_000):
        with engine.begin() as connection:
            connection.execute(sa.text("UPDATE drafts SET content = :damaged"), {"damaged": damaged})
        with pytest.raises(StoreUnavailable, match="damaged"):
            studies.open_case(begun.study.id, begun.case.id, "Ada")


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        ("mysql://root:secret-word@localhost/x", "kind mysql"),
        ("::secret-word::", "not an address"),
        ("postgresql://nobody:secret-word@localhost:1/x", "does not answer"),
        ("sqlite:////proc/no/such/folder/reviews.sqlite", "cannot be written"),
    ],
)
def test_an_address_that_leads_nowhere_is_said_without_its_password(
    monkeypatch: pytest.MonkeyPatch, url: str, sentence: str
) -> None:
    monkeypatch.setenv("IPFVISION_DATABASE_URL", url)
    with pytest.raises(StoreUnavailable, match=sentence) as caught:
        Studies.open()
    assert "secret-word" not in str(caught.value)


def test_a_database_that_is_not_there_on_the_server_is_said(postgresql: Server) -> None:
    url = postgresql.new_database()
    with pytest.raises(StoreUnavailable, match="knows no such database"):
        Studies.open(url + "_not")


def test_reviews_lie_in_the_folder_that_is_named_for_nobody_else_to_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IPFVISION_REVIEWS", str(tmp_path / "deep" / "folder"))
    with Studies.open() as studies:
        studies.create("Trial", "Ada")
    folder = tmp_path / "deep" / "folder"
    assert (folder / "reviews.sqlite").is_file()
    assert folder.stat().st_mode & 0o077 == 0
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("IPFVISION_REVIEWS", str(tmp_path / "file" / "folder"))
    with pytest.raises(StoreUnavailable, match="IPFVISION_REVIEWS"):
        address()


def test_a_long_series_is_saved_as_quickly_as_it_is_drawn(studies: Studies) -> None:
    """Forty drawings on forty slices come back as they were; the draft is one row however often it is saved."""
    study = studies.create("Trial", "Ada")
    (case,) = studies.add_cases(study.id, "Ada", [stack(*range(1, 41))]).cases
    begun = studies.open_case(study.id, case.id, "Ada")
    assert isinstance(begun, BlindReview)
    drawings = tuple(replace(box(index % 20), slice_index=index) for index in range(40))
    revision = begun.revision
    for count in range(1, 41):
        revision = studies.autosave(begun.id, "Ada", revision, replace(said(), drawings=drawings[:count]))
    shown = studies.lock(begun.id, "Ada", revision, replace(said(), drawings=drawings), MODEL)
    revealed = studies.reveal(shown.id, "Ada", answer)
    assert isinstance(revealed, RevealedReview)
    done = studies.finish(shown.id, "Ada", revealed.revision, replace(revealed.draft, verdict=MapVerdict.AGREES))
    assert isinstance(done, Review)
    assert done.revised.drawings == drawings
    assert len(done.agreement) == 40

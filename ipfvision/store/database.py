"""The database behind the store: where it is, how it is opened and brought up to date, and what goes wrong with it.

SQLite by default, in one file; PostgreSQL (through pg8000) by URL. A transaction that returned is on the disk: SQLite runs
with a write-ahead log and `synchronous=FULL`, PostgreSQL does so by itself.
"""

import os
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import platformdirs
import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from alembic.util.exc import CommandError
from sqlalchemy import event
from sqlalchemy.engine import URL, Connection, Engine, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, IntegrityError, NoSuchModuleError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from ipfvision.errors import StoreUnavailable
from ipfvision.store.content import Damaged

DATABASE_URL = "IPFVISION_DATABASE_URL"
"""Environment variable: a PostgreSQL (or SQLite) database instead of the file in the user's data folder."""
FOLDER = "IPFVISION_REVIEWS"
"""Environment variable: another folder for the SQLite file than the user's data folder."""
FILE = "reviews.sqlite"
PATIENCE_SECONDS = 5
"""How long a write to an SQLite file waits for another one."""
SILENCE_SECONDS = 15
"""After which a PostgreSQL server that says nothing counts as lost."""
MIGRATIONS = Path(__file__).parent / "migrations"
MIGRATION_LOCK = 0x6970_6676
"""Of PostgreSQL, so that of two servers that start together one migrates and the other waits."""

AGAIN = "Nothing that was saved before is lost, and what is on this screen stays here; please try again."
FULL = f"There is no room left where the reviews are kept, so this was not saved. {AGAIN.replace('try', 'make room and try')}"
BUSY = f"The reviews are being written by another program, so this was not saved. {AGAIN}"
BROKEN = (
    f"The disk on which the reviews are kept reports an error, so this was not saved. {AGAIN} If it stays, have it checked."
)
LOST = f"The database of the reviews does not answer, so this was not saved. {AGAIN}"
NOT_WRITABLE = (
    "The reviews cannot be written or read where they are kept; please check that the folder exists, and your rights to it."
)
DAMAGED = "The file of the reviews is damaged, or is no such file; please restore it from a backup or from an exported study."
NEWER = "The reviews were last written by a newer ipfvision than this one; please use that version, or another data folder."


def address() -> URL:
    """Where reviews are kept, as the environment says; the folder of the SQLite file is made if it is missing.

    Raises
    ------
    StoreUnavailable
        If the address makes no sense, or the folder cannot be made.
    """
    given = os.environ.get(DATABASE_URL, "")
    if given:
        return parse_address(given)
    named = os.environ.get(FOLDER, "")
    folder = Path(named) if named else platformdirs.user_data_path("ipfvision", appauthor=False)
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError:
        raise StoreUnavailable(f"{NOT_WRITABLE} {FOLDER} names another folder.") from None
    return file_address(folder / FILE)


def file_address(path: Path) -> URL:
    """Of an SQLite file."""
    return URL.create("sqlite", database=str(path))


def parse_address(text: str) -> URL:
    """A URL with the driver that is installed here. The password in it is never repeated.

    Raises
    ------
    StoreUnavailable
        If it is neither of PostgreSQL nor of SQLite.
    """
    try:
        url = make_url(text)
    except ArgumentError:
        raise StoreUnavailable(
            f"{DATABASE_URL} is not an address of a database; postgresql://user:password@host/name is expected."
        ) from None
    if url.get_backend_name() in ("postgresql", "postgres"):
        return url.set(drivername="postgresql+pg8000")
    if url.get_backend_name() == "sqlite":
        return url
    raise StoreUnavailable(
        f"{DATABASE_URL} names a database of the kind {url.get_backend_name()}; PostgreSQL and SQLite are read."
    )


class Conflict(Exception):
    """What was to be written contradicts what is there: a key that is taken, or one that refers to nothing. Never shown."""


class Database:
    """An engine whose transactions raise sentences. Safe to share between threads."""

    def __init__(self, url: URL) -> None:
        """Connect, and bring the tables up to date.

        Raises
        ------
        StoreUnavailable
            With a sentence.
        """
        self._engine = _engine(url)
        # SQLite reads one state anyway.
        self._one_state = {} if url.get_backend_name() == "sqlite" else {"isolation_level": "REPEATABLE READ"}
        try:
            self._migrate()
        except BaseException:
            self._engine.dispose()
            raise

    def close(self) -> None:
        self._engine.dispose()

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """A transaction that sees one state of everything."""
        with _in_words(), self._engine.connect().execution_options(**self._one_state) as connection, connection.begin():
            try:
                yield connection
            except Damaged:
                raise StoreUnavailable(DAMAGED) from None

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """A transaction that is on the disk, whole, when this returns; and not there at all if it raises.

        Raises
        ------
        Conflict
            What it means, only the caller knows.
        StoreUnavailable
            For everything else that a database can do, in a sentence.
        """
        with _in_words(), self._engine.connect().execution_options(ipfvision_writes=True) as connection, connection.begin():
            yield connection

    def _migrate(self) -> None:
        config = Config()
        config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
        with _in_words():
            newest = ScriptDirectory.from_config(config).get_current_head()
            with self._engine.connect() as connection:
                if _revision(connection) == newest:
                    return
        with self.writing() as connection:
            if connection.dialect.name == "postgresql":
                connection.execute(sa.select(sa.func.pg_advisory_xact_lock(MIGRATION_LOCK)))
            config.attributes["connection"] = connection
            try:
                command.upgrade(config, "head")
            except CommandError:
                raise StoreUnavailable(NEWER) from None


def _revision(connection: Connection) -> str | None:
    if not sa.inspect(connection).has_table("alembic_version"):
        return None
    return connection.execute(sa.text("SELECT version_num FROM alembic_version")).scalar()


def _engine(url: URL) -> Engine:
    if url.get_backend_name() == "sqlite":
        engine = sa.create_engine(url, hide_parameters=True, connect_args={"timeout": PATIENCE_SECONDS})
        event.listen(engine, "connect", _prepare_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
        return engine
    query = dict(url.query)
    options: dict[str, Any] = {"timeout": SILENCE_SECONDS, "ssl_context": _tls(query.pop("sslmode", "prefer"))}
    return sa.create_engine(url.set(query=query), hide_parameters=True, pool_pre_ping=True, connect_args=options)


def _tls(mode: object) -> ssl.SSLContext | None:
    """As libpq's sslmode says, as far as it asks for more than pg8000 does by itself, which is to try nothing."""
    if mode in ("verify-ca", "verify-full", "require"):
        context = ssl.create_default_context()
        if mode != "verify-full":
            context.check_hostname = False
        if mode == "require":
            context.verify_mode = ssl.CERT_NONE
        return context
    return None


def _prepare_sqlite(connection: Any, _record: object) -> None:
    connection.isolation_level = None  # sqlite3 would begin transactions by itself, and late
    cursor = connection.cursor()
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "recursive_triggers=ON"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _begin_sqlite(connection: Connection) -> None:
    """A write takes its turn at once: one that began by reading could not wait for another any more (SQLITE_BUSY_SNAPSHOT)."""
    writes = connection.get_execution_options().get("ipfvision_writes")
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


@contextmanager
def _in_words() -> Iterator[None]:
    """Turn what databases and drivers raise into a sentence, without their own words: these may repeat what was written."""
    try:
        yield
    except DBAPIError as error:
        # Of what breaks a constraint (class 23) or a trigger (P0001), pg8000 tells a taken key alone from other errors.
        if isinstance(error, IntegrityError) or _state(error).startswith(("23", "P0001")):
            raise Conflict from None
        raise StoreUnavailable(_sentence(error)) from None
    except PoolTimeout:
        raise StoreUnavailable(BUSY) from None
    except NoSuchModuleError:
        raise StoreUnavailable("The driver of this database is not installed; please run make app again.") from None
    except OSError:
        raise StoreUnavailable(LOST) from None


def _sentence(error: DBAPIError) -> str:
    name = getattr(error.orig, "sqlite_errorname", None)
    if name is not None:
        kind, _, detail = str(name).removeprefix("SQLITE_").partition("_")
        if kind == "IOERR":  # a full disk shows there too: where a file, or the log's shared memory, cannot grow
            return FULL if detail in ("WRITE", "SHMSIZE") else BROKEN
        known = {"FULL": FULL, "BUSY": BUSY, "LOCKED": BUSY, "CORRUPT": DAMAGED, "NOTADB": DAMAGED}
        return known.get(kind, NOT_WRITABLE)
    state = _state(error)
    if state.startswith("53"):  # insufficient resources: disk full, out of memory, too many connections
        return FULL if state == "53100" else LOST
    if state.startswith(("28", "3D")):
        return "The database of the reviews refuses this user or knows no such database; please check its address."
    if state == "55P03" or state.startswith("40"):
        return BUSY
    return LOST if not state or state.startswith(("08", "57")) else NOT_WRITABLE


def _state(error: DBAPIError) -> str:
    """PostgreSQL's SQLSTATE; empty where there is none."""
    said = error.orig.args[0] if error.orig is not None and error.orig.args else None
    return str(said.get("C", "")) if isinstance(said, dict) else ""

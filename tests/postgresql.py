"""A real PostgreSQL server in a folder of its own, for as long as the tests run."""

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from pathlib import Path

import sqlalchemy as sa

USER = "ipfvision"
START_SECONDS = 30


def find_programs() -> Path | None:
    """The folder with initdb and postgres: Debian keeps them out of the path."""
    found = shutil.which("initdb")
    if found is not None:
        return Path(found).resolve().parent
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda folder: int(folder.parent.name))
    return folders[-1] if folders else None


class Server:
    """It listens on a free port of this machine only, and trusts everybody there. PostgreSQL refuses to run as root."""

    def __init__(self, programs: Path) -> None:
        self._programs = programs
        self.folder = Path(tempfile.mkdtemp(prefix="ipfvision-postgresql-"))
        self._user = "postgres" if os.geteuid() == 0 else None
        if self._user is not None:
            account = pwd.getpwnam(self._user)
            os.chown(self.folder, account.pw_uid, account.pw_gid)
        self._run(
            "initdb", "-D", str(self.folder / "data"), "-U", USER, "--auth=trust", "--no-sync", "-E", "UTF8", "--locale=C"
        )
        with socket.socket() as probe:
            probe.bind(("localhost", 0))
            self.port: int = probe.getsockname()[1]
        self._users = 0
        self.start()

    def _run(self, program: str, *arguments: str) -> None:
        subprocess.run(
            [self._programs / program, *arguments], user=self._user, cwd=self.folder, check=True, capture_output=True
        )

    @property
    def log(self) -> Path:
        return self.folder / "log"

    def start(self) -> None:
        # Tests end processes, never the machine: what the operating system has been given is safe without fsync.
        options = f"-p {self.port} -k {self.folder} -c listen_addresses=localhost -c log_statement=all -c fsync=off"
        data, seconds = str(self.folder / "data"), str(START_SECONDS)
        # pg_ctl would wait for the server's end of a pipe, which never comes.
        subprocess.run(
            [self._programs / "pg_ctl", "start", "-w", "-t", seconds, "-D", data, "-l", self.log, "-o", options],
            user=self._user,
            cwd=self.folder,
            check=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def stop(self) -> None:
        """Under the feet of everybody who is connected."""
        self._run("pg_ctl", "stop", "-w", "-m", "fast", "-D", str(self.folder / "data"))

    def new_database(self) -> str:
        """Address of an empty place: a user whose own schema comes first, which is made ten times as quickly as a database."""
        self._users += 1
        name = f"test_{self._users}"
        engine = sa.create_engine(f"postgresql+pg8000://{USER}@localhost:{self.port}/postgres")
        with engine.begin() as connection:
            connection.execute(sa.text(f"CREATE ROLE {name} LOGIN"))
            connection.execute(sa.text(f"CREATE SCHEMA {name} AUTHORIZATION {name}"))
        engine.dispose()
        return f"postgresql://{name}@localhost:{self.port}/postgres"

    def close(self) -> None:
        self._run("pg_ctl", "stop", "-w", "-m", "immediate", "-D", str(self.folder / "data"))
        shutil.rmtree(self.folder, ignore_errors=True)

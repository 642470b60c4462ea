"""Files that appear whole or not at all, and a full disk said in a sentence."""

import errno
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from ipfvision.errors import RunStopped

FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def write_whole(path: Path, content: bytes) -> None:
    """Put a file in its place in one step."""

    def write(file: BinaryIO) -> None:
        file.write(content)

    write_whole_by(path, write)


def write_whole_by(path: Path, write: Callable[[BinaryIO], None]) -> None:
    """Put what `write` writes in its place in one step; until then, and if it fails, what lay there stays.

    Raises
    ------
    RunStopped
        If the disk is full.
    """
    part = path.with_name(path.name + ".part")
    try:
        with part.open("wb") as file:
            write(file)
        part.replace(path)
    except OSError as error:
        part.unlink(missing_ok=True)
        if error.errno not in FULL:
            raise
        raise RunStopped(
            f"There is no room left to write {path.name}: what was there before is unharmed; make room and start the same "
            "command again, it goes on from there."
        ) from None
    except BaseException:
        part.unlink(missing_ok=True)
        raise

"""Files as they come (bytes, files, folders, .zip), one at a time and within limits, whatever they hold.

Nothing is ever written to disk: a .zip is opened in memory.
"""

import os
import re
import stat
import zipfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from pathlib import Path, PurePosixPath
from typing import BinaryIO, NoReturn

from ipfvision.errors import InputRefused, NotAnImage, TooLarge, UnsafeArchive, UnsupportedEncoding

MOST_FILES = 10_000
"""Files of one intake, those inside a .zip or a folder counted: a thin-slice chest CT has 300 to 1,000."""
LARGEST_FILE = 2**30
"""Bytes of one file, packed or not."""
MOST_UNPACKED_BYTES = 2**32
"""Bytes that all .zip of one intake may unpack to, counted while they unpack."""
RATIO_COUNTS_FROM = 2**26
"""Unpacked bytes from which the ratio counts: a small drawing of few grey values may well pack 500 to 1."""
CHUNK = 2**20

_JUNK = {"thumbs.db", "desktop.ini", "dicomdir", "autorun.inf", "lockfile"}
"""Left behind by systems and disc writers; never asked about by anybody."""


@dataclass(frozen=True, slots=True)
class Upload:
    """One file as it came: `name` is the user's own word for it, used only to tell that user which file is meant."""

    name: str
    content: bytes
    folder: str | None = None
    """The folder with which it came: what is no image there is passed over, as in a folder on this machine."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """One file that was not read, and why, in a sentence that may be shown as it stands."""

    file: str
    reason: str


Progress = Callable[[int, int], None]
"""Called with (done, total)."""


@dataclass(frozen=True, slots=True)
class File:
    """One file that is still to be read."""

    name: str
    load: Callable[[], bytes]
    is_named: bool
    """The user named this very file. What lies in a folder or a .zip is passed over in silence if it is no image."""
    container: str | None = None
    """The folder or .zip in which it was found."""


class Basket:
    """Everything found so far, and the limits over all of it."""

    def __init__(self, most_ratio: int) -> None:
        self.most_ratio = most_ratio
        self.files: deque[File] = deque()
        self.refusals: list[Refusal] = []
        self.containers: dict[str, None] = {}
        self.unpacked = 0
        self._count = 0

    def add(self, file: File) -> None:
        self._count += 1
        if self._count <= MOST_FILES:
            self.files.append(file)
        elif self._count == MOST_FILES + 1:
            self.refuse(
                file.name, TooLarge(f"More than {MOST_FILES:,} files were given; this one and all after it were not read.")
            )

    def refuse(self, name: str, error: InputRefused) -> None:
        self.refusals.append(Refusal(name, str(error)))


@contextmanager
def gather(uploads: Iterable[Upload], most_ratio: int) -> Iterator[Basket]:
    """List uploads and what is in their .zip files. A .zip inside a .zip is not opened.

    Parameters
    ----------
    most_ratio
        Unpacked over packed size of one .zip from which it is taken for a bomb.
    """
    basket = Basket(most_ratio)
    with ExitStack() as archives:
        for upload in uploads:
            if is_zip(upload.content):
                _list_zip(basket, archives, upload.name, BytesIO(upload.content))
            else:
                if upload.folder is not None:
                    basket.containers[upload.folder] = None
                load = partial(_content, upload)
                basket.add(File(upload.name, load, is_named=upload.folder is None, container=upload.folder))
        yield basket


@contextmanager
def gather_paths(paths: Iterable[Path], most_ratio: int) -> Iterator[Basket]:
    """The same for files and folders (searched recursively) on this machine.

    Links to folders are not followed. A file's name is its path as given, or below the folder as given.
    """
    basket = Basket(most_ratio)
    with ExitStack() as archives:
        for path in paths:
            if path.is_dir():
                basket.containers[str(path)] = None
                for found in _walk(path):
                    _list_path(basket, archives, found, container=str(path))
            else:
                _list_path(basket, archives, path, container=None)
        yield basket


def read_all(
    basket: Basket,
    read: Callable[[File], int | None],
    progress: Progress | None,
    *,
    most_pixels: int,
    too_many: str,
    nothing_found: str,
) -> None:
    """Read every file of a basket; what raises `InputRefused` is refused, and never stops the others.

    Parameters
    ----------
    read
        Reads one file, and says how many pixels of it are held from now on; None if it was passed over in silence.
    most_pixels
        Held pixels beyond which the rest is refused, once for each folder or .zip, with the sentence `too_many`.
    nothing_found
        What is said of a folder or .zip of which everything was passed over.
    """
    total = len(basket.files)
    pixels = 0
    useful: set[str | None] = {None}
    stopped: set[str | None] = set()
    for done in range(1, total + 1):
        file = basket.files.popleft()  # and with it the content, once it is read
        try:
            if file.container in stopped:
                continue
            if pixels > most_pixels:
                raise TooLarge(too_many)  # noqa: TRY301  caught below with those of the reader
            held = read(file)
            if held is not None:
                pixels += held
                useful.add(file.container)
        except (TooLarge, UnsafeArchive) as error:
            basket.refuse(file.name, error)
            useful.add(file.container)
            if isinstance(error, UnsafeArchive) or pixels > most_pixels or basket.unpacked > MOST_UNPACKED_BYTES:
                stopped.add(file.container)  # said once, not for each of a thousand slices
        except InputRefused as error:
            basket.refuse(file.name, error)
            useful.add(file.container)
        finally:
            if progress is not None:
                progress(done, total)
    refused = {refusal.file for refusal in basket.refusals}
    for name in basket.containers:
        if name not in useful and name not in refused:
            basket.refuse(name, NotAnImage(nothing_found))


def refuse_zip_in_zip() -> NoReturn:
    """What is said of a .zip inside a .zip."""
    raise UnsupportedEncoding("This is a .zip inside a .zip, which is not opened; please give it by itself.")


def _content(upload: Upload) -> bytes:
    return upload.content


def _walk(folder: Path) -> Iterator[Path]:
    for parent, folders, files in os.walk(folder):
        folders.sort(key=natural)
        for name in sorted(files, key=natural):
            yield Path(parent, name)


def _list_path(basket: Basket, archives: ExitStack, path: Path, container: str | None) -> None:
    name = str(path)
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            _refuse_missing()
        with path.open("rb") as file:
            packed = is_zip(file.read(4))
        if packed:
            if container is not None:
                basket.containers.pop(container, None)  # the .zip speaks for itself
            _list_zip(basket, archives, name, archives.enter_context(path.open("rb")))
        elif status.st_size > LARGEST_FILE:
            _refuse_large()
        else:
            basket.add(File(name, partial(_load, path), is_named=container is None, container=container))
    except OSError:
        basket.refuse(name, NotAnImage("There is no such file, or it cannot be opened; please check its name and your rights."))
    except InputRefused as error:
        basket.refuse(name, error)


def _refuse_missing() -> NoReturn:
    raise NotAnImage("This is not a file; please give a CT slice, a folder or a .zip.")


def _refuse_large() -> NoReturn:
    raise TooLarge(f"This file is larger than {LARGEST_FILE // 2**20:,} MB; please give a smaller one.")


def _load(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        raise NotAnImage("This file cannot be opened; please check your rights.") from None


def is_zip(content: bytes) -> bool:
    """Whether the content begins like a .zip, an empty one included."""
    return content[:4] in (b"PK\x03\x04", b"PK\x05\x06")


def _list_zip(basket: Basket, archives: ExitStack, name: str, file: BinaryIO) -> None:
    """Put the files of a .zip into the basket, unopened; refuse all of it if a name in it leaves its folder."""
    basket.containers[name] = None
    try:
        archive = archives.enter_context(zipfile.ZipFile(file))
        entries = archive.infolist()
    except Exception:  # noqa: BLE001  zipfile raises BadZipFile, struct.error, UnicodeDecodeError and more on damaged archives
        basket.refuse(name, NotAnImage("This .zip is damaged or incomplete; please pack it again."))
        return
    if any(_leaves_folder(entry.filename) for entry in entries):
        reason = "This .zip holds a name that leads out of its own folder, as none made in good faith does; it was not opened."
        basket.refuse(name, UnsafeArchive(reason))
        return
    if any(entry.flag_bits & 0x1 for entry in entries):
        reason = "This .zip is locked with a password; please unpack it and give the files."
        basket.refuse(name, UnsupportedEncoding(reason))
        return
    counter = _ZipCounter(basket, packed=file.seek(0, os.SEEK_END))
    for entry in entries:
        if not entry.filename.endswith("/"):  # ZipInfo.is_dir fails on an empty name
            load = partial(counter.unpack, archive, entry)
            basket.add(File(f"{name}/{entry.filename}", load, is_named=False, container=name))


def _leaves_folder(name: str) -> bool:
    parts = re.split(r"[/\\]", name)
    return ".." in parts or name.startswith(("/", "\\")) or bool(re.match(r"[A-Za-z]:", name))


@dataclass(slots=True)
class _ZipCounter:
    """Counts what a .zip really unpacks to: the sizes in its directory may lie."""

    basket: Basket
    packed: int
    """Bytes of the .zip itself."""
    unpacked: int = 0

    def unpack(self, archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> bytes:
        if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise UnsupportedEncoding(
                "This file is packed by a method that is not read here; please pack the .zip again as usual."
            )
        chunks: list[bytes] = []
        size = 0
        try:
            with archive.open(entry) as member:
                while chunk := member.read(CHUNK):
                    size += len(chunk)
                    self._count(len(chunk), size)
                    chunks.append(chunk)
        except InputRefused:
            raise
        except Exception:  # noqa: BLE001  zipfile and zlib raise many things on damaged entries
            raise NotAnImage("This file is damaged inside its .zip; please pack it again.") from None
        return b"".join(chunks)

    def _count(self, more: int, size: int) -> None:
        self.unpacked += more
        self.basket.unpacked += more
        if self.unpacked > RATIO_COUNTS_FROM and self.unpacked > self.basket.most_ratio * self.packed:
            raise UnsafeArchive(
                f"This .zip unpacks to more than {self.basket.most_ratio} times its size, as none made in good faith does; the "
                "rest of it was not read."
            )
        if size > LARGEST_FILE:
            _refuse_large()
        if self.basket.unpacked > MOST_UNPACKED_BYTES:
            raise TooLarge(
                f"What was given unpacks to more than {MOST_UNPACKED_BYTES // 2**20:,} MB; the rest was not read. Please give "
                "one series at a time."
            )


def is_junk(name: str) -> bool:
    """Left by a system, a disc writer or version control, whatever it holds."""
    path = PurePosixPath(name.replace("\\", "/"))
    return path.name.lower() in _JUNK or path.name.startswith("._") or path.name == ".DS_Store" or "__MACOSX" in path.parts


def natural(name: str) -> list[tuple[int, int, str]]:
    """Sort key in which slice 9 comes before slice 10."""
    return [(0, int(part), part) if part.isdecimal() else (1, 0, part) for part in re.split(r"(\d+)", name) if part]

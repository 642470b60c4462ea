"""From what a user drops (bytes, files, folders, .zip) to ordered series, and a sentence for everything that was refused.

What a file is, is told by its content and never by its name. Nothing is ever written to disk: a .zip is opened in memory.
"""

import os
import re
import stat
import zipfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from io import BytesIO
from pathlib import Path, PurePosixPath
from typing import BinaryIO, NoReturn

import numpy as np

from ipfvision import dicom, images
from ipfvision.core.slice import Plane, Scale, Series, Slice
from ipfvision.errors import InputRefused, NotAnImage, TooLarge, UnsafeArchive, UnsupportedEncoding

MOST_FILES = 10_000
"""Files of one intake, those inside a .zip or a folder counted: a thin-slice chest CT has 300 to 1,000."""
LARGEST_FILE = 2**30
"""Bytes of one file, packed or not."""
MOST_UNPACKED_BYTES = 2**32
"""Bytes that all .zip of one intake may unpack to, counted while they unpack."""
MOST_RATIO = 100
"""Unpacked over packed size of one .zip. CT slices pack to a half or a third."""
RATIO_COUNTS_FROM = 2**26
"""Unpacked bytes from which the ratio counts: a small drawing of few grey values may well pack 500 to 1."""
MOST_PIXELS = 2**29
"""Pixels held of one intake: 2,048 slices of 512 x 512, which are 1.5 GB."""
CHUNK = 2**20

SAME_PLACE_MM = 0.01
"""Positions closer than this are one: scanners write them with 2 to 6 decimals."""
EVEN_SHARE = 0.1
"""Distances between slices are even if they differ from the usual one by less than this share of it."""

_JUNK = {"thumbs.db", "desktop.ini", "dicomdir", "autorun.inf", "lockfile"}
"""Left behind by systems and disc writers; never asked about by anybody."""
_IMAGE_ENDINGS = {".dcm", ".dicom", ".ima", ".png", ".jpg", ".jpeg"}
"""Someone meant such a file as an image, so that it is mentioned if it is none. It does not say what the file is."""
_COMPANIONS = (b"%PDF", b"MZ", b"\x7fELF", b"\xd0\xcf\x11\xe0", b"GIF8", b"\x1f\x8b", b"\xca\xfe\xba\xbe")
"""How the other things on a disc or in a data set begin: reports, viewer programs, icons, archives."""


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


@dataclass(frozen=True, slots=True)
class Intake:
    """What was read. One bad file never stops the others."""

    series: tuple[Series, ...]
    """Most slices first."""
    refusals: tuple[Refusal, ...]


Progress = Callable[[int, int], None]
"""Called with (done, total)."""


@dataclass(frozen=True, slots=True)
class _File:
    """One file that is still to be read."""

    name: str
    load: Callable[[], bytes]
    is_named: bool
    """The user named this very file. What lies in a folder or a .zip is passed over in silence if it is no image."""
    container: str | None = None
    """The folder or .zip in which it was found."""


class _Basket:
    """Everything found so far, and the limits over all of it."""

    def __init__(self) -> None:
        self.files: deque[_File] = deque()
        self.refusals: list[Refusal] = []
        self.containers: dict[str, None] = {}
        self.unpacked = 0
        self._count = 0

    def add(self, file: _File) -> None:
        self._count += 1
        if self._count <= MOST_FILES:
            self.files.append(file)
        elif self._count == MOST_FILES + 1:
            self.refuse(
                file.name, TooLarge(f"More than {MOST_FILES:,} files were given; this one and all after it were not read.")
            )

    def refuse(self, name: str, error: InputRefused) -> None:
        self.refusals.append(Refusal(name, str(error)))


def take_in(uploads: Iterable[Upload], progress: Progress | None = None) -> Intake:
    """Read uploads of any kind, by content and never by name; .zip files are opened in memory.

    Parameters
    ----------
    uploads
        DICOM, PNG, JPEG, or .zip of these. A .zip inside a .zip is not opened.
    progress
        Called after each file, those inside a .zip counted.

    Returns
    -------
    DICOM slices by Series Instance UID, along their normal; pictures folder by folder (all uploads without a folder are
    together), in the natural order of their names. Nothing is raised for what cannot be read: it is among the refusals.
    """
    basket = _Basket()
    with ExitStack() as archives:
        for upload in uploads:
            if _is_zip(upload.content):
                _list_zip(basket, archives, upload.name, BytesIO(upload.content))
            else:
                if upload.folder is not None:
                    basket.containers[upload.folder] = None
                load = partial(_content, upload)
                basket.add(_File(upload.name, load, is_named=upload.folder is None, container=upload.folder))
        return _read_all(basket, progress)


def take_in_paths(paths: Iterable[Path], progress: Progress | None = None) -> Intake:
    """The same for files and folders (searched recursively) on this machine.

    Links to folders are not followed. A file's name is its path as given, or below the folder as given.
    """
    basket = _Basket()
    with ExitStack() as archives:
        for path in paths:
            if path.is_dir():
                basket.containers[str(path)] = None
                for found in _walk(path):
                    _list_path(basket, archives, found, container=str(path))
            else:
                _list_path(basket, archives, path, container=None)
        return _read_all(basket, progress)


def _content(upload: Upload) -> bytes:
    return upload.content


def _walk(folder: Path) -> Iterator[Path]:
    for parent, folders, files in os.walk(folder):
        folders.sort(key=_natural)
        for name in sorted(files, key=_natural):
            yield Path(parent, name)


def _list_path(basket: _Basket, archives: ExitStack, path: Path, container: str | None) -> None:
    name = str(path)
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            _refuse_missing()
        with path.open("rb") as file:
            is_zip = _is_zip(file.read(4))
        if is_zip:
            if container is not None:
                basket.containers.pop(container, None)  # the .zip speaks for itself
            _list_zip(basket, archives, name, archives.enter_context(path.open("rb")))
        elif status.st_size > LARGEST_FILE:
            _refuse_large()
        else:
            basket.add(_File(name, partial(_load, path), is_named=container is None, container=container))
    except OSError:
        basket.refuse(name, NotAnImage("There is no such file, or it cannot be opened; please check its name and your rights."))
    except InputRefused as error:
        basket.refuse(name, error)


def _refuse_missing() -> NoReturn:
    raise NotAnImage("This is not a file; please give a CT slice, a folder or a .zip.")


def _refuse_large() -> NoReturn:
    raise TooLarge(f"This file is larger than {LARGEST_FILE // 2**20:,} MB; please give the slices one by one.")


def _load(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        raise NotAnImage("This file cannot be opened; please check your rights.") from None


def _is_zip(content: bytes) -> bool:
    return content[:4] in (b"PK\x03\x04", b"PK\x05\x06")


def _list_zip(basket: _Basket, archives: ExitStack, name: str, file: BinaryIO) -> None:
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
            basket.add(_File(f"{name}/{entry.filename}", load, is_named=False, container=name))


def _leaves_folder(name: str) -> bool:
    parts = re.split(r"[/\\]", name)
    return ".." in parts or name.startswith(("/", "\\")) or bool(re.match(r"[A-Za-z]:", name))


@dataclass(slots=True)
class _ZipCounter:
    """Counts what a .zip really unpacks to: the sizes in its directory may lie."""

    basket: _Basket
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
        if self.unpacked > RATIO_COUNTS_FROM and self.unpacked > MOST_RATIO * self.packed:
            raise UnsafeArchive(
                f"This .zip unpacks to more than {MOST_RATIO} times its size, as no CT series does; the rest of it was not "
                "read."
            )
        if size > LARGEST_FILE:
            _refuse_large()
        if self.basket.unpacked > MOST_UNPACKED_BYTES:
            raise TooLarge(
                f"What was given unpacks to more than {MOST_UNPACKED_BYTES // 2**20:,} MB; the rest was not read. Please give "
                "one series at a time."
            )


def _read_all(basket: _Basket, progress: Progress | None) -> Intake:
    total = len(basket.files)
    slices: list[Slice] = []
    pixels = 0
    useful: set[str | None] = {None}
    stopped: set[str | None] = set()
    for done in range(1, total + 1):
        file = basket.files.popleft()  # and with it the content, once it is read
        try:
            if file.container in stopped:
                continue
            if pixels > MOST_PIXELS:
                _refuse_rest()
            read = _read(file)
            slices.extend(read)
            pixels += sum(one.pixels.size for one in read)
            if read:
                useful.add(file.container)
        except (TooLarge, UnsafeArchive) as error:
            basket.refuse(file.name, error)
            useful.add(file.container)
            if isinstance(error, UnsafeArchive) or pixels > MOST_PIXELS or basket.unpacked > MOST_UNPACKED_BYTES:
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
            basket.refuse(name, NotAnImage("No DICOM, PNG or JPEG image was found in it; please give CT slices."))
    return Intake(tuple(_group(slices)), tuple(basket.refusals))


def _refuse_rest() -> NoReturn:
    raise TooLarge(
        f"More than {MOST_PIXELS // 2**18:,} slices of 512 x 512 were given; this one and those after it were not read. Please "
        "give one series at a time."
    )


def _read(file: _File) -> tuple[Slice, ...]:
    """The slices of one file; none if it is no image and nobody asked for it by name."""
    if not file.is_named and _is_junk(file.name):
        return ()
    content = file.load()
    if dicom.is_dicom(content):
        return dicom.read(content, file.name)
    if images.is_image(content):
        return (images.read(content, file.name),)
    if not file.is_named and _is_companion(file.name, content):
        return ()
    if not content:
        raise NotAnImage("This file is empty; please export it again.")
    if _is_zip(content):
        raise UnsupportedEncoding("This is a .zip inside a .zip, which is not opened; please give it by itself.")
    raise NotAnImage(
        "This file is neither DICOM, PNG, JPEG nor .zip, or its beginning is damaged; please give CT slices as they were "
        "exported."
    )


def _is_junk(name: str) -> bool:
    """Left by a system, a disc writer or version control, whatever it holds."""
    path = PurePosixPath(name.replace("\\", "/"))
    return path.name.lower() in _JUNK or path.name.startswith("._") or path.name == ".DS_Store" or "__MACOSX" in path.parts


def _is_companion(name: str, content: bytes) -> bool:
    """Text, reports and programs that lie beside images: licences, lists, viewers."""
    if PurePosixPath(name).suffix.lower() in _IMAGE_ENDINGS:
        return False
    if not content or content.startswith(_COMPANIONS):
        return True
    return b"\0" not in content[:4096]


def _natural(name: str) -> list[tuple[int, int, str]]:
    """Sort key in which slice 9 comes before slice 10."""
    return [(0, int(part), part) if part.isdecimal() else (1, 0, part) for part in re.split(r"(\d+)", name) if part]


def _group(slices: Sequence[Slice]) -> list[Series]:
    """Series of DICOM slices by UID, and of pictures by folder; most slices first."""
    by_uid: dict[str | None, list[Slice]] = {}
    by_folder: dict[str, list[Slice]] = {}
    for one in sorted(slices, key=lambda one: (_natural(one.source.file), one.source.frame or 0)):
        if one.scale is Scale.GREY:
            by_folder.setdefault(str(PurePosixPath(one.source.file.replace("\\", "/")).parent), []).append(one)
        else:
            by_uid.setdefault(one.source.series_instance_uid, []).append(one)
    series = [one for uid, members in by_uid.items() for one in _series(uid, members)]
    series += [_pictures(members) for members in by_folder.values()]
    return sorted(
        series, key=lambda one: (-len(one.slices), one.series_instance_uid or "", _natural(one.slices[0].source.file))
    )


def _pictures(members: list[Slice]) -> Series:
    notes = (
        ("These pictures have no position in the patient: they are in the order of their names.",) if len(members) > 1 else ()
    )
    return Series(tuple(members), None, notes)


def _series(uid: str | None, members: list[Slice]) -> list[Series]:
    """One series, or several if its slices are not of one size and direction."""
    stacks: list[list[Slice]] = []
    for one in (*(m for m in members if m.plane is not None), *(m for m in members if m.plane is None)):
        for stack in stacks:
            if stack[0].shape == one.shape and _same_direction(stack[0].plane, one.plane):
                stack.append(one)
                break
        else:
            stacks.append([one])
    series = [_ordered(uid, stack) for stack in stacks]
    notes = []
    if uid is None and len(members) > 1:
        notes.append(
            "The files do not say which series they belong to (Series Instance UID (0020,000E)): they were put together."
        )
    if len(stacks) > 1:
        notes.append(f"One series holds slices of different size or direction: it was split into {len(stacks)} stacks.")
    return [replace(one, notes=(*notes, *one.notes)) for one in series]


def _same_direction(first: Plane | None, second: Plane | None) -> bool:
    """Whether rows and columns run alike, to about one degree; a slice without a place goes with any."""
    if first is None or second is None:
        return True
    return float(np.dot(first.row, second.row)) > 0.9998 and float(np.dot(first.column, second.column)) > 0.9998


def _ordered(uid: str | None, stack: list[Slice]) -> Series:
    """Put slices in order along their normal (PS3.3 C.7.6.2.1.1), drop those given twice, and say what is uneven."""
    notes: list[str] = []
    kept = _without_repeats(stack, notes)
    placed = [one for one in kept if one.plane is not None]
    unplaced = [one for one in kept if one.plane is None]
    places: dict[int, float] = {}
    if placed:
        # One normal for all, and the same one whatever order the files came in: the mean.
        normal = np.mean([one.plane.normal for one in placed if one.plane is not None], axis=0)
        places = {id(one): float(normal @ np.asarray(one.plane.position)) for one in placed if one.plane is not None}
        placed.sort(key=lambda one: (round(places[id(one)] / SAME_PLACE_MM), *_tie(one)))
        notes += _spacing_notes([places[id(one)] for one in placed], placed[0].thickness_mm)
    unplaced.sort(key=_tie)
    if unplaced and placed:
        notes.append(f"{_slices(len(unplaced))} without a position (Image Position (Patient) (0020,0032)): at the end.")
    elif len(unplaced) > 1:
        notes.append(
            "The slices have no position (Image Position (Patient) (0020,0032)): they are in the order of their numbers."
        )
    return Series((*placed, *unplaced), uid, tuple(notes))


def _tie(one: Slice) -> tuple[int, int, str, str]:
    source = one.source
    return source.instance_number or 0, source.frame or 0, source.sop_instance_uid or "", source.pixel_sha256


def _without_repeats(stack: list[Slice], notes: list[str]) -> list[Slice]:
    kept: list[Slice] = []
    seen: set[tuple[object, ...]] = set()
    for one in stack:
        source = one.source
        plane = one.plane
        place = None if plane is None else tuple(round(value / SAME_PLACE_MM) for value in plane.position)
        marks: list[tuple[object, ...]] = []
        if source.sop_instance_uid is not None:
            marks.append(("uid", source.sop_instance_uid, source.frame, source.pixel_sha256))
        if place is not None:
            marks.append(("place", *place, source.pixel_sha256))
        if seen.isdisjoint(marks):
            kept.append(one)
        seen.update(marks)
    if repeats := len(stack) - len(kept):
        notes.append(f"{_slices(repeats)} given more than once (same pixels at the same place): one of each was kept.")
    uids = [(one.source.sop_instance_uid, one.source.frame) for one in kept if one.source.sop_instance_uid is not None]
    if len(set(uids)) < len(uids):
        notes.append("Different slices have the same SOP Instance UID (0008,0018): all were kept; the export may be damaged.")
    return kept


def _spacing_notes(places: list[float], thickness_mm: float | None) -> list[str]:
    """Sentences on slices at one place, uneven gaps, and gaps that no slice covers. `places` in mm, rising."""
    distances = np.diff(places)
    steps = distances[distances > SAME_PLACE_MM]
    notes = []
    if same := len(distances) - len(steps):
        notes.append(f"{_slices(same)} at the place of another one with other pixels: all were kept.")
    if not len(steps):
        return notes
    usual = float(np.median(steps))
    uneven = steps[np.abs(steps - usual) > EVEN_SHARE * usual]
    if len(uneven):
        found = sorted({round(float(step), 1) for step in uneven})
        listed = ", ".join(f"{step:g}" for step in found[:4]) + (" and others" if len(found) > 4 else "")
        notes.append(
            f"Uneven gaps: slices are mostly {usual:.3g} mm apart, but {len(uneven)} of {len(steps)} distances are {listed} mm."
        )
    if thickness_mm is not None and usual > 1.5 * thickness_mm:
        notes.append(
            f"Slices are {usual:.3g} mm apart and {thickness_mm:g} mm thick: what lies between them was not imaged or not "
            "given."
        )
    return notes


def _slices(count: int) -> str:
    return "1 slice is" if count == 1 else f"{count:,} slices are"

"""From what a user drops (bytes, files, folders, .zip) to ordered series, and a sentence for everything that was refused.

What a file is, is told by its content and never by its name. Nothing is ever written to disk: a .zip is opened in memory.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

import numpy as np

from ipfvision import dicom, images
from ipfvision.core.orientation import spine_in_front
from ipfvision.core.slice import Plane, Scale, Series, Slice
from ipfvision.errors import NotAnImage
from ipfvision.workflow.uploads import (
    Basket,
    File,
    Progress,
    Refusal,
    Upload,
    gather,
    gather_paths,
    is_junk,
    is_zip,
    natural,
    read_all,
    refuse_zip_in_zip,
)

MOST_RATIO = 100
"""Unpacked over packed size of one .zip. CT slices pack to a half or a third."""
MOST_PIXELS = 2**29
"""Pixels held of one intake: 2,048 slices of 512 x 512, which are 1.5 GB."""

SAME_PLACE_MM = 0.01
"""Positions closer than this are one: scanners write them with 2 to 6 decimals."""
EVEN_SHARE = 0.1
"""Distances between slices are even if they differ from the usual one by less than this share of it."""

_IMAGE_ENDINGS = {".dcm", ".dicom", ".ima", ".png", ".jpg", ".jpeg"}
"""Someone meant such a file as an image, so that it is mentioned if it is none. It does not say what the file is."""
_COMPANIONS = (b"%PDF", b"MZ", b"\x7fELF", b"\xd0\xcf\x11\xe0", b"GIF8", b"\x1f\x8b", b"\xca\xfe\xba\xbe")
"""How the other things on a disc or in a data set begin: reports, viewer programs, icons, archives."""

__all__ = ["Intake", "Progress", "Refusal", "Upload", "take_in", "take_in_paths"]


@dataclass(frozen=True, slots=True)
class Intake:
    """What was read. One bad file never stops the others."""

    series: tuple[Series, ...]
    """Most slices first."""
    refusals: tuple[Refusal, ...]


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
    with gather(uploads, MOST_RATIO) as basket:
        return _read_all(basket, progress)


def take_in_paths(paths: Iterable[Path], progress: Progress | None = None) -> Intake:
    """The same for files and folders (searched recursively) on this machine.

    Links to folders are not followed. A file's name is its path as given, or below the folder as given.
    """
    with gather_paths(paths, MOST_RATIO) as basket:
        return _read_all(basket, progress)


def _read_all(basket: Basket, progress: Progress | None) -> Intake:
    slices: list[Slice] = []

    def keep(file: File) -> int | None:
        read = _read(file)
        slices.extend(read)
        return sum(one.pixels.size for one in read) or None

    read_all(
        basket,
        keep,
        progress,
        most_pixels=MOST_PIXELS,
        too_many=f"More than {MOST_PIXELS // 2**18:,} slices of 512 x 512 were given; this one and those after it were not "
        "read. Please give one series at a time.",
        nothing_found="No DICOM, PNG or JPEG image was found in it; please give CT slices.",
    )
    return Intake(tuple(_group(slices)), tuple(basket.refusals))


def _read(file: File) -> tuple[Slice, ...]:
    """The slices of one file; none if it is no image and nobody asked for it by name."""
    if not file.is_named and is_junk(file.name):
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
    if is_zip(content):
        refuse_zip_in_zip()
    raise NotAnImage(
        "This file is neither DICOM, PNG, JPEG nor .zip, or its beginning is damaged; please give CT slices as they were "
        "exported."
    )


def _is_companion(name: str, content: bytes) -> bool:
    """Text, reports and programs that lie beside images: licences, lists, viewers."""
    if PurePosixPath(name).suffix.lower() in _IMAGE_ENDINGS:
        return False
    if not content or content.startswith(_COMPANIONS):
        return True
    return b"\0" not in content[:4096]


def _group(slices: Sequence[Slice]) -> list[Series]:
    """Series of DICOM slices by UID, and of pictures by folder; most slices first."""
    by_uid: dict[str | None, list[Slice]] = {}
    by_folder: dict[str, list[Slice]] = {}
    for one in sorted(slices, key=lambda one: (natural(one.source.file), one.source.frame or 0)):
        if one.scale is Scale.GREY:
            by_folder.setdefault(str(PurePosixPath(one.source.file.replace("\\", "/")).parent), []).append(one)
        else:
            by_uid.setdefault(one.source.series_instance_uid, []).append(one)
    series = [one for uid, members in by_uid.items() for one in _series(uid, members)]
    series += [_pictures(members) for members in by_folder.values()]
    return sorted(series, key=lambda one: (-len(one.slices), one.series_instance_uid or "", natural(one.slices[0].source.file)))


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
        if spine_in_front(placed):
            notes.append(
                "The spine lies where the files say the front of the patient is (Image Orientation (Patient) (0020,0037)): the "
                "letters beside the picture, and left and right with them, may be wrong: check them against the scanner's own "
                "pictures."
            )
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

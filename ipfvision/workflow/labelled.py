"""A collection of labelled CT pictures: a folder per class or a manifest.csv, who is in it, and how it is split.

With a manifest.csv: the columns file, label and patient, and if wanted annotation and use; files are relative to it, and a
member of an archive is written `archive.zip/member`. Without one: the sub-folders `ipf` and `normal`; their own sub-folders are
patients (`ipf/PATIENT/...`), and the patient of a file that lies directly in a class is not known.
"""

import csv
import zipfile
import zlib
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

import numpy as np

from ipfvision import dicom, images
from ipfvision.core.findings import TARGETS
from ipfvision.core.placement import stem
from ipfvision.core.slice import Series, Slice
from ipfvision.errors import InputRefused, NotAnImage, TooLarge, UnsupportedEncoding
from ipfvision.workflow.annotations import Annotated, take_in_annotations
from ipfvision.workflow.uploads import LARGEST_FILE, Refusal, Upload, is_junk, natural

USES = ("train", "validation", "test")
"""What a row's `use` may say; "test" is never looked at in training."""
VALIDATION_SHARE = 0.25
"""Of each class's patients, at least one."""
MANIFEST = "manifest.csv"


@dataclass(frozen=True, slots=True)
class LabelledPicture:
    """One picture of a collection, unopened."""

    file: str
    """Relative to the collection; `archive.zip/member` for a member of an archive."""
    label: str
    patient: str | None
    """The collection's own word for the patient; None where it says nothing."""
    annotation: str | None = None
    """File of what was annotated on it, relative to the collection."""
    use: str | None = None
    """One of `USES`; None leaves it to the split."""


@dataclass(frozen=True, slots=True)
class Split:
    """Who is trained on and who chooses the epoch."""

    training: tuple[LabelledPicture, ...]
    validation: tuple[LabelledPicture, ...]
    by_image: bool
    """Split without regard to patients, on purpose: every figure is inflated then."""


def read_collection(data: Path, labels: Collection[str] = TARGETS) -> list[LabelledPicture]:
    """List a collection's pictures without opening them.

    Parameters
    ----------
    data
        A folder, or a manifest itself.
    labels
        The labels that are taken, in lower case.

    Raises
    ------
    InputRefused
        Other labels, no pictures, a manifest without a column or with a file twice, a patient with more than one use.
    """
    if data.suffix.lower() == ".csv":
        found = _manifest(data)
    elif (data / MANIFEST).is_file():
        found = _manifest(data / MANIFEST)
    elif data.is_dir():
        found = _class_folders(data, labels)
    else:
        raise InputRefused(f"There is no folder {data.name}: give one with a manifest.csv, or with the folders ipf and normal.")
    _refuse_labels(Counter(picture.label for picture in found), labels)
    if not found:
        raise InputRefused(f"{data.name} holds no pictures: give at least two patients of each class.")
    files = Counter(picture.file for picture in found)
    twice = sum(many > 1 for many in files.values())
    if twice:
        raise InputRefused(f"The manifest names {twice} files more than once: give each picture one row.")
    _refuse_mixed_uses(found)
    return found


def _manifest(path: Path) -> list[LabelledPicture]:
    if not path.is_file():
        raise InputRefused(f"There is no {path.name}: it names each file with its label and patient.")
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = csv.DictReader(file)
            missing = [name for name in ("file", "label", "patient") if name not in (rows.fieldnames or ())]
            lines = list(rows)
    except (UnicodeDecodeError, csv.Error):
        raise InputRefused(f"{path.name} is not a table: save it as CSV in UTF-8.") from None
    if missing:
        raise InputRefused(
            f"{path.name} lacks the column {' and '.join(missing)}: it needs file, label and patient (left empty where it is "
            "not known)."
        )
    found = []
    for number, line in enumerate(lines, start=2):
        given = {name: (value or "").strip() for name, value in line.items() if isinstance(name, str)}
        if not any(given.values()):
            continue
        if not given["file"]:
            raise InputRefused(f"Line {number} of {path.name} names no file.")
        use = given.get("use", "").lower() or None
        if use not in (*USES, None):
            raise InputRefused(f"Line {number} of {path.name} has another use than {', '.join(USES)}: leave it empty to split.")
        found.append(
            LabelledPicture(
                file=given["file"].replace("\\", "/"),
                label=given["label"].lower(),
                patient=given["patient"] or None,
                annotation=given.get("annotation", "").replace("\\", "/") or None,
                use=use,
            )
        )
    return found


def _class_folders(data: Path, labels: Collection[str]) -> list[LabelledPicture]:
    folders = sorted(path for path in data.iterdir() if path.is_dir() and not path.name.startswith((".", "__")))
    files = {folder: _files(folder) for folder in folders}
    filled = {folder: names for folder, names in files.items() if names}
    _refuse_labels(Counter({folder.name.lower(): len(names) for folder, names in filled.items()}), labels)
    found = []
    for folder, names in filled.items():
        for name, mask in _with_masks(names):
            first, _, rest = name.partition("/")
            where = f"{folder.name}/"
            found.append(
                LabelledPicture(
                    file=where + name,
                    label=folder.name.lower(),
                    patient=first if rest and not first.endswith(".zip") else None,
                    annotation=None if mask is None else where + mask,
                )
            )
    return found


def _files(folder: Path) -> list[str]:
    """Everything below a folder that somebody put there, members of archives included."""
    found: list[str] = []
    for path in sorted(folder.rglob("*"), key=lambda one: natural(one.as_posix())):
        name = path.relative_to(folder).as_posix()
        if not path.is_file() or path.name.startswith(".") or is_junk(name):
            continue
        if path.suffix == ".zip":
            try:
                with zipfile.ZipFile(path) as archive:
                    members = [entry.filename for entry in archive.infolist() if not entry.filename.endswith("/")]
            except (OSError, zipfile.BadZipFile):
                members = []
            found += [f"{name}/{member}" for member in members if not is_junk(member)] or [name]
        else:
            found.append(name)
    return found


def _with_masks(names: Sequence[str]) -> Iterator[tuple[str, str | None]]:
    """Pictures, each with the file beside it that is named as its mask ("a.png", "a_mask.png"), if there is one."""
    plain = {(str(PurePosixPath(name).parent), PurePosixPath(name).stem.lower()) for name in names}
    masks = {}
    for name in names:
        place = (str(PurePosixPath(name).parent), stem(name))
        if PurePosixPath(name).stem.lower() != place[1] and place in plain:
            masks[place] = name
    taken = set(masks.values())
    for name in names:
        if name not in taken:
            yield name, masks.get((str(PurePosixPath(name).parent), PurePosixPath(name).stem.lower()))


def _refuse_labels(found: Mapping[str, int], labels: Collection[str]) -> None:
    others = sorted(label for label in found if label not in labels)
    if others:
        named = ", ".join(repr(label) for label in others[:8])
        raise InputRefused(
            f"The labels {named} were found, and only {' and '.join(labels)} are known: rename or leave out their pictures."
        )


def _refuse_mixed_uses(found: Sequence[LabelledPicture]) -> None:
    uses: defaultdict[str, set[str | None]] = defaultdict(set)
    for picture in found:
        if picture.patient is not None:
            uses[picture.patient].add(picture.use)
    mixed = sum(len(own) > 1 for own in uses.values())
    if mixed:
        raise InputRefused(
            f"{mixed} patients have pictures with more than one use: a patient is in training, in validation or in the test."
        )


def open_picture(data: Path, picture: LabelledPicture) -> Slice:
    """Read one picture, by its content as DICOM, PNG or JPEG.

    Raises
    ------
    InputRefused
        With a sentence, whatever is wrong with the file.
    """
    with ExitStack() as archives:
        return _read(Files(data, archives).content(picture.file), picture.file)


def open_pictures(data: Path, pictures: Sequence[LabelledPicture]) -> Iterator[tuple[LabelledPicture, Slice | Refusal]]:
    """Read pictures one at a time, each archive opened once; what cannot be read comes as a refusal and stops nothing."""
    with ExitStack() as archives:
        files = Files(data, archives)
        for picture in pictures:
            try:
                yield picture, _read(files.content(picture.file), picture.file)
            except InputRefused as error:
                yield picture, Refusal(picture.file, str(error))


class Files:
    """The bytes of a collection's files; archives stay open as long as the stack."""

    def __init__(self, data: Path, archives: ExitStack) -> None:
        self._folder = data.parent if data.suffix.lower() == ".csv" else data
        self._stack = archives
        self._archives: dict[str, zipfile.ZipFile] = {}

    def content(self, name: str) -> bytes:
        """All of one file; raises InputRefused if it is not there, damaged or too large."""
        archive, inside, member = name.partition(".zip/")
        try:
            if not inside:
                path = self._folder / name
                if path.stat().st_size > LARGEST_FILE:
                    raise TooLarge(f"This file is larger than {LARGEST_FILE // 2**20:,} MB.")
                return path.read_bytes()
            if archive not in self._archives:
                self._archives[archive] = self._stack.enter_context(zipfile.ZipFile(self._folder / f"{archive}.zip"))
            with self._archives[archive].open(member) as file:
                content = file.read(LARGEST_FILE + 1)
        except (OSError, KeyError):
            raise NotAnImage("The collection names this file, but it is not there or cannot be opened.") from None
        except (zipfile.BadZipFile, RuntimeError, NotImplementedError, EOFError, zlib.error):
            raise NotAnImage("This file is damaged or locked inside its .zip.") from None
        if len(content) > LARGEST_FILE:
            raise TooLarge(f"This file is larger than {LARGEST_FILE // 2**20:,} MB.")
        return content


def _read(content: bytes, name: str) -> Slice:
    if not dicom.is_dicom(content):
        return images.read(content, name)
    slices = dicom.read(content, name)
    if len(slices) > 1:
        raise UnsupportedEncoding(f"This DICOM file holds {len(slices)} slices, and one label cannot be that of all of them.")
    return slices[0]


def annotations_on(files: Files, picture: LabelledPicture, scan: Slice) -> Annotated:
    """What the picture's annotation file shows on its slice."""
    if picture.annotation is None:
        return Annotated({}, (), (), {})
    try:
        content = files.content(picture.annotation)
    except InputRefused as error:
        return Annotated({}, (Refusal(picture.annotation, str(error)),), (), {})
    return take_in_annotations([Upload(picture.annotation, content)], [Series((scan,))])


def groups(pictures: Sequence[LabelledPicture], *, split_images: bool) -> list[str]:
    """Whose each picture is, for splitting: the patient, or with `split_images` the picture itself.

    Raises
    ------
    InputRefused
        If a patient is not known and the split is not by image.
    """
    if split_images:
        return [picture.file for picture in pictures]
    unknown = sum(picture.patient is None for picture in pictures)
    if unknown:
        raise InputRefused(
            f"Of {unknown} of {len(pictures)} pictures the patient is not known, and neighboring slices of one patient on both "
            "sides of a split inflate every figure: name the patients, or give --split-images to split by image all the same."
        )
    return [str(picture.patient) for picture in pictures]


def by_label(pictures: Sequence[LabelledPicture], whose: Sequence[str]) -> dict[str, list[str]]:
    """The groups of each class, sorted; one that has pictures of both counts in both."""
    return {
        label: sorted({group for picture, group in zip(pictures, whose, strict=True) if picture.label == label})
        for label in TARGETS
    }


def split_collection(
    pictures: Sequence[LabelledPicture], seed: int, *, split_images: bool = False, share: float = VALIDATION_SHARE
) -> Split:
    """Split by patient within each class, or as the collection's `use` says; pictures for testing are in neither part.

    Parameters
    ----------
    split_images
        Split pictures, whoever's they are: said on everything that comes of it.

    Raises
    ------
    InputRefused
        If patients are not known, a class has only one, or a side would lack a class.
    """
    used = [picture for picture in pictures if picture.use != "test"]
    whose = groups(used, split_images=split_images)
    for label, own in by_label(used, whose).items():
        if len(own) < 2:
            count = sum(picture.label == label for picture in used)
            raise InputRefused(
                f"The class {label} has {len(own)} patient{'' if len(own) == 1 else 's'} ({count} pictures): at least two are "
                "needed, one to train on and one to choose the epoch."
            )
    if any(picture.use == "validation" for picture in used):
        if any(picture.use is None for picture in used):
            raise InputRefused("Some rows have a use and others none: say train, validation or test in every row, or in none.")
        chosen = {group for picture, group in zip(used, whose, strict=True) if picture.use == "validation"}
    else:
        chosen = _drawn(used, whose, np.random.default_rng((seed, 2)), share)
    training = tuple(picture for picture, group in zip(used, whose, strict=True) if group not in chosen)
    validation = tuple(picture for picture, group in zip(used, whose, strict=True) if group in chosen)
    for name, side in (("training", training), ("validation", validation)):
        for label in TARGETS:
            if not any(picture.label == label for picture in side):
                raise InputRefused(f"No picture of the class {label} would be in {name}: give more patients.")
    return Split(training, validation, by_image=split_images)


def _drawn(pictures: Sequence[LabelledPicture], whose: Sequence[str], rng: np.random.Generator, share: float) -> set[str]:
    """Draw a share of each class's groups, at least one and never all; a group with both classes counts as IPF."""
    own = by_label(pictures, whose)
    strata = (own["ipf"], [group for group in own["normal"] if group not in own["ipf"]])
    chosen: set[str] = set()
    for stratum in strata:
        if len(stratum) > 1:
            count = min(len(stratum) - 1, max(1, round(share * len(stratum))))
            chosen |= {stratum[index] for index in rng.permutation(len(stratum))[:count]}
    return chosen


def without_use(pictures: Sequence[LabelledPicture]) -> list[LabelledPicture]:
    """The same pictures without those for testing, free to be split anew."""
    return [replace(picture, use=None) for picture in pictures if picture.use != "test"]

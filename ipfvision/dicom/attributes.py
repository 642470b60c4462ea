"""Attributes of a DICOM object that may be damaged, read so that nothing is raised, warned or logged.

pydicom converts an element when it is first touched, and says what it thinks of the value: in exceptions, in warnings and in
its log, with the value itself, which may name a patient. Here a value that cannot be read is a value that is not there.
"""

import logging
import math
import threading
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from typing import Any

from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.filereader import read_dataset
from pydicom.multival import MultiValue
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian

from ipfvision.errors import NotAnImage, TooLarge

LONGEST_TEXT = 64
"""Characters kept of a text: the longest value that LO allows (PS3.5 6.2)."""
LARGEST_DATASET = 2**29
"""Bytes that a deflated data set may unpack to."""

# pydicom logs what it warns of, with values. Nothing of a patient may reach a log, whoever has set up logging.
logging.getLogger("pydicom").propagate = False

_lock = threading.RLock()


@contextmanager
def quiet() -> Iterator[None]:
    """Silence warnings while pydicom works. One thread at a time: Python's warning filters belong to the whole process."""
    with _lock, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


class Attributes:
    """Values by tag; None for what is absent, empty or unreadable. Use inside `quiet`."""

    def __init__(self, dataset: Dataset) -> None:
        self._dataset = dataset

    def __contains__(self, tag: int) -> bool:
        return tag in self._dataset

    def value(self, tag: int) -> Any:
        """Value as pydicom has it."""
        if tag not in self._dataset:
            return None
        try:
            return self._dataset[tag].value
        except Exception:  # noqa: BLE001  pydicom converts here and raises many things on damaged values
            return None

    def words(self, tag: int) -> tuple[str, ...]:
        """Every value as text, without control characters, at most `LONGEST_TEXT` long; empty if there is none."""
        value = self.value(tag)
        if value is None or isinstance(value, (bytes, Dataset)):
            return ()
        values = value if isinstance(value, (MultiValue, list, tuple)) else (value,)
        try:
            texts = [str(one) for one in values]
        except Exception:  # noqa: BLE001  as in `value`
            return ()
        return tuple("".join(c for c in text if c.isprintable())[:LONGEST_TEXT].strip() for text in texts)

    def text(self, tag: int) -> str | None:
        """All values as one text, joined by a backslash as in the file."""
        return "\\".join(self.words(tag))[:LONGEST_TEXT] or None

    def numbers(self, tag: int) -> tuple[float, ...]:
        """Every value as a finite number; empty if one of them is none."""
        value = self.value(tag)
        values = value if isinstance(value, (MultiValue, list, tuple)) else (value,)
        try:
            numbers = tuple(float(one) for one in values)
        except (TypeError, ValueError, OverflowError):
            return ()
        return numbers if all(math.isfinite(number) for number in numbers) else ()

    def number(self, tag: int) -> float | None:
        """First value as a finite number."""
        numbers = self.numbers(tag)
        return numbers[0] if numbers else None

    def integer(self, tag: int) -> int | None:
        """First value, if it is a whole number."""
        number = self.number(tag)
        return int(number) if number is not None and number.is_integer() else None

    def uid(self, tag: int) -> str | None:
        """Value, if it looks like a UID (PS3.5 9.1): digits and dots, and so nobody's name."""
        text = self.text(tag)
        return text if text and set(text) <= set("0123456789.") else None

    def items(self, tag: int) -> tuple["Attributes", ...]:
        """Items of a sequence."""
        value = self.value(tag)
        if value is None or isinstance(value, (str, bytes)):
            return ()
        try:
            return tuple(Attributes(item) for item in value if isinstance(item, Dataset))
        except TypeError:
            return ()

    def item(self, tag: int) -> "Attributes | None":
        """First item of a sequence."""
        items = self.items(tag)
        return items[0] if items else None


def is_dicom(content: bytes) -> bool:
    """Whether the content begins like DICOM: with its preamble, or at once with group 0002 or 0008 in either byte order."""
    if content[128:132] == b"DICM":
        return True
    group, element = content[:2], content[2:4]
    if group in (b"\x08\x00", b"\x02\x00"):
        return len(content) >= 12 and element[1:] == b"\0"
    return group == b"\x00\x08" and len(content) >= 12 and element[:1] == b"\0"


def parse(content: bytes) -> tuple[Dataset, str | None]:
    """Read the attributes of a DICOM file. Use inside `quiet`.

    Returns
    -------
    The data set, and its transfer syntax UID if the file names one.

    Raises
    ------
    NotAnImage
        If it cannot be read.
    TooLarge
        If a deflated data set unpacks to more than `LARGEST_DATASET`.
    """
    try:
        syntax, start = _meta(content)
        if syntax == DeflatedExplicitVRLittleEndian:
            # pydicom would inflate without a limit.
            data = _inflate(content[start:])
            return read_dataset(BytesIO(data), is_implicit_VR=False, is_little_endian=True), syntax
        dataset = dcmread(BytesIO(content), force=True)
        if syntax is None and dataset.original_encoding == (False, False):
            return dataset, ExplicitVRBigEndian  # no meta information: pydicom has looked at the first element
        return dataset, syntax
    except TooLarge:
        raise
    except Exception:  # noqa: BLE001  the one seam around pydicom's parser, which raises many things on damaged files
        raise NotAnImage(
            "This file begins like DICOM but cannot be read: it is damaged or incomplete; please export it again."
        ) from None


def _inflate(compressed: bytes) -> bytes:
    inflate = zlib.decompressobj(-zlib.MAX_WBITS)
    data = inflate.decompress(compressed, LARGEST_DATASET)
    if inflate.unconsumed_tail:
        raise TooLarge(
            "The data set of this file is compressed (Transfer Syntax UID (0002,0010)) and unpacks to more than "
            f"{LARGEST_DATASET:,} bytes; please export it again without compression."
        )
    return data


def _meta(content: bytes) -> tuple[str | None, int]:
    """Transfer Syntax UID (0002,0010) of the File Meta Information (PS3.10 7.1), and where the data set starts."""
    at = 132 if content[128:132] == b"DICM" else 0
    syntax = None
    while content[at : at + 2] == b"\x02\x00":
        if content[at + 4 : at + 6] in (b"OB", b"UN"):
            length, head = int.from_bytes(content[at + 8 : at + 12], "little"), 12
        else:
            length, head = int.from_bytes(content[at + 6 : at + 8], "little"), 8
        if content[at + 2 : at + 4] == b"\x10\x00":
            syntax = content[at + head : at + head + length].decode("ascii", "replace").strip("\0 ")
        at += head + length
    return syntax, at


def syntax_name(uid: str) -> str:
    """Name of a transfer syntax; the UID itself if it is not known, and nothing if it is not even a UID."""
    if not uid or not set(uid) <= set("0123456789."):
        return "an unreadable transfer syntax"
    return UID(uid).name

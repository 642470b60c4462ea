"""From what a user drops (bytes, files, folders, .zip) to ordered series, and a sentence for everything that was refused."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from ipfvision.core.slice import Series


@dataclass(frozen=True, slots=True)
class Upload:
    """One file as it came: `name` is the user's own word for it, used only to tell that user which file is meant."""

    name: str
    content: bytes


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


def take_in(uploads: Iterable[Upload], progress: Progress | None = None) -> Intake:
    """Read uploads of any kind, by content and never by name; .zip files are opened in memory."""
    raise NotImplementedError


def take_in_paths(paths: Iterable[Path], progress: Progress | None = None) -> Intake:
    """The same for files and folders (searched recursively) on this machine."""
    raise NotImplementedError

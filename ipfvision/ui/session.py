"""What one reader has open: the only place that touches Streamlit's session state and caches.

The model is shared between all readers. Scans, readings and pictures belong to one session and are in no cache; uploads stay in
memory, and their bytes are let go as soon as their pixels were taken in.

The routes (`ipfvision.ui.routes`) run outside of any script run and reach a desk by its token. The list of tokens holds desks
weakly: a token dies with its session, and no later than `server.disconnectedSessionTTL` after its tab was closed.
"""

import gc
import secrets
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from weakref import WeakValueDictionary

import cv2
import numpy as np
import numpy.typing as npt
import streamlit as st
from streamlit.runtime.memory_uploaded_file_manager import MemoryUploadedFileManager
from streamlit.runtime.scriptrunner import get_script_run_ctx
from streamlit.runtime.uploaded_file_manager import UploadedFile

from ipfvision.core.annotation import Annotation, Finding, Said
from ipfvision.core.findings import ModelCard
from ipfvision.core.overlay import display_grey
from ipfvision.core.run_lengths import decode
from ipfvision.core.slice import Series, Slice
from ipfvision.core.window import LUNG
from ipfvision.errors import ModelUnusable
from ipfvision.ui.markup import png
from ipfvision.workflow.intake import Progress, Refusal, Upload, take_in
from ipfvision.workflow.reading import METHODS, Reader, Reading
from ipfvision.workflow.samples import SampleScan, sample_annotations

THUMBNAIL_PIXELS = 240
MOST_RUNS = 16_000_000
"""Of all drawings of one session, in run lengths: 64 MB."""
_KEY = "ipfvision"


@dataclass(frozen=True, slots=True, eq=False)
class Opened:
    """What was taken in, in one go."""

    title: str
    series: tuple[Series, ...]
    refusals: tuple[Refusal, ...] = ()
    annotations: Mapping[str, Sequence[Annotation]] = field(default_factory=dict)
    """By the SHA-256 of the pixels that they belong to."""
    sample: SampleScan | None = None
    identity: str = field(default_factory=lambda: secrets.token_hex(4))
    """Part of the names that its series have on the wire: never used again, so no late answer lands on another scan."""

    def stack(self, series: int) -> str:
        """Name of a series on the wire."""
        return f"{self.identity}-{series}"

    def find_stack(self, name: str) -> int | None:
        """The series that goes by this name."""
        return next((series for series in range(len(self.series)) if self.stack(series) == name), None)


@dataclass(frozen=True, slots=True, eq=False)
class Seen:
    """A reading, small enough to keep for every slice of a long series."""

    reading: Reading
    """Without its `model_input`."""
    model_input_png: bytes | None
    """The image that the model saw; None if the slice was refused."""


@dataclass(frozen=True, slots=True, eq=False)
class Drawing:
    """What the reader drew on one slice."""

    revision: int = 0
    """Counts the times it was saved; 0 is "nothing drawn yet"."""
    findings: Mapping[Finding, npt.NDArray[np.uint32]] = field(default_factory=dict)
    """Run lengths (`ipfvision.core.run_lengths`)."""

    @property
    def length(self) -> int:
        return sum(len(runs) for runs in self.findings.values())


@dataclass(slots=True, eq=False, weakref_slot=True)
class Session:
    """One reader's desk."""

    token: str = field(default_factory=lambda: secrets.token_urlsafe(32), repr=False)
    """256 random bits: who knows them may fetch what is open."""
    session_id: str = ""
    """Streamlit's name for the session, once it is known."""
    opened: Opened | None = None
    count: int = 0
    """How often the desk was cleared: part of the keys of widgets that belong to what is open."""
    seen: dict[tuple[int, int, str], Seen] = field(default_factory=dict)
    """By series, slice and method."""
    card: ModelCard | None = None
    """Of the model, once this session has met it."""
    paused: bool = False
    """True after the reader stopped the reading of a series."""
    whole_folder: bool = False
    """The uploader asks for a folder instead of files."""
    drawings: dict[tuple[str, int], Drawing] = field(default_factory=dict)
    """By the series' name on the wire, and slice."""
    shown: dict[int, int] = field(default_factory=dict)
    """Index of the slice on screen, by series."""
    commands: int = 0
    """How often the page, and not the reader, chose the slice on screen."""

    def clear(self) -> None:
        """Forget everything that is open, everything that was read of it, and what waits in the uploader."""
        _let_go(self.upload_key)
        if self.opened is not None:
            _cleared.set()
        self.opened = None
        self.seen.clear()
        self.drawings.clear()
        self.shown.clear()
        self.paused = False
        self.count += 1

    @property
    def upload_key(self) -> str:
        """Key of the uploader: a new one each time makes it empty again."""
        return f"upload-{self.count}-{'folder' if self.whole_folder else 'files'}"

    def open(self, opened: Opened) -> None:
        self.clear()
        self.opened = opened

    def open_uploads(self, files: Sequence[UploadedFile], progress: Progress | None = None, folder: str | None = None) -> None:
        """Take in what was dropped, or a whole `folder` by that name, then let go of the files' bytes."""
        intake = take_in((Upload(file.name, file.getvalue(), folder) for file in files), progress)
        self.open(Opened("1 file" if len(files) == 1 else f"{len(files)} files", intake.series, intake.refusals))

    def open_sample(self, sample: SampleScan) -> None:
        """Open a sample scan, with the annotation that belongs to it."""
        intake = take_in([Upload(sample.path.name, sample.path.read_bytes())])
        annotations = {one.slices[0].source.pixel_sha256: sample_annotations(sample) for one in intake.series}
        self.open(Opened(sample.title, intake.series, intake.refusals, annotations, sample))

    def switch_input(self) -> None:
        """From files to a whole folder and back."""
        self.whole_folder = not self.whole_folder

    def pause(self) -> None:
        self.paused = True

    def resume(self) -> None:
        self.paused = False

    def length(self, series: int) -> int:
        """How many slices a series has."""
        return 0 if self.opened is None else len(self.opened.series[series].slices)

    def scan(self, series: int, index: int) -> Slice:
        """One slice of what is open. Raises ValueError if nothing is."""
        if self.opened is None:
            raise ValueError("nothing is open")
        return self.opened.series[series].slices[index]

    def on_screen(self, series: int) -> int:
        """Index of the slice on screen; a series opens in its middle."""
        return self.shown.get(series, self.length(series) // 2)

    def show(self, series: int, index: int | None) -> None:
        """Note on which slice scrolling came to rest; nothing for what is no index."""
        if index is not None and 0 <= index < self.length(series):
            self.shown[series] = index

    def go_to(self, series: int, index: int) -> None:
        """Make the viewer show this slice."""
        self.show(series, index)
        self.commands += 1

    def drawing(self, stack: str, index: int) -> Drawing:
        """What is drawn on a slice; an empty one, at revision 0, where nothing is."""
        return self.drawings.get((stack, index), Drawing())

    def draw(self, stack: str, index: int, drawing: Drawing) -> bool:
        """Keep a drawing; False, and nothing kept, if all drawings together would become too large."""
        others = sum(one.length for where, one in list(self.drawings.items()) if where != (stack, index))
        if others + drawing.length > MOST_RUNS:
            return False
        self.drawings[stack, index] = drawing
        return True

    def drawn(self, series: int, index: int) -> tuple[Annotation, ...]:
        """The reader's own annotations of a slice, one for each finding that has any pixel."""
        if self.opened is None:
            return ()
        shape, findings = self.scan(series, index).shape, self.drawing(self.opened.stack(series), index).findings
        return tuple(
            Annotation(decode(runs, shape), Said(finding, "reader", origin="drawn here", matched_by="drawn on this slice"))
            for finding, runs in findings.items()
            if len(runs) > 1
        )

    def readings(self, series: int, method: str = "gradcam") -> list[Reading]:
        """What was read of a series so far, in the order of its slices."""
        found = (self.any_reading(series, index, method) for index in range(self.length(series)))
        return [reading for reading in found if reading is not None]

    def any_reading(self, series: int, index: int, method: str = "gradcam") -> Reading | None:
        """A reading of this slice by `method`, or else by any other: all give the same answer, only their maps differ."""
        for name in (method, *METHODS):
            if (series, index, name) in self.seen:
                return self.seen[series, index, name].reading
        return None

    def read(self, series: int, index: int, method: str) -> Seen:
        """The reading of one slice, made at most once. Raises ModelUnusable."""
        key = series, index, method
        if key not in self.seen:
            reading = model().read(self.scan(series, index), method)
            saw = None if reading.model_input is None else png(np.rint(reading.model_input * 255).astype(np.uint8))
            self.seen[key] = Seen(replace(reading, model_input=None), saw)
        return self.seen[key]


def current() -> Session:
    """Find or make the session of the reader whose script run this is."""
    if _KEY not in st.session_state:
        st.session_state[_KEY] = Session()
    session: Session = st.session_state[_KEY]
    context = get_script_run_ctx()
    if context is not None:
        session.session_id = context.session_id
    _by_token[session.token] = session
    return session


_by_token: WeakValueDictionary[str, Session] = WeakValueDictionary()
_cleared = threading.Event()
"""Some desk was cleared since the last collection."""
_ended: dict[str, float] = {}
"""By token, when a session was first seen without its tab."""


def find(token: str) -> Session | None:
    """The desk with this token. How long that takes says nothing about any token."""
    given, found = token.encode(), None
    for known, desk in list(_by_token.items()):
        if secrets.compare_digest(known.encode(), given):
            found = desk
    return found


def release_ended(is_active: Callable[[str], bool], patience_seconds: float) -> None:
    """Clear the desks whose tab has been gone for as long as Streamlit lets a tab come back, and forget their tokens.

    Parameters
    ----------
    is_active
        Says of a Streamlit session whether a tab is connected to it.
    """
    now = time.monotonic()
    for token, desk in list(_by_token.items()):
        if is_active(desk.session_id):
            _ended.pop(token, None)
        elif now - _ended.setdefault(token, now) > patience_seconds:
            del _by_token[token]
            desk.clear()
    for token in _ended.keys() - _by_token.keys():
        del _ended[token]


def collect_cleared() -> None:
    """Free the scans of cleared desks now.

    Streamlit ends a script run by raising through it, so frames and exceptions hold each other and what the run had in hand.
    Python looks for such rings by the number of objects, and a stack of 200 MB is few objects.
    """
    if _cleared.is_set():
        _cleared.clear()
        gc.collect()


@st.cache_resource(show_spinner=False)
def model() -> Reader:
    """The model, once for all readers. Raises ModelUnusable."""
    return Reader.open()


def card_or_reason() -> tuple[ModelCard | None, str]:
    """The card of the model, or the sentence that says why there is no model."""
    desk = current()
    try:
        desk.card = model().card
        return desk.card, ""
    except ModelUnusable as error:
        return None, str(error)


@cache
def thumbnail(sample: SampleScan) -> bytes:
    """The middle slice of a sample scan, small, as PNG. Drawn by the program itself, so it may be kept for everybody."""
    intake = take_in([Upload(sample.path.name, sample.path.read_bytes())])
    slices = intake.series[0].slices
    shown = display_grey(slices[len(slices) // 2], LUNG)
    height, width = shown.shape
    small = cv2.resize(shown, (THUMBNAIL_PIXELS, THUMBNAIL_PIXELS * height // width), interpolation=cv2.INTER_AREA)
    return png(np.asarray(small, np.uint8))


def _let_go(upload_key: str) -> None:
    """Drop the bytes of uploads: Streamlit would keep them until the session ends."""
    context = get_script_run_ctx()
    if context is not None and isinstance(context.uploaded_file_mgr, MemoryUploadedFileManager):
        for file in st.session_state.get(upload_key) or ():
            context.uploaded_file_mgr.remove_file(session_id=context.session_id, file_id=file.file_id)

"""What one reader has open: the only place that touches Streamlit's session state and caches.

The model is shared between all readers. Scans, readings and pictures belong to one session and are in no cache; uploads stay in
memory, and their bytes are let go as soon as their pixels were taken in.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache

import cv2
import numpy as np
import streamlit as st
from streamlit.runtime.memory_uploaded_file_manager import MemoryUploadedFileManager
from streamlit.runtime.scriptrunner import get_script_run_ctx
from streamlit.runtime.uploaded_file_manager import UploadedFile

from ipfvision.core.annotation import Annotation
from ipfvision.core.findings import ModelCard
from ipfvision.core.overlay import display_grey
from ipfvision.core.slice import Series
from ipfvision.core.window import LUNG
from ipfvision.errors import ModelUnusable
from ipfvision.ui.markup import png
from ipfvision.workflow.intake import Progress, Refusal, Upload, take_in
from ipfvision.workflow.reading import METHODS, Reader, Reading
from ipfvision.workflow.samples import SampleScan, sample_annotations

THUMBNAIL_PIXELS = 240
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


@dataclass(frozen=True, slots=True, eq=False)
class Seen:
    """A reading, small enough to keep for every slice of a long series."""

    reading: Reading
    """Without its `model_input`."""
    model_input_png: bytes | None
    """The image that the model saw; None if the slice was refused."""


@dataclass(slots=True)
class Session:
    """One reader's desk."""

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

    def clear(self) -> None:
        """Forget everything that is open, everything that was read of it, and what waits in the uploader."""
        _let_go(self.upload_key)
        self.opened = None
        self.seen.clear()
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
            if self.opened is None:
                raise ValueError("nothing is open")
            reading = model().read(self.opened.series[series].slices[index], method)
            saw = None if reading.model_input is None else png(np.rint(reading.model_input * 255).astype(np.uint8))
            self.seen[key] = Seen(replace(reading, model_input=None), saw)
        return self.seen[key]


def current() -> Session:
    """Find or make the session of the reader whose script run this is."""
    if _KEY not in st.session_state:
        st.session_state[_KEY] = Session()
    session: Session = st.session_state[_KEY]
    return session


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

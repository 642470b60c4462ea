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
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field, replace
from functools import cache
from typing import TypeVar
from weakref import WeakValueDictionary

import cv2
import numpy as np
import numpy.typing as npt
import streamlit as st
from streamlit.runtime import Runtime
from streamlit.runtime.memory_uploaded_file_manager import MemoryUploadedFileManager
from streamlit.runtime.scriptrunner import get_script_run_ctx
from streamlit.runtime.uploaded_file_manager import UploadedFile

from ipfvision.core.annotation import Annotation, Finding, OnSlice, Said
from ipfvision.core.findings import ModelCard
from ipfvision.core.marks import as_annotations
from ipfvision.core.overlay import display_grey
from ipfvision.core.run_lengths import decode
from ipfvision.core.slice import Series, Slice
from ipfvision.core.trust import Trust
from ipfvision.core.window import LUNG
from ipfvision.errors import ModelUnusable
from ipfvision.ui.markup import png
from ipfvision.workflow.annotations import Annotated, split_uploads, take_in_annotations
from ipfvision.workflow.intake import take_in
from ipfvision.workflow.reading import METHODS, Reader, Reading
from ipfvision.workflow.samples import SampleScan, sample_annotations
from ipfvision.workflow.scoring import Scored, score
from ipfvision.workflow.series import SeriesReading
from ipfvision.workflow.studies import Studies
from ipfvision.workflow.trust import Step, checking
from ipfvision.workflow.uploads import Progress, Refusal, Upload

THUMBNAIL_PIXELS = 240
CLICK_SECONDS = 0.1
"""A click is heard that soon while the model loads."""
MOST_RUNS = 16_000_000
"""Of all drawings of one session, in run lengths: 64 MB."""
_KEY = "ipfvision"
_T = TypeVar("_T")


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


@dataclass(frozen=True, slots=True, eq=False)
class Check:
    """The checks of one map, under way: a script run that ends leaves them where they are, and the next one goes on."""

    key: str
    """`ipfvision.workflow.trust.trust_key`."""
    steps: Generator[Step, None, Trust]


@dataclass(frozen=True, slots=True, eq=False)
class UnderWay:
    """A series that is read in the background: script runs come and go, and take what was read."""

    series: int
    reading: SeriesReading


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

    annotated: Annotated | None = None
    """What annotation files say of what is open."""
    with_marks: bool = False
    """Marks that were found on the pictures count as annotations."""
    wanted: tuple[str, ...] = ()
    """Names of the annotations that are shown and compared with (`annotation_name`); all of them if there is none."""
    annotation_version: int = 0
    """Grows with every change of what annotations there are, and which of them count."""
    scores: dict[tuple[object, ...], Scored] = field(default_factory=dict)
    """By series, slice and what was compared."""
    choices: int = 0
    """How often the choice of annotations was forgotten: part of the keys of its widgets."""
    trust: dict[str, Trust] = field(default_factory=dict)
    """By `ipfvision.workflow.trust.trust_key`."""
    check: Check | None = None
    """Checks that are under way."""
    check_wanted: str = ""
    """Key of the checks that were asked for and have not begun."""
    under_way: UnderWay | None = None
    """The reading of a series."""
    scans: tuple[Series, ...] = ()
    """Of a study: what was dropped for it so far, of which one case at a time is open."""
    on_drawn: Callable[[], None] | None = None
    """Brings a drawing that was just taken to where it is kept, before the browser is told that it is saved. None: drawings
    live as long as the desk. A route calls it, in a thread of its own; it raises StudyProblem."""

    on_leave: Callable[[], None] | None = None
    """Forgets what was made of the scans beside the desk, when nobody sits here any more."""

    def clear(self) -> None:
        """Forget everything that is open, everything that was read of it, and what waits in the uploaders."""
        let_go(self.upload_key)
        let_go(self.annotation_key)
        self.forget_annotations()
        self.with_marks = False
        self.trust.clear()
        self.check, self.check_wanted = None, ""
        if self.under_way is not None:
            self.under_way.reading.cancel()
            self.under_way = None
        if self.opened is not None:
            _cleared.set()
        self.opened = None
        self.seen.clear()
        self.drawings.clear()
        self.shown.clear()
        self.paused = False
        self.count += 1

    def leave(self) -> None:
        """Forget that, and everything else that holds a scan: nobody sits here any more."""
        if self.scans:
            _cleared.set()
        self.clear()
        self.scans, self.on_drawn = (), None
        if self.on_leave is not None:
            self.on_leave()
        if Runtime.exists():  # what waits in the uploaders; `let_go` knows those of a script run only
            Runtime.instance().uploaded_file_mgr.remove_session_files(self.session_id)

    @property
    def upload_key(self) -> str:
        """Key of the uploader: a new one each time makes it empty again."""
        return f"upload-{self.count}-{'folder' if self.whole_folder else 'files'}"

    @property
    def annotation_key(self) -> str:
        """Key of the uploader for annotations."""
        return f"annotations-{self.count}-{self.annotation_version}"

    def open(self, opened: Opened) -> None:
        self.clear()
        self.opened = opened

    def open_uploads(self, files: Sequence[UploadedFile], progress: Progress | None = None, folder: str | None = None) -> None:
        """Take in what was dropped, or a whole `folder` by that name, then let go of the files' bytes.

        Scans and annotations that were dropped together go their ways.
        """
        scans, annotations = split_uploads(Upload(file.name, file.getvalue(), folder) for file in files)
        intake = take_in(scans, progress)
        annotated = take_in_annotations(annotations, intake.series) if annotations else None
        refusals = intake.refusals if annotated is None or intake.series else (*intake.refusals, *annotated.refusals)
        self.open(Opened("1 file" if len(files) == 1 else f"{len(files)} files", intake.series, refusals))
        self.annotated = annotated

    def add_annotations(self, files: Sequence[UploadedFile], progress: Progress | None = None) -> None:
        """Take in annotation files for what is open, beside those that are there, then let go of the files' bytes."""
        series = () if self.opened is None else self.opened.series
        found = take_in_annotations([Upload(file.name, file.getvalue()) for file in files], series, progress)
        let_go(self.annotation_key)
        self.annotated = found if self.annotated is None else self.annotated.joined(found)
        self._annotations_changed()

    def forget_annotations(self) -> None:
        """Let go of what annotation files said; what was drawn here, and marks on the picture, stay."""
        self.annotated, self.wanted = None, ()
        self.choices += 1
        self._annotations_changed()

    def _annotations_changed(self) -> None:
        self.scores.clear()
        self.annotation_version += 1

    def open_sample(self, sample: SampleScan) -> None:
        """Open a sample scan, with the annotation that belongs to it."""
        intake = take_in([Upload(sample.path.name, sample.path.read_bytes())])
        annotations = {one.slices[0].source.pixel_sha256: sample_annotations(sample) for one in intake.series}
        self.open(Opened(sample.title, intake.series, intake.refusals, annotations, sample))

    def switch_input(self) -> None:
        """From files to a whole folder and back."""
        self.whole_folder = not self.whole_folder

    def pause(self) -> None:
        """Stop the reading of the series; what was read stays."""
        self.paused = True
        self._stop_series()

    def resume(self) -> None:
        self.paused = False

    def go_on(self, series: int, method: str) -> SeriesReading | None:
        """The reading of a series in the background, begun if it is not under way; None if every slice is read.

        A slice that has an answer is not read again by another method until it is looked at.
        """
        self.take()
        under_way = self.under_way
        if under_way is not None and (under_way.series, under_way.reading.method) != (series, method):
            self._stop_series()
        if self.under_way is None:
            left = {n: self.scan(series, n) for n in range(self.length(series)) if self.any_reading(series, n) is None}
            if not left:
                return None
            self.under_way = UnderWay(series, SeriesReading(model(), left, method))
        return self.under_way.reading

    def take(self, timeout: float = 0.0) -> None:
        """Keep what was read in the background; wait for it as many seconds if there is nothing."""
        under_way = self.under_way
        if under_way is None:
            return
        reading = under_way.reading
        try:
            for index, found in reading.take(timeout):
                self._keep(under_way.series, index, reading.method, found)
        finally:
            if reading.ended:
                self.under_way = None

    def _stop_series(self) -> None:
        if self.under_way is not None:
            self.under_way.reading.cancel()
            self.take()
        self.under_way = None

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

    def from_files(self, series: int, index: int) -> tuple[OnSlice, ...]:
        """What annotation files, the sample itself, or marks on the picture say of a slice."""
        opened, annotated = self.opened, self.annotated
        if opened is None:
            return ()
        own = opened.annotations.get(opened.series[series].slices[index].source.pixel_sha256, ())
        given = () if annotated is None else annotated.by_slice.get((series, index), ())
        reading = self.any_reading(series, index) if self.with_marks else None
        found = (*own, *given, *(() if reading is None else as_annotations(reading.marks)))
        return tuple(one for one in found if not self.wanted or annotation_name(one) in self.wanted)

    def annotations(self, series: int, index: int) -> tuple[OnSlice, ...] | None:
        """Everything that is annotated on a slice; None if nothing is annotated anywhere in what is open."""
        if self.opened is None or not (self.opened.annotations or self.annotated or self.drawings or self.with_marks):
            return None
        drawn = (one for one in self.drawn(series, index) if not self.wanted or annotation_name(one) in self.wanted)
        return (*self.from_files(series, index), *drawn)

    def want(self, names: Sequence[str]) -> None:
        """Show and compare with these annotations only; with all of them if none is named."""
        self.wanted = tuple(names)
        self._annotations_changed()

    def names(self) -> tuple[str, ...]:
        """How the annotations of what is open are called, chosen or not: findings first, then other words by the alphabet."""
        if self.opened is None:
            return ()
        files = () if self.annotated is None else self.annotated.by_slice.values()
        marks = (as_annotations(reading.marks) for reading in self.every_reading()) if self.with_marks else ()
        every = (one for those in (*self.opened.annotations.values(), *files, *marks) for one in those)
        order = {annotation_name(one): (list(Finding).index(one.said.finding), one.said.label.casefold()) for one in every}
        # Not decoded: only what they are called is asked.
        for drawing in self.drawings.values():
            for finding, runs in drawing.findings.items():
                if len(runs) > 1:
                    order.setdefault(finding.value, (list(Finding).index(finding), ""))
        return tuple(sorted(order, key=lambda name: (order[name], name)))

    def compare_with_marks(self, wanted: bool) -> None:
        """Whether marks that were found on the pictures count as annotations."""
        self.with_marks = wanted
        self._annotations_changed()

    def score(self, series: int, index: int, reading: Reading) -> Scored:
        """Scores of a reading against the annotations of its slice, made once for each choice of them."""
        key = self._score_key(series, index, reading)
        if key not in self.scores:
            self.scores[key] = score(reading, self.annotations(series, index))
        return self.scores[key]

    def is_scored(self, series: int, index: int, reading: Reading) -> bool:
        """Whether `score` has its answer ready."""
        return self._score_key(series, index, reading) in self.scores

    def _score_key(self, series: int, index: int, reading: Reading) -> tuple[object, ...]:
        revision = 0 if self.opened is None else self.drawing(self.opened.stack(series), index).revision
        method = reading.explanations["ipf"].method if reading.explanations else ""
        return series, index, method, self.annotation_version, revision, bool(self.drawings)

    def ask_check(self, key: str) -> None:
        """Somebody wants a map to be checked."""
        self.check_wanted = key

    def begin_check(self, key: str, reading: Reading, given: Sequence[OnSlice], target: str) -> None:
        """Begin to check a map; checks of another one that are under way are given up."""
        self.check, self.check_wanted = Check(key, self._checking(model(), reading, given, target)), ""

    def _checking(
        self, reader: Reader, reading: Reading, given: Sequence[OnSlice], target: str
    ) -> Generator[Step, None, Trust]:
        method = next((one.method for one in reading.explanations.values()), "gradcam")
        # The image that the model saw was not kept: it is read again.
        steps = checking(reader, reader.read(reading.scan, method), given, target)
        while True:
            with reader.turn():
                try:
                    step = next(steps)
                except StopIteration as end:
                    trust: Trust = end.value
                    return trust
            yield step

    def give_up_check(self) -> None:
        self.check = None

    def every_reading(self) -> Iterator[Reading]:
        """One reading of each slice that was read."""
        if self.opened is not None:
            for series in range(len(self.opened.series)):
                yield from self.readings(series)

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
            if self.under_way is not None and self.under_way.series == series:
                self.under_way.reading.leave_out(index)
            self._keep(series, index, method, model().read(self.scan(series, index), method, urgent=True))
        return self.seen[key]

    def _keep(self, series: int, index: int, method: str, reading: Reading) -> None:
        saw = None if reading.model_input is None else png(np.rint(reading.model_input * 255).astype(np.uint8))
        self.seen[series, index, method] = Seen(replace(reading, model_input=None), saw)


def annotation_name(one: OnSlice) -> str:
    """How an annotation is called on the page: its finding, and its own label where that says more."""
    said = one.said
    if said.finding is Finding.OTHER and said.label:
        return said.label
    known = not said.label or said.label.casefold() in said.finding.value.casefold()
    return said.finding.value if known else f"{said.finding.value} ({said.label})"


def current() -> Session:
    """Find or make the session of the reader whose script run this is."""
    return seat(once(_KEY, Session))


def once(name: str, make: Callable[[], _T]) -> _T:
    """Something of this reader's session: made at the first call, and found again at every other."""
    if name not in st.session_state:
        st.session_state[name] = make()
    found: _T = st.session_state[name]
    return found


def seed(key: str, value: object) -> None:
    """What a widget shows if Streamlit knows nothing better: it forgets a choice that was made just before `st.rerun`."""
    if value is not None and st.session_state.get(key) is None:
        st.session_state[key] = value


def seat(desk: Session) -> Session:
    """Let the routes find a desk of this reader's, for as long as the tab is there."""
    context = get_script_run_ctx()
    if context is not None:
        desk.session_id = context.session_id
    _by_token[desk.token] = desk
    return desk


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
            desk.leave()
    for token in _ended.keys() - _by_token.keys():
        del _ended[token]


def collect_cleared() -> None:
    """Free the scans of cleared desks now.

    Streamlit ends a script run by raising through it, so frames and exceptions hold each other and what the run had in hand.
    Python looks for such rings by the number of objects, and a stack of 200 MB is few objects.
    """
    if _cleared.is_set():
        _cleared.clear()
        gc.unfreeze()
        gc.collect()
        gc.freeze()


def model() -> Reader:
    """The model, once for all readers. Raises ModelUnusable.

    While it loads, which takes seconds, a click is heard: it ends the script run that waits here.
    """
    coming = loading()
    while not wait([coming], CLICK_SECONDS).done:
        _hear_click()
    try:
        return coming.result()
    except ModelUnusable:
        loading.clear()  # the next call tries again
        raise


@st.cache_resource(show_spinner=False)
def loading() -> "Future[Reader]":
    """The model, on its way."""
    return _loader.submit(_load)


_loader = ThreadPoolExecutor(1, "model")


def _load() -> Reader:
    opened = Reader.open()
    # Streamlit looks through all objects after each script run. With torch's among them that takes 0.2 s and finds nothing.
    # What lives now is left out from here on, until `collect_cleared` looks through everything.
    gc.collect()
    gc.freeze()
    return opened


def _hear_click() -> None:
    """End this script run if the reader has done something meanwhile; else nothing."""
    _ = _KEY in st.session_state


@st.cache_resource(show_spinner=False)
def studies() -> Studies:
    """The studies, once for all readers. Raises StoreUnavailable; that is not remembered, so the next call tries again."""
    return Studies.open()


def signed_in() -> tuple[bool, str]:
    """Whether readers sign in here, and as whom; empty while nobody is. Without a sign-in a name is typed in."""
    user = st.user
    if "is_logged_in" not in user:
        return False, ""
    if not user["is_logged_in"]:
        return True, ""
    return True, next((str(user[name]) for name in ("email", "name", "sub") if user.get(name)), "")


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


def let_go(upload_key: str) -> None:
    """Drop the bytes of uploads: Streamlit would keep them until the session ends."""
    context = get_script_run_ctx()
    if context is not None and isinstance(context.uploaded_file_mgr, MemoryUploadedFileManager):
        # Not `st.session_state.get`: a click that comes just then would end the script run there, with all that it has begun.
        for file in st.session_state.to_dict().get(upload_key) or ():
            context.uploaded_file_mgr.remove_file(session_id=context.session_id, file_id=file.file_id)

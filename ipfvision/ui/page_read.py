"""Page "Read": drop a slice or a series, see what the model says of it, and where that comes from."""

import json
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from ipfvision.core.annotation import OnSlice
from ipfvision.core.findings import ModelCard
from ipfvision.core.slice import Scale, Series, Slice
from ipfvision.ui import compare, markup, routes, session
from ipfvision.ui.session import Opened, Seen, Session
from ipfvision.ui.slot import Slot
from ipfvision.ui.viewer import rested_on, viewer, wire
from ipfvision.workflow.reading import METHODS, Reading, picture_png
from ipfvision.workflow.samples import list_samples
from ipfvision.workflow.scoring import scored_result
from ipfvision.workflow.series import left_words

SAMPLES_IN_A_ROW = 5
REDRAW_SECONDS = 1.0
"""Between two script runs while a series is read: the viewer then gets what was found."""
MOST_DRAWING = 0.1
"""Share of the time that script runs may take meanwhile: the cores are wanted for reading."""
BAR_SECONDS = 0.25
"""Between two drawings of the progress bar, at which a click is heard."""
NO_HU = "This image has no Hounsfield units, which PNG and JPEG files do not have: only brightness and contrast can be set."
TARGET = "ipf"
"""The class whose evidence the downloads show."""


def draw(banner: Slot) -> None:
    """Draw the page; `banner` is the slot of the permanent sentence, which names the model's status once it is known."""
    desk = session.current()
    with st.sidebar:
        st.title("ipfvision", anchor=False)
        _input(desk)
    # In one place, so that it goes at once when a scan comes: what a new run has not replaced yet would push the images down.
    start = st.empty()
    if desk.opened is not None and desk.opened.series:
        start.empty()
        _read(desk, desk.opened, banner)
        return
    with start.container():
        if desk.opened is None:
            st.html(markup.welcome())
        else:
            st.html(markup.nothing_read([(refusal.file, refusal.reason) for refusal in desk.opened.refusals]))
        _samples(desk)
    # The reader is looking for a file now: a good moment to load the model.
    card, _ = session.card_or_reason()
    banner.html(markup.banner(card))


def _input(desk: Session) -> None:
    files = st.file_uploader(
        "Open CT slices",
        accept_multiple_files="directory" if desk.whole_folder else True,
        key=desk.upload_key,
        help="DICOM, PNG, JPEG, or a .zip of a series; many files at once. What a file is, is read from its content, not from "
        "its name. Files stay in memory and are never written to disk.",
    )
    st.toggle("A whole folder", key="whole-folder", on_change=desk.switch_input, help="Choose a folder instead of files.")
    if files:
        bar = st.progress(0.0, "Taking in files")
        st.button("Cancel", key="cancel-intake", on_click=desk.clear, width="stretch")
        folder = "The folder" if desk.whole_folder else None
        desk.open_uploads(files, lambda done, total: _show(bar, "Taking in file", done, total), folder)
        st.rerun()
    if desk.opened is not None:
        opened = desk.opened
        count = sum(len(series.slices) for series in opened.series)
        expected = None if opened.sample is None else opened.sample.expected
        st.html(markup.now_open(opened.title, count, len(opened.refusals), expected))
        st.button("Close and forget", key="close", on_click=desk.clear, width="stretch", icon=":material/close:")


def _show(bar: DeltaGenerator, what: str, done: int, total: int) -> None:
    bar.progress(min(1.0, done / max(1, total)), f"{what} {done} of {total}")


def _samples(desk: Session) -> None:
    """The sample scans, as pictures to press."""
    samples = list_samples()
    if not samples:
        return
    with st.container(key="samples"):
        st.html(markup.samples_heading())
        columns = st.columns(SAMPLES_IN_A_ROW)
        for number, sample in enumerate(samples):
            with columns[number % SAMPLES_IN_A_ROW]:
                st.html(markup.thumbnail(session.thumbnail(sample), sample.title))
                key = f"sample-{sample.path.stem}"
                st.button(sample.title, key=key, on_click=desk.open_sample, args=(sample,), width="stretch", wrap=True)


@dataclass(frozen=True, slots=True)
class Here:
    """The slice on screen."""

    desk: Session
    opened: Opened
    chosen: int
    """Index of the series."""
    index: int
    """Index of the slice in its series."""

    @property
    def series(self) -> Series:
        return self.opened.series[self.chosen]

    @property
    def scan(self) -> Slice:
        return self.series.slices[self.index]

    @property
    def stacked(self) -> bool:
        return len(self.series.slices) > 1

    @property
    def words(self) -> str:
        return markup.where(self.series, self.index)

    def any_reading(self, index: int) -> Reading | None:
        return self.desk.any_reading(self.chosen, index)


def _choose_series(desk: Session, opened: Opened) -> int:
    if len(opened.series) == 1:
        return 0
    names = [f"{index + 1}: {markup.series_words(series)}" for index, series in enumerate(opened.series)]
    return st.selectbox("Series", range(len(names)), format_func=names.__getitem__, key=f"series-{desk.count}")


def _read(desk: Session, opened: Opened, banner: Slot) -> None:
    begun = time.monotonic()
    with st.sidebar:
        chosen = _choose_series(desk, opened)
        method = st.selectbox(
            "Method of the map", list(METHODS), format_func=METHODS.__getitem__, key="method", persist_state="session"
        )
        along = st.container(key="along")
        if opened.series[chosen].slices[0].scale is Scale.GREY:
            st.caption(NO_HU)
        compare.ask(desk)
    here = Here(desk, opened, chosen, desk.on_screen(chosen))
    scan = here.scan
    seen, known = desk.seen.get((chosen, here.index, method)), here.any_reading(here.index)
    answer_place, strip_place = Slot(), Slot()
    if desk.card is not None and known is not None:
        warnings = len(known.warnings) + len(here.series.notes)
        answer_place.html(markup.answer(desk.card, known.prediction, here.words, warnings))
    else:
        # The scan is on screen before the model has loaded or answered.
        answer_place.html(markup.word_only("Reading", here.words, "The model is looking at this slice."))
    found = None if seen is None else desk.score(chosen, here.index, seen.reading)
    if seen is not None and found is not None:
        compare.strip(strip_place, desk, here.chosen, here.index, seen.reading, found)
    _view(here, method)
    card, unusable = session.card_or_reason()
    banner.html(markup.banner(card))
    if card is None:
        answer_place.html(markup.word_only("No answer", here.words, unusable))
        _details(here, None, None)
        return
    if seen is None:
        desk.read(chosen, here.index, method)
        st.rerun()
    explanation = seen.reading.explanations.get("ipf")
    if explanation is not None:
        peak, cell = markup.peak_words(explanation), markup.cell_words(explanation.cell_mm(scan.spacing))
        st.html(markup.facts({"Peak of the map for IPF": peak, "One cell of the map": cell}))
    bar, unfinished = None, False
    if found is not None:
        bar = compare.details(desk, card, seen.reading, found, desk.annotations(chosen, here.index))
        if here.stacked:
            unfinished = compare.profile(desk, chosen, here.index)
    _downloads(here, card, seen.reading, method)
    _details(here, card, seen)
    # What takes long comes last, so that nothing on the page waits for it.
    if bar is not None:
        compare.go_on_checking(desk, bar)
    if here.stacked:
        with along:
            _read_series(here, method, begun)
    if unfinished:
        st.rerun()


def _view(here: Here, method: str) -> None:
    """The viewer, with what is known by now."""
    desk, stack, count = here.desk, here.opened.stack(here.chosen), len(here.series.slices)
    key = f"viewer-{stack}"
    data = {
        "wire": routes.base_path(),
        "token": desk.token,
        "stack": wire.stack(here.series, stack),
        "slice": here.index,
        "slice_command": desk.commands,
        **wire.answers([here.any_reading(number) for number in range(count)]),
        "uncertain_band": None if desk.card is None else list(desk.card.uncertain_band),
        "method": method,
        "method_words": METHODS[method],
        "findings": wire.FINDINGS,
        "panes": ["ct", "map"],
        "presets": wire.PRESETS,
        "map_version": len(desk.seen),
        "annotated": [bool(desk.from_files(here.chosen, number)) for number in range(count)],
        "annotation_version": desk.annotation_version,
        "drawn": [desk.drawing(stack, number).revision > 0 for number in range(count)],
    }
    # Streamlit keeps callbacks for as long as the session lives: they must not hold the scan.
    viewer(key, data, partial(_rested, desk, here.chosen, key))


def _rested(desk: Session, chosen: int, key: str) -> None:
    desk.show(chosen, rested_on(key))


def _details(here: Here, card: ModelCard | None, seen: Seen | None) -> None:
    """Warnings, what was not read, and where the slice comes from."""
    said = here.scan.warnings if seen is None else seen.reading.warnings
    warnings = markup.listing("Warnings for this slice", said)
    warnings += markup.listing("About the series", here.series.notes)
    reader = None if card is None else session.model()
    if reader is not None:
        warnings += markup.listing("About this computer", reader.notes)
    if warnings:
        st.html(warnings)
    refusals = [(refusal.file, refusal.reason) for refusal in here.opened.refusals]
    if refusals:
        with st.expander(f"{markup.plural(len(refusals), 'file')} not read", expanded=True):
            st.html(markup.refusals(refusals))
    with st.expander("Where this comes from: file, scanner, model, and what the model saw"):
        facts, picture = st.columns([3, 1])
        computed = {} if reader is None else {"Computed by": reader.computed_by}
        facts.html(markup.facts(markup.provenance(here.scan, card) | computed))
        if seen is not None and seen.model_input_png is not None:
            picture.html(markup.model_input(seen.model_input_png))


def _downloads(here: Here, card: ModelCard, reading: Reading, method: str) -> None:
    """Buttons for what belongs to this slice. File names hold the pixels' hash, never the upload's name."""
    name = f"ipfvision_{reading.scan.source.pixel_sha256[:12]}_{TARGET}_{method}"
    row = st.container(horizontal=True)

    def offer(label: str, key: str, file: str, content: Callable[[], bytes | str]) -> None:
        # Each is made when it is asked for.
        mime = "image/png" if file.endswith(".png") else "application/json"
        row.download_button(label, content, file, mime, key=key, on_click="ignore", icon=":material/download:")

    # Streamlit keeps these functions for as long as the session lives: they hold the desk and numbers, never a scan.
    desk, chosen, index, count = here.desk, here.chosen, here.index, here.desk.count

    def read(numbers: Iterable[int]) -> dict[int, Reading]:
        if desk.count != count:  # something else is open by now
            return {}
        return {number: one for number in numbers if (one := desk.any_reading(chosen, number, method)) is not None}

    def overlay() -> bytes:
        return b"".join(picture_png(card, one, TARGET) for one in read([index]).values())

    def results(numbers: Iterable[int]) -> str:
        found = read(numbers)
        return result_json(card, list(found.values()), [desk.annotations(chosen, number) for number in found], TARGET)

    if reading.explanations:
        offer("Overlay in the lung window (PNG)", "save-overlay", f"{name}.png", overlay)
    offer("Result (JSON)", "save-result", f"{name}.json", lambda: results([index]))
    if here.stacked:
        every = f"{name}_series.json"
        offer("Results of the series so far (JSON)", "save-series", every, lambda: results(range(desk.length(chosen))))


def result_json(
    card: ModelCard, readings: Sequence[Reading], annotations: Sequence[Sequence[OnSlice] | None], target: str
) -> str:
    """The result as the command line writes it, but without file names: downloads travel, and a name may name a patient."""
    document = scored_result(card, readings, annotations, target)
    for entry in document["slices"]:
        entry["file"] = None
    return json.dumps(document, indent=2, ensure_ascii=False)


def _read_series(here: Here, method: str, begun: float) -> None:
    """Have the slices read that were not read yet; the page is drawn again every now and then with what was found.

    Reading goes on in the background. A click ends this script run at its next drawing, and the next one finds what was read
    meanwhile. Cancel stops the reading and sets `paused`, which keeps the next run from beginning again.

    Parameters
    ----------
    begun
        When this script run began, by the monotonic clock.
    """
    desk, count = here.desk, len(here.series.slices)
    reading = None if desk.paused else desk.go_on(here.chosen, method)
    done = len(desk.readings(here.chosen))
    if done == count:
        _series_summary(here)
        return
    bar = st.progress(done / count, f"{done} of {count} slices read")
    if reading is None:
        st.button(f"Read the other {count - done}", key="resume", on_click=desk.resume, width="stretch")
        return
    st.button("Cancel", key="cancel", on_click=desk.pause, width="stretch")
    now = time.monotonic()
    until = now + max(REDRAW_SECONDS, (now - begun) / MOST_DRAWING)
    while time.monotonic() < until and not reading.ended:
        desk.take(BAR_SECONDS)
        done = len(desk.readings(here.chosen))
        bar.progress(done / count, f"{done} of {count} slices read{left_words(reading.seconds_left)}")
    st.rerun()


def _series_summary(here: Here) -> None:
    """How the slices of a series were answered, and the way to the one that looks most like IPF."""
    predictions = [reading.prediction for reading in here.desk.readings(here.chosen)]
    st.html(markup.series_summary([prediction.decision for prediction in predictions]))
    shares = [-1.0 if prediction.probability is None else prediction.probability for prediction in predictions]
    highest = int(np.argmax(shares))
    if shares[highest] >= 0:
        st.button(
            f"Go to the highest: {highest + 1}",
            key="highest",
            help="The slice that looks most like IPF.",
            on_click=here.desk.go_to,
            args=(here.chosen, highest),
            width="stretch",
        )

"""Page "Read": drop a slice or a series, see what the model says of it, and where that comes from."""

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from ipfvision.core.annotation import Annotation, Finding
from ipfvision.core.findings import Decision, Explanation, ModelCard
from ipfvision.core.overlay import display_grey, outline, overlay
from ipfvision.core.slice import Series, Slice
from ipfvision.ui import controls, markup, session
from ipfvision.ui.controls import MapView
from ipfvision.ui.session import Opened, Seen, Session
from ipfvision.ui.slot import Slot
from ipfvision.workflow.reading import METHODS, Reading, result
from ipfvision.workflow.samples import list_samples

SERIES_REM = 10.2
"""Height kept free under the images for a series' slider, profile and progress."""
SAMPLES_IN_A_ROW = 5
REDRAW_SECONDS = 0.4
"""Between two drawings of the profile while a series is read."""


def draw(banner: Slot) -> None:
    """Draw the page; `banner` is the slot of the permanent sentence, which names the model's status once it is known."""
    desk = session.current()
    with st.sidebar:
        st.title("ipfvision", anchor=False)
        _input(desk)
    if desk.opened is not None and desk.opened.series:
        _read(desk, desk.opened, banner)
        return
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


def _slider_key(desk: Session, chosen: int) -> str:
    return f"slice-{desk.count}-{chosen}"


def _choose_series(desk: Session, opened: Opened) -> int:
    if len(opened.series) == 1:
        return 0
    names = [f"{index + 1}: {markup.series_words(series)}" for index, series in enumerate(opened.series)]
    return st.selectbox("Series", range(len(names)), format_func=names.__getitem__, key=f"series-{desk.count}")


def _choose_slice(desk: Session, chosen: int, series: Series) -> int:
    """Index of the slice on screen; a series opens in its middle."""
    count = len(series.slices)
    if count == 1:
        return 0
    key = _slider_key(desk, chosen)
    st.session_state.setdefault(key, count // 2 + 1)
    return int(st.slider("Slice", 1, count, key=key, label_visibility="collapsed")) - 1


def _read(desk: Session, opened: Opened, banner: Slot) -> None:
    with st.sidebar:
        chosen = _choose_series(desk, opened)
        grey_place, map_place = st.container(), st.container()
    answer_place, panes_place = Slot(), Slot()
    along, beside = st.columns([4, 1])
    with along:
        here = Here(desk, opened, chosen, _choose_slice(desk, chosen, opened.series[chosen]))
        profile_place = Slot()
    scan = here.scan
    with grey_place:
        view = controls.grey_view(scan)
    grey = display_grey(scan, view.window, view.brightness)
    panes = markup.Panes(markup.png(grey), view.caption, SERIES_REM if here.stacked else 0.0)

    if here.any_reading(here.index) is None:
        # The scan is on screen before the model has loaded or answered.
        answer_place.html(markup.word_only("Reading", here.words, "The model is looking at this slice."))
        panes_place.html(panes.without_map("Reading"))
    card, unusable = session.card_or_reason()
    banner.html(markup.banner(card))
    if card is None:
        answer_place.html(markup.word_only("No answer", here.words, unusable))
        panes_place.html(panes.without_map("No map without a model"))
        _details(here, None, None)
        return

    annotations = opened.annotations.get(scan.source.pixel_sha256, ())
    with map_place:
        choice = controls.map_view(METHODS, bool(annotations))
    seen = desk.read(chosen, here.index, choice.method)
    answer_place.html(markup.answer(card, seen.reading.prediction, here.words, len(scan.warnings) + len(here.series.notes)))
    explanation = seen.reading.explanations.get(choice.target)
    picture = None
    if explanation is None:
        panes_place.html(panes.without_map("No map: this slice was not read"))
    else:
        shown = annotations if choice.annotation else ()
        full_scale = choice.full_scale(card, explanation)
        picture = markup.png(paint(grey, explanation, full_scale, choice, shown))
        drawn_from = choice.threshold * full_scale
        caption = markup.map_caption(explanation, METHODS[choice.method], choice.contour, drawn_from, _findings(opened, shown))
        legend = markup.legend(full_scale, explanation.unit)
        panes_place.html(panes.with_map(picture, caption, legend, explanation, explanation.cell_mm(scan.spacing)))
    if explanation is not None:
        peak, cell = markup.peak_words(explanation), markup.cell_words(explanation.cell_mm(scan.spacing))
        st.html(markup.facts({"Peak of the map": peak, "One cell of the map": cell}))
    _downloads(here, card, choice, picture)
    _details(here, card, seen)
    if here.stacked:
        _read_series(here, card, choice.method, profile_place, beside)


def _findings(opened: Opened, annotations: Sequence[Annotation]) -> list[str]:
    """What outlined annotations show. A sample's single mask holds all of its findings but the ground glass."""
    if annotations and opened.sample is not None:
        return [finding for finding in opened.sample.findings if finding != Finding.GROUND_GLASS.value]
    return [annotation.said.finding.value for annotation in annotations]


def paint(
    grey: npt.NDArray[np.uint8], explanation: Explanation, full_scale: float, choice: MapView, annotations: Sequence[Annotation]
) -> npt.NDArray[np.uint8]:
    """(H, W, 3) uint8 RGB: the picture on the right, and the one in the download."""
    heatmap = explanation.heatmap()
    if choice.contour:
        at_least = max(choice.threshold * full_scale, float(np.finfo(np.float32).tiny))
        picture = outline(grey, heatmap >= at_least, markup.CONTOUR)
    else:
        picture = overlay(grey, heatmap, full_scale, choice.opacity, choice.threshold)
    for annotation in annotations:
        picture = outline(picture, annotation.mask, markup.ANNOTATION)
    return picture


def _details(here: Here, card: ModelCard | None, seen: Seen | None) -> None:
    """Warnings, what was not read, and where the slice comes from."""
    warnings = markup.listing("Warnings for this slice", here.scan.warnings)
    warnings += markup.listing("About the series", here.series.notes)
    if warnings:
        st.html(warnings)
    refusals = [(refusal.file, refusal.reason) for refusal in here.opened.refusals]
    if refusals:
        with st.expander(f"{markup.plural(len(refusals), 'file')} not read", expanded=True):
            st.html(markup.refusals(refusals))
    with st.expander("Where this comes from: file, scanner, model, and what the model saw"):
        facts, picture = st.columns([3, 1])
        facts.html(markup.facts(markup.provenance(here.scan, card)))
        if seen is not None and seen.model_input_png is not None:
            picture.html(markup.model_input(seen.model_input_png))


def _downloads(here: Here, card: ModelCard, choice: MapView, picture: bytes | None) -> None:
    """Buttons for what is on screen. File names hold the pixels' hash, never the upload's name."""
    this = here.desk.read(here.chosen, here.index, choice.method).reading
    name = f"ipfvision_{this.scan.source.pixel_sha256[:12]}_{choice.target}_{choice.method}"
    row = st.container(horizontal=True)

    def offer(label: str, key: str, file: str, content: bytes | str | Callable[[], str]) -> None:
        mime = "image/png" if file.endswith(".png") else "application/json"
        row.download_button(label, content, file, mime, key=key, on_click="ignore", icon=":material/download:")

    if picture is not None:
        offer("Overlay (PNG)", "save-overlay", f"{name}.png", picture)
    offer("Result (JSON)", "save-result", f"{name}.json", result_json(card, [this], choice.target))
    if here.stacked:

        def series_json() -> str:
            return result_json(card, here.desk.readings(here.chosen, choice.method), choice.target)

        # Made when it is asked for: finding the peaks of a long series takes a second.
        offer("Results of the series so far (JSON)", "save-series", f"{name}_series.json", series_json)


def result_json(card: ModelCard, readings: Sequence[Reading], target: str) -> str:
    """The result as the command line writes it, but without file names: downloads travel, and a name may name a patient."""
    document = result(card, readings, target)
    for entry in document["slices"]:
        entry["file"] = None
    return json.dumps(document, indent=2, ensure_ascii=False)


def _read_series(here: Here, card: ModelCard, method: str, profile_place: Slot, beside: DeltaGenerator) -> None:
    """Read the slices that were not read yet, one at a time, and draw the profile as it grows.

    Any click ends this script run at its next drawing; the run that follows goes on where this one stopped. Cancel also sets
    `paused`, which keeps the next run from going on.
    """
    desk, count = here.desk, len(here.series.slices)
    left = markup.left_end(here.series)

    def draw_profile() -> None:
        found = [here.any_reading(number) for number in range(count)]
        shares = [None if reading is None else reading.prediction.probability for reading in found]
        refused = [reading is not None and reading.prediction.decision is Decision.REFUSED for reading in found]
        profile_place.html(markup.profile(shares, refused, here.index, card.uncertain_band, left))

    draw_profile()
    pending = [number for number in range(count) if here.any_reading(number) is None]
    done = count - len(pending)
    if not pending:
        _series_summary(here, beside)
        return
    bar = beside.progress(done / count, f"{done} of {count} slices read")
    if desk.paused:
        beside.button(f"Read the other {len(pending)}", key="resume", on_click=desk.resume, width="stretch")
        return
    beside.button("Cancel", key="cancel", on_click=desk.pause, width="stretch")
    drawn = time.monotonic()
    for nth, number in enumerate(pending, start=done + 1):
        desk.read(here.chosen, number, method)
        _show(bar, "Read slice", nth, count)
        if time.monotonic() - drawn > REDRAW_SECONDS:
            draw_profile()
            drawn = time.monotonic()
    st.rerun()


def _series_summary(here: Here, place: DeltaGenerator) -> None:
    """How the slices of a series were answered, and the way to the one that looks most like IPF."""
    predictions = [reading.prediction for reading in here.desk.readings(here.chosen)]
    place.html(markup.series_summary([prediction.decision for prediction in predictions]))
    shares = [-1.0 if prediction.probability is None else prediction.probability for prediction in predictions]
    highest = int(np.argmax(shares))
    if shares[highest] >= 0:
        place.button(
            f"Go to the highest: {highest + 1}",
            key="highest",
            help="The slice that looks most like IPF.",
            on_click=st.session_state.__setitem__,
            args=(_slider_key(here.desk, here.chosen), highest + 1),
            width="stretch",
        )

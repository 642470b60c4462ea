"""The map against the annotation: what the page shows of it, and what the reader may choose."""

import time
from collections.abc import Sequence

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from ipfvision.core.annotation import OnSlice
from ipfvision.core.findings import ModelCard
from ipfvision.core.profile import Disagreement, ProfileRow, worst_first
from ipfvision.core.trust import Trust
from ipfvision.ui import markup, scorecard, session
from ipfvision.ui.session import Session
from ipfvision.ui.slot import Slot
from ipfvision.workflow.reading import Reading
from ipfvision.workflow.scoring import Scored
from ipfvision.workflow.trust import checking, trust_key

REDRAW_SECONDS = 0.3
"""Between two drawings of a progress bar."""
WORST = 5
"""Slices of a series that are offered for a look."""
TARGET = "ipf"
"""Whose map is compared: annotations are of fibrosis."""


def ask(desk: Session) -> None:
    """In the side bar: a place to drop annotations, what was read of them, and which findings count."""
    with st.expander("Annotations", icon=":material/draw:"):
        files = st.file_uploader(
            "Annotations of this scan",
            accept_multiple_files=True,
            key=desk.annotation_key,
            help="DICOM SEG or RTSTRUCT, NIfTI, a mask as PNG or TIFF, LabelMe or COCO; told by content, not by name.",
        )
        if files:
            bar = st.progress(0.0, "Taking in annotations")

            def show(done: int, total: int) -> None:
                bar.progress(min(1.0, done / max(1, total)), f"Taking in file {done} of {total}")

            desk.add_annotations(files, show)
            st.rerun()
        if desk.annotated is not None:
            st.html(markup.annotations_read(desk.annotated.by_slice, desk.annotated.notes))
            st.html(markup.refusals([(refusal.file, refusal.reason) for refusal in desk.annotated.refusals]))
            st.button(
                "Forget the annotation files", key="forget-annotations", on_click=desk.forget_annotations, width="stretch"
            )
        names = desk.names()
        if len(names) > 1:
            wanted = st.multiselect(
                "Show and compare with", names, desk.wanted, key=f"wanted-{desk.count}", placeholder="all of them",
                help="The outlines and the numbers are of what is chosen. Choose nothing for all.",
            )  # fmt: skip
            if tuple(wanted) != desk.wanted:
                desk.want(wanted)
                st.rerun()
        marks = sum(len(reading.marks) for reading in desk.every_reading())
        if marks:
            counts = st.toggle(
                f"Compare with {markup.plural(marks, 'mark')} on the picture", desk.with_marks, key=f"marks-{desk.count}",
                help="A circle counts as the area inside it, an arrow as the point at its tip.",
            )  # fmt: skip
            if counts != desk.with_marks:
                desk.compare_with_marks(counts)
                st.rerun()


def strip(place: Slot, found: Scored, reading: Reading) -> None:
    """Above the panes: three large numbers, and a warning where marks on the picture changed the answer."""
    warning = scorecard.shortcut(reading.shortcut) if reading.shortcut else ""
    numbers = "" if found.agreement is None else scorecard.large_numbers(found.agreement)
    if warning or numbers:
        place.html(warning + numbers)


def details(desk: Session, card: ModelCard, reading: Reading, found: Scored, given: Sequence[OnSlice] | None) -> None:
    """Under the panes: the budget of the evidence, every figure, and the checks of the map."""
    if found.evidence is None or found.plausibility is None:
        return
    left, right = st.columns(2)
    with left:
        st.html(scorecard.budget(found.evidence, card))
    with right:
        st.html(scorecard.heading(given, TARGET))
        reasons = scorecard.why_undefined(found)
        if reasons:
            st.html(markup.listing("", reasons, kind="note"))
        rows = [] if found.agreement is None else scorecard.agreement_rows(found.agreement)
        with st.expander("Every figure, its definition, and what chance would give"):
            st.html(scorecard.table(rows + scorecard.plausibility_rows(found.plausibility)))
        _trust(desk, reading, given or ())


def _trust(desk: Session, reading: Reading, given: Sequence[OnSlice]) -> None:
    """The checks on demand: with progress, cancelled by any click, kept for this slice, model and annotation."""
    with st.expander("Is this map to be trusted?"):
        key = trust_key(session.model(), reading, given, TARGET)
        if key not in desk.trust:
            st.html(scorecard.trust_words())
            if not st.button("Check this map", key="trust", icon=":material/fact_check:"):
                return
            bar = st.progress(0.0, "Checking")
            st.button("Cancel", key="trust-cancel")
            desk.trust[key] = _checked(desk, reading, given, bar)
        st.html(scorecard.trust(desk.trust[key]))


def _checked(desk: Session, reading: Reading, given: Sequence[OnSlice], bar: DeltaGenerator) -> Trust:
    steps = checking(session.model(), desk.with_model_input(reading), given, TARGET)
    drawn = 0.0
    while True:
        try:
            step = next(steps)
        except StopIteration as end:
            found: Trust = end.value
            return found
        if time.monotonic() - drawn > REDRAW_SECONDS:
            bar.progress(step.done / max(1, step.total), f"Checking: {step.done} of {step.total} passes")
            drawn = time.monotonic()


def profile(desk: Session, series: int, current: int) -> None:
    """Along a series: the answer, the evidence inside the annotation, the agreement; and the worst disagreements first."""
    if desk.annotations(series, current) is None:
        return
    rows = []
    for index in range(desk.length(series)):
        reading = desk.any_reading(series, index)
        if reading is not None:
            found, given = desk.score(series, index, reading), desk.annotations(series, index)
            rows.append(ProfileRow(index, reading.prediction, found.agreement, found.evidence, annotated=bool(given)))
    st.html(scorecard.profile(rows, desk.length(series), current))
    compared = [row for row in worst_first(rows) if row.disagreement < Disagreement.NONE][:WORST]
    if compared:
        st.html(scorecard.worst_heading())
        with st.container(horizontal=True):
            for row in compared:
                words = scorecard.disagreement_words(row)
                st.button(words, key=f"worst-{row.index}", on_click=desk.go_to, args=(series, row.index))

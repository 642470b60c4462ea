"""The map against the annotation: what the page shows of it, and what the reader may choose."""

import time
from collections.abc import Sequence

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from ipfvision.core.annotation import OnSlice
from ipfvision.core.findings import ModelCard
from ipfvision.core.marks import as_annotations
from ipfvision.core.profile import Disagreement, ProfileRow, worst_first
from ipfvision.ui import markup, scorecard, session
from ipfvision.ui.session import Session
from ipfvision.ui.slot import Slot
from ipfvision.workflow.reading import Reading, full_scale
from ipfvision.workflow.scoring import Scored
from ipfvision.workflow.trust import trust_key

REDRAW_SECONDS = 0.3
"""Between two drawings of a progress bar."""
COMPARE_SECONDS = 0.5
"""Of one script run, after which no other slice is compared that was not before."""
WORST = 5
"""Slices of a series that are offered for a look."""
TARGET = "ipf"
"""Whose map is compared: annotations are of fibrosis."""


def ask(desk: Session) -> None:
    """In the side bar: a place to drop annotations, what was read of them, and which findings count."""
    _offer_marks(desk)
    refused = desk.annotated is not None and bool(desk.annotated.refusals)
    with st.expander("Annotations", icon=":material/draw:", expanded=refused):
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
            st.html(scorecard.annotations_read(desk.annotated))
            st.button(
                "Forget the annotation files", key="forget-annotations", on_click=desk.forget_annotations, width="stretch"
            )
        _choose(desk)


def _choose(desk: Session) -> None:
    """Which of the annotations count."""
    names = desk.names()
    if len(names) > 1 or desk.wanted:
        wanted = st.multiselect(
            "Show and compare with", names, [name for name in desk.wanted if name in names],
            key=f"wanted-{desk.count}-{desk.choices}", placeholder="all of them",
            help="The outlines and the numbers are of what is chosen. Choose nothing for all.",
        )  # fmt: skip
        if tuple(wanted) != desk.wanted:
            desk.want(wanted)
            st.rerun()


def _offer_marks(desk: Session) -> None:
    """Marks that were found on the picture, where there are any: in the open, for the model read the picture without them."""
    marks = sum(len(as_annotations(reading.marks)) for reading in desk.every_reading())
    if marks:
        counts = st.toggle(
            f"Compare with {markup.plural(marks, 'mark')} on the picture", desk.with_marks, key=f"marks-{desk.count}",
            help="A circle counts as the area inside it, an arrow as the point at its tip.",
        )  # fmt: skip
        if counts != desk.with_marks:
            desk.compare_with_marks(counts)
            st.rerun()


def strip(place: Slot, desk: Session, series: int, index: int, reading: Reading, found: Scored) -> None:
    """Above the panes: three large numbers, and a warning where marks on the picture changed the answer."""
    shown = scorecard.shortcut(reading.shortcut) if reading.shortcut else ""
    explanation = reading.explanations.get(TARGET)
    if found.agreement is not None and explanation is not None and desk.card is not None:
        cautions = (
            scorecard.weak_map(explanation, full_scale(desk.card, explanation)),
            scorecard.other_things(desk.annotations(series, index) or ()),
        )
        shown += scorecard.strip(found.agreement, [sentence for sentence in cautions if sentence])
    if shown:
        place.html(shown)


def details(
    desk: Session, card: ModelCard, reading: Reading, found: Scored, given: Sequence[OnSlice] | None
) -> DeltaGenerator | None:
    """Under the panes: the budget of the evidence, every figure, and the checks of the map.

    Returns
    -------
    The progress bar of checks that are under way (`go_on_checking`); else None.
    """
    if found.evidence is None or found.plausibility is None:
        return None
    left, right = st.columns(2)
    with left:
        st.html(scorecard.budget(found.evidence, card))
    with right:
        st.html(scorecard.heading(given, TARGET))
        reasons = scorecard.why_undefined(found, reading.scan.spacing)
        if reasons:
            st.html(markup.listing("", reasons, kind="note"))
        bar = _trust(desk, reading, given or ())
    rows = [] if found.agreement is None else scorecard.agreement_rows(found.agreement)
    with st.expander("Every figure, what chance would give, and what it is"):
        st.html(scorecard.table(rows + scorecard.plausibility_rows(found.plausibility)))
    return bar


def _trust(desk: Session, reading: Reading, given: Sequence[OnSlice]) -> DeltaGenerator | None:
    """The checks on demand, kept for this slice, model and annotation; the bar while they are under way."""
    with st.expander("Is this map to be trusted?"):
        key = trust_key(session.model(), reading, given, TARGET)
        if key in desk.trust:
            st.html(scorecard.trust(desk.trust[key]))
            return None
        st.html(scorecard.trust_words())
        if desk.check_wanted == key:
            desk.begin_check(key, reading, given, TARGET)
        if desk.check is None or desk.check.key != key:
            # Streamlit keeps what it calls for as long as the session lives: no scan may be among it.
            st.button("Check this map", key="trust", icon=":material/fact_check:", on_click=desk.ask_check, args=(key,))
            return None
        bar = st.progress(0.0, "Checking")
        st.button("Cancel", key="trust-cancel", on_click=desk.give_up_check)
        return bar


def go_on_checking(desk: Session, bar: DeltaGenerator) -> None:
    """Make the checks that are under way. A click ends this script run at the bar's next drawing; the next run goes on."""
    check = desk.check
    if check is None:
        return
    drawn = 0.0
    while True:
        try:
            step = next(check.steps)
        except StopIteration as end:
            desk.check = None
            desk.trust[check.key] = end.value
            st.rerun()
        except Exception:
            desk.check = None
            raise
        if time.monotonic() - drawn > REDRAW_SECONDS:
            bar.progress(step.done / max(1, step.total), f"Checking: {step.done} of {step.total} passes")
            drawn = time.monotonic()


def profile(desk: Session, series: int, current: int) -> bool:
    """Along a series: the answer, the evidence inside the annotation, the agreement; and the worst disagreements first.

    Returns
    -------
    Whether slices are still to be compared: a long series takes some script runs.
    """
    if desk.annotations(series, current) is None:
        return False
    rows, about_disease, fresh, unfinished, begun = [], False, 0, False, time.monotonic()
    for index in range(desk.length(series)):
        reading = desk.any_reading(series, index)
        if reading is None:
            continue
        if not desk.is_scored(series, index, reading):
            # At least one in each run, so that it ends.
            if fresh and time.monotonic() - begun > COMPARE_SECONDS:
                unfinished = True
                continue
            fresh += 1
        found, given = desk.score(series, index, reading), desk.annotations(series, index) or ()
        about_disease = about_disease or any(map(scorecard.names_a_finding, given))
        rows.append(ProfileRow(index, reading.prediction, found.agreement, found.evidence, annotated=bool(given)))
    st.html(scorecard.profile(rows, desk.length(series), current))
    compared = sum(row.disagreement < Disagreement.NOT_COMPARED for row in rows)
    worst = [row for row in worst_first(rows) if row.disagreement < Disagreement.NONE][:WORST]
    # An organ's outline says nothing of disease, so no answer disagrees with it.
    if worst and about_disease:
        st.html(scorecard.worst_heading())
        with st.container(horizontal=True):
            for row in worst:
                words = scorecard.disagreement_words(row)
                st.button(words, key=f"worst-{row.index}", on_click=desk.go_to, args=(series, row.index))
    elif compared and about_disease and not unfinished:
        st.html(scorecard.all_agree(compared))
    return unfinished

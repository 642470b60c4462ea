"""Page "Study": a work list of scans, and the reading of one case after the other."""

import time
from collections.abc import Mapping, Sequence
from functools import partial

import streamlit as st

from ipfvision.core.findings import ModelCard
from ipfvision.core.review import (
    CONFIDENCES,
    LONGEST_NAME,
    LONGEST_TEXT,
    BlindReview,
    Case,
    Diagnosis,
    Draft,
    MapVerdict,
    Mode,
    Reason,
    RevealedReview,
    Review,
    Role,
    Stage,
    Study,
    WorkItem,
)
from ipfvision.core.slice import Series
from ipfvision.errors import InputRefused, ModelUnusable, StudyProblem
from ipfvision.store import reader_key
from ipfvision.ui import markup, routes, session, study_desk, study_markup
from ipfvision.ui.session import Session
from ipfvision.ui.slot import Slot
from ipfvision.ui.study_desk import StudyDesk
from ipfvision.ui.viewer import rested_on, viewer, wire
from ipfvision.workflow.reading import METHODS
from ipfvision.workflow.series import left_words
from ipfvision.workflow.studies import Studies
from ipfvision.workflow.study_archive import read_study
from ipfvision.workflow.study_reading import METHOD, TARGET, machine_answer

BAR_SECONDS = 0.25
"""Between two drawings of the progress bar, at which a click is heard."""
LAST_STROKE_SECONDS = 0.4
"""The viewer sends a drawing 200 ms after the last stroke: whoever locks at once means that stroke, too."""
PANES_BEFORE, PANES_AFTER = ("ct",), ("ct", "map")


def draw(banner: Slot) -> None:
    """Draw the page; `banner` is the slot of the permanent sentence."""
    here = study_desk.current()
    if here.review is None:
        with st.sidebar:
            st.title("ipfvision", anchor=False)
    try:
        studies = session.studies()
        if not ask_reader(here):
            return
        if here.study_id is None:
            _choose_study(here, studies)
        elif here.review is None:
            _work_list(here, studies, banner)
        else:
            _case(here, studies, banner)
    except StudyProblem as error:
        say_trouble(str(error))


def say_trouble(sentence: str) -> None:
    """One sentence in the place of the page, and a way on."""
    st.error(sentence, icon=":material/error:")
    st.button("Try again", key="try-again")


def _html(body: str) -> None:
    """Draw, if there is anything to draw: Streamlit refuses an empty piece."""
    if body:
        st.html(body)


# Who, and which study


def ask_reader(here: StudyDesk) -> bool:
    """Whether it is known who reads; asks if not."""
    signs_in, name = session.signed_in()
    if signs_in:
        if not name:
            st.html(study_markup.study_start())
            st.button("Sign in", key="sign-in", type="primary", on_click=st.login)
            return False
        if reader_key(here.reader) != reader_key(name):
            here.close()
            here.reader, here.study_id = name, None
        return True
    if here.reader:
        return True
    with st.container(key="study-start"):
        st.html(study_markup.study_start())
        with st.form("reader", border=False):
            typed = st.text_input("Your name, as colleagues know you", max_chars=LONGEST_NAME)
            st.caption(study_markup.NO_LOGIN)
            if st.form_submit_button("Go on", type="primary") and typed.strip():
                here.reader = " ".join(typed.split())
                st.rerun()
    return False


def show_reader(here: StudyDesk) -> None:
    """In the side bar: who reads."""
    signs_in, _ = session.signed_in()
    st.html(markup.now_reading(here.reader, "signed in" if signs_in else "A name, not a login"))
    if signs_in:
        st.button("Sign out", key="sign-out", on_click=st.logout, width="stretch")
    else:
        st.button("Another reader", key="another-reader", on_click=_forget_reader, args=(here,), width="stretch")


def _forget_reader(here: StudyDesk) -> None:
    here.close()
    here.reader, here.study_id, here.news = "", None, ""


def _choose_study(here: StudyDesk, studies: Studies) -> None:
    with st.sidebar:
        show_reader(here)
    with st.container(key="study-start"):
        every = studies.all()
        if every:
            st.html(study_markup.heading("Studies", "Open one, begin another, or take one in from another computer."))
        else:
            st.html(study_markup.heading("No study yet", "Begin one, or take one in from another computer."))
        for study in every:
            done = {reader_key(name): own for name, own in studies.progress(study.id).items()}.get(reader_key(here.reader))
            words, button = st.columns([4, 1], vertical_alignment="center")
            words.html(study_markup.study_line(study, len(studies.cases(study.id)), None if done is None else done[0]))
            label = "Join" if done is None else "Open"
            if button.button(label, key=f"study-{study.id}", width="stretch"):
                studies.join(study.id, here.reader)
                here.sit_down(study.id)
                st.rerun()
        _begin_study(here, studies, is_first=not every)
        _take_in_study(here, studies)


def _begin_study(here: StudyDesk, studies: Studies, *, is_first: bool) -> None:
    with st.expander("Begin a study", expanded=is_first), st.form("begin", border=False):
        title = st.text_input("Title", max_chars=LONGEST_NAME, help="No name of a patient: everybody who reads sees it.")
        mode = st.radio(
            "When is the machine's answer shown?",
            list(Mode),
            format_func=study_markup.MODE_NAMES.__getitem__,
            captions=[study_markup.MODE_WORDS[mode] for mode in Mode],
        )
        if st.form_submit_button("Begin", type="primary"):
            try:
                here.sit_down(studies.create(title, here.reader, mode or Mode.BLINDED).id)
            except StudyProblem as error:
                st.error(str(error))
            else:
                here.news = "The study is begun. Drop its scans on the left."
                st.rerun()


def _take_in_study(here: StudyDesk, studies: Studies) -> None:
    with st.expander("Take in a study from another computer"):
        file = st.file_uploader("A study's .zip, as exported there", key=f"study-zip-{here.drops}")
        if file is not None:
            try:
                study = read_study(studies, file.getvalue())
            except StudyProblem as error:
                st.error(str(error))
            else:
                here.drops += 1
                here.news = f"The study {study.title} was taken in. Its scans are not in the .zip: drop them on the left."
                studies.join(study.id, here.reader)
                here.sit_down(study.id)
                st.rerun()


# The work list


def _work_list(here: StudyDesk, studies: Studies, banner: Slot) -> None:
    study = studies.get(str(here.study_id))
    items = studies.worklist(study.id, here.reader)
    cases = [one.case for one in items]
    role = _role(studies, study, here.reader)
    with st.sidebar:
        show_reader(here)
        drop_scans(here)
        st.button(
            "All studies", key="leave-study", on_click=_leave, args=(here,), icon=":material/arrow_back:", width="stretch"
        )
    found = here.scans_of(cases)
    st.html(study_markup.heading(study.title, study_markup.MODE_WORDS[study.mode]))
    _html(study_markup.news(here.news))
    if here.refusals:
        st.html(study_markup.refused([(one.file, one.reason) for one in here.refusals]))
    _strangers(here, studies, study, cases, role)
    if items:
        _own_list(here, studies, study, items, found)
    elif role is Role.COORDINATOR:
        st.html(markup.listing("", ["No case yet: drop scans on the left, each series becomes a case."], kind="note"))
    else:
        st.html(markup.listing("", ["No case yet: whoever began the study adds the scans."], kind="note"))
    members = studies.members(study.id)
    if len(members) > 1 and role is Role.COORDINATOR:
        st.html(study_markup.progress(studies.progress(study.id), {one.name: one.role.value for one in members}))
    # The reader looks at the list now: a good moment to load the model.
    card, _ = session.card_or_reason()
    banner.html(markup.banner(card))


def _role(studies: Studies, study: Study, reader: str) -> Role | None:
    return next((one.role for one in studies.members(study.id) if reader_key(one.name) == reader_key(reader)), None)


def _leave(here: StudyDesk) -> None:
    here.close()
    here.study_id, here.news, here.refusals = None, "", ()


def drop_scans(here: StudyDesk) -> None:
    """A place to drop scans; they are kept for as long as the tab is there."""
    files = st.file_uploader(
        "Scans of this study",
        accept_multiple_files=True,
        key=here.upload_key,
        help="DICOM, PNG, JPEG, or a .zip; all cases at once if you like. They stay in memory and are gone when this tab is "
        "closed. Cases are found again by their pixels.",
    )
    if files:
        bar = st.progress(0.0, "Taking in files")
        before = len(here.desk.scans)

        def show(done: int, total: int) -> None:
            bar.progress(min(1.0, done / max(1, total)), f"Taking in file {done} of {total}")

        here.take_in(files, show)
        here.news = f"{markup.plural(len(here.desk.scans) - before, 'scan')} taken in."
        st.rerun()


def _strangers(here: StudyDesk, studies: Studies, study: Study, cases: Sequence[Case], role: Role | None) -> None:
    """Scans that are here and no case yet."""
    if not here.strangers(cases, single_pictures=True):
        return
    if role is not Role.COORDINATOR:
        count = len(here.strangers(cases, single_pictures=False))
        st.html(markup.listing("", [f"{markup.plural(count, 'scan')} dropped here: no case of this study."], kind="note"))
        return
    single = True
    if here.has_stacked_pictures:
        single = st.toggle("Pictures (PNG, JPEG): each is a case of its own", True, key="single-pictures")
    fresh = here.strangers(cases, single_pictures=single)
    if fresh and st.button(f"Add {markup.plural(len(fresh), 'case')} to the study", key="add-cases", type="primary"):
        added = studies.add_cases(study.id, here.reader, fresh)
        here.news = f"{markup.plural(len(added.cases), 'case')} added."
        st.rerun()


TILE_ICONS = {
    Stage.NEW: ":material/radio_button_unchecked:",
    Stage.READING: ":material/edit:",
    Stage.LOCKED: ":material/lock:",
    Stage.REVEALED: ":material/visibility:",
    Stage.FINISHED: ":material/check_circle:",
    Stage.REOPENED: ":material/edit:",
}


def _own_list(here: StudyDesk, studies: Studies, study: Study, items: Sequence[WorkItem], found: Mapping[str, Series]) -> None:
    done = sum(one.stage in (Stage.FINISHED, Stage.REOPENED) for one in items)
    st.progress(done / len(items), study_markup.stage_counts(items))
    _html(study_markup.missing(len(items) - len(found), len(items)))
    following = studies.next_case(study.id, here.reader, found)
    if following is not None:
        label = f"Read case {following.number}"
        st.button(
            label, key="read-next", type="primary", icon=":material/play_arrow:", on_click=here.ask_for, args=(following.id,)
        )
    elif found and done == len(items):
        _html(study_markup.news("All cases are read. A case can be opened again and corrected."))
    st.html('<p class="ipf-heading">Your work list, in your own order</p>')
    with st.container(horizontal=True, key="work-list", gap="small"):
        for item in items:
            words = study_markup.tile_words(item, is_here=item.case.id in found)
            is_here = item.case.id in found
            st.button(
                words, key=f"case-{item.case.id}", icon=TILE_ICONS[item.stage], disabled=not is_here,
                on_click=here.ask_for, args=(item.case.id,),
            )  # fmt: skip
            if is_here and here.take_wish(item.case.id):
                _open(here, studies, item.case, found[item.case.id])


def _open(here: StudyDesk, studies: Studies, case: Case, scan: Series) -> None:
    here.news = ""
    here.open(studies, case, scan)
    st.rerun()


# One case


def _case(here: StudyDesk, studies: Studies, banner: Slot) -> None:
    review = here.review
    if review is None or here.desk.opened is None:  # the tab was away for so long that its scans were let go
        here.close()
        st.rerun()
        return
    study, series = review.study, here.desk.opened.series[0]
    answer_place = Slot()
    with st.sidebar:
        st.html(study_markup.case_head(review.case.number, *here.done, study, here.stage))
        _html(study_markup.news(here.news))
        problem = _say(here, studies, _form(here, review))
        go_on = st.container(key="go-on")
        wishes, trouble = go_on.container(), go_on.container()
        along = st.container(key="along")
        with st.container(key="case-foot"):
            st.button(
                "Work list", key="to-list", on_click=here.ask_for, args=("list",), icon=":material/arrow_back:", width="stretch"
            )
    if here.take_wish("list"):
        problem = _put_away(here, studies, along)
    if problem:
        _say_problem(trouble, here, studies, problem)
    index = here.desk.on_screen(0)
    reading = here.reading(index)
    if reading is not None and here.desk.card is not None:
        answer_place.html(markup.answer(here.desk.card, reading.prediction, markup.where(series, index), 0))
    _view(here, series, index)
    card, unusable = session.card_or_reason()
    here.desk.card = card
    banner.html(markup.banner(card))
    if reading is not None and card is not None:
        answer_place.html(markup.answer(card, reading.prediction, markup.where(series, index), 0))
    if series.notes:
        st.html(markup.listing("About the series", series.notes))
    if card is not None and session.model().notes:
        st.html(markup.listing("About this computer", session.model().notes))
    if card is None:
        trouble.html(markup.listing("", [unusable]))
        return
    with wishes:
        _go_on(here, studies, card, trouble)
    if here.asks:
        with along:
            _ask_machine(here, studies, card)


def _say(here: StudyDesk, studies: Studies, said: Draft) -> str:
    """Keep what the form says; a sentence if that did not work."""
    try:
        here.say(studies, said)
    except StudyProblem as error:
        return str(error)
    return ""


def _say_problem(place: st.delta_generator.DeltaGenerator, here: StudyDesk, studies: Studies, problem: str) -> None:
    """One sentence below the button, and a way on: the images stay where they are."""
    with place:
        st.html(f'<div role="alert">{markup.listing("", [problem])}</div>')
        if here.stale:
            if st.button("Show what was saved there", key="case-again", width="stretch"):
                here.again(studies)
                st.rerun()
            if st.button("Keep what is on this screen", key="case-insist", width="stretch"):
                here.insist(studies)
                st.rerun()


def _put_away(here: StudyDesk, studies: Studies, place: st.delta_generator.DeltaGenerator) -> str:
    """Go to the work list when all is saved; else a sentence, and a way to leave all the same."""
    time.sleep(LAST_STROKE_SECONDS)
    try:
        if here.unsaved:
            here.save(studies)
    except StudyProblem as error:
        place.button("Leave without saving", key="leave", on_click=_to_list, args=(here,), width="stretch")
        return str(error)
    _to_list(here)
    return st.rerun()


def _to_list(here: StudyDesk) -> None:
    here.close()
    here.news = ""


def _form(here: StudyDesk, review: BlindReview | RevealedReview | Review) -> Draft:
    """What the reader says; the widgets begin with what was said so far."""
    said, key = here.said, f"{review.id}-{here.generation}"
    for name, value in (
        ("diagnosis", said.diagnosis),
        ("confidence", said.confidence),
        ("verdict", said.verdict),
        ("reasons", list(said.reasons)),
        ("verdict-text", said.verdict_text),
        ("comment", said.comment),
    ):
        session.seed(f"{name}-{key}", value)
    fixed = here.stage in (Stage.LOCKED, Stage.FINISHED) or bool(here.stale)
    if isinstance(review, RevealedReview | Review) and review.first is not None:
        st.html(study_markup.first_opinion(review.first))
    diagnosis = st.radio(
        "Your diagnosis",
        list(Diagnosis),
        index=None,
        format_func=lambda one: one.value[0].upper() + one.value[1:],
        key=f"diagnosis-{key}",
        disabled=fixed,
    )
    confidence = st.radio(
        "Confidence, from 1 (a guess) to 5 (certain)",
        CONFIDENCES,
        index=None,
        key=f"confidence-{key}",
        horizontal=True,
        disabled=fixed,
    )
    verdict, text = said.verdict, said.verdict_text
    reasons: tuple[Reason, ...] = ()
    if here.answer is not None and here.answer.has_map:
        verdict = st.radio(
            "The map, against what you see",
            list(MapVerdict),
            index=None,
            format_func=lambda one: one.value.capitalize(),
            key=f"verdict-{key}",
            horizontal=True,
            disabled=fixed,
        )
        if verdict in (MapVerdict.PARTLY, MapVerdict.DISAGREES):
            chosen = st.pills(
                "Because it lights, or misses",
                list(Reason),
                selection_mode="multi",
                format_func=lambda one: one.value.capitalize(),
                key=f"reasons-{key}",
                disabled=fixed,
            )
            reasons = tuple(chosen)
        text = st.text_input("Remark on the map", max_chars=LONGEST_TEXT, key=f"verdict-text-{key}", disabled=fixed)
    comment = st.text_area(
        "Comment", height=68, max_chars=LONGEST_TEXT, key=f"comment-{key}", disabled=fixed,
        help="No name of a patient: comments are kept.",
    )  # fmt: skip
    if fixed:
        return said
    return Draft(diagnosis, confidence, (), comment or "", verdict, reasons, text or "")


def _go_on(here: StudyDesk, studies: Studies, card: ModelCard, trouble: st.delta_generator.DeltaGenerator) -> None:
    """The one button that leads on."""
    review, draft = here.review, here.draft()
    if review is None or here.stale:
        return
    try:
        if isinstance(review, BlindReview) and here.stage is Stage.READING and review.study.mode is Mode.BLINDED:
            _button(here, "Lock and see the answer", "lock", ":material/lock:")
            if here.take_wish("lock"):
                time.sleep(LAST_STROKE_SECONDS)
                here.lock(studies, card.sha256)
                st.rerun()
            if draft.opinion() is None:
                st.caption("Diagnosis and confidence first. What you draw and say is saved as you go.")
        elif isinstance(review, RevealedReview):
            _button(here, "Finish, next case", "finish", ":material/check:")
            if here.take_wish("finish"):
                time.sleep(LAST_STROKE_SECONDS)
                here.finish(studies)
                _next(here, studies)
        elif isinstance(review, Review):
            st.caption("You have finished this case.")
            if st.button("Correct this reading", key="reopen", icon=":material/edit:", width="stretch"):
                here.reopen(studies)
                st.rerun()
    except StudyProblem as error:
        _say_problem(trouble, here, studies, str(error))


def _button(here: StudyDesk, label: str, wish: str, icon: str) -> None:
    st.button(label, key=wish, type="primary", icon=icon, width="stretch", on_click=here.ask_for, args=(wish,))


def _next(here: StudyDesk, studies: Studies) -> None:
    """The next case of the reader's order whose scan is here; else the work list."""
    study_id, last = str(here.study_id), here.review
    said = "" if last is None else f"Case {last.case.number} is finished and kept."
    found = here.scans_of(studies.cases(study_id))
    following = studies.next_case(study_id, here.reader, found)
    if following is None:
        here.close()
    else:
        here.open(studies, following, found[following.id])
    here.news = said
    st.rerun()


def _ask_machine(here: StudyDesk, studies: Studies, card: ModelCard) -> None:
    """Have the case read, in the background; then its answer is kept, and shown."""
    desk, count = here.desk, here.desk.length(0)
    bar = st.progress(len(desk.readings(0)) / count, "The machine reads the case")
    try:
        reading = desk.go_on(0, METHOD)
        while reading is not None and not reading.ended:
            desk.take(BAR_SECONDS)
            done = len(desk.readings(0))
            bar.progress(done / count, f"The machine reads: {done} of {count}{left_words(reading.seconds_left)}")
        readings = {index: one for index in range(count) if (one := desk.any_reading(0, index)) is not None}
        if len(readings) < count:
            st.rerun()
        here.reveal(studies, lambda _: machine_answer(card, readings))
    except (ModelUnusable, StudyProblem, InputRefused) as error:
        st.error(str(error))
        st.button("Try again", key="ask-again")
        return
    st.rerun()


def _view(here: StudyDesk, series: Series, index: int) -> None:
    """The viewer; of the machine's answer it gets what `StudyDesk.reading` gives out."""
    desk, opened, count = here.desk, here.desk.opened, len(series.slices)
    if opened is None:
        return
    stack, shows = opened.stack(0), here.answer is not None
    key = f"viewer-{stack}"
    data = {
        "wire": routes.base_path(),
        "token": desk.token,
        "stack": wire.stack(series, stack),
        "slice": index,
        "slice_command": desk.commands,
        **wire.answers([here.reading(number) for number in range(count)]),
        "uncertain_band": list(desk.card.uncertain_band) if shows and desk.card is not None else None,
        "method": METHOD,
        "method_words": METHODS[METHOD],
        "findings": wire.FINDINGS,
        "panes": list(PANES_AFTER if shows else PANES_BEFORE),
        "blinded": not shows,
        "targets": [TARGET],
        "presets": wire.PRESETS,
        "map_version": len(desk.seen) if shows else 0,
        "annotated": [False] * count,
        "annotation_version": 0,
        "drawn": [desk.drawing(stack, number).revision > 0 for number in range(count)],
    }
    viewer(key, data, partial(_rested, desk, key))


def _rested(desk: Session, key: str) -> None:
    desk.show(0, rested_on(key))

"""Page "Reviews": what readers said, case by case and in figures, and the way out of it all."""

import re
from collections.abc import Mapping, Sequence

import streamlit as st

from ipfvision.core.annotation import Finding
from ipfvision.core.findings import ModelCard
from ipfvision.core.review import Case, Diagnosis, MapVerdict, Mode, Review, Role, Stage, Study
from ipfvision.core.slice import Slice
from ipfvision.errors import InputRefused, StudyProblem
from ipfvision.store import reader_key
from ipfvision.ui import markup, page_study, review_markup, session, side_by_side, study_desk, study_markup
from ipfvision.ui.slot import Slot
from ipfvision.ui.study_desk import StudyDesk
from ipfvision.workflow.consensus import drawn_by_readers, has_staple, majority, staple
from ipfvision.workflow.reader_agreement import Counted, Word, count, opinion_of
from ipfvision.workflow.sending import send
from ipfvision.workflow.sent_case import case_of_review
from ipfvision.workflow.studies import Studies
from ipfvision.workflow.study_archive import write_study
from ipfvision.workflow.study_reading import most_telling
from ipfvision.workflow.study_tables import read_truth, study_files
from ipfvision.workflow.uploads import Upload

WORD_NAMES = {Word.FIRST: "before the answer", Word.REVISED: "with the answer"}
PICTURES_IN_A_ROW = 3
MIMES = {"csv": "text/csv", "json": "application/json", "imrmc": "text/plain", "pdf": "application/pdf", "png": "image/png"}
CONSENSUS = "Majority: what more than half of the readers marked. STAPLE weighs each reader by how well they do."
OWN_ONLY = "Your own readings. Whoever coordinates the study sees those of all readers."
WITHHELD = "{} left out here until you have locked your own reading of {}."
ZIP_WITHHELD = (
    "It is here when you have locked your own reading of the cases that you have open: it holds what is said of them."
)


def draw(banner: Slot) -> None:
    """Draw the page; `banner` is the slot of the permanent sentence."""
    here = study_desk.current()
    with st.sidebar:
        st.title("ipfvision", anchor=False)
    try:
        studies = session.studies()
        if not page_study.ask_reader(here):
            return
        with st.sidebar:
            page_study.show_reader(here)
            study = _choose(here, studies)
        if study is not None:
            _study(here, studies, study, banner)
    except StudyProblem as error:
        page_study.say_trouble(str(error))


def _choose(here: StudyDesk, studies: Studies) -> Study | None:
    """One of the studies that this reader is in."""
    key = reader_key(here.reader)
    mine = [one for one in studies.all() if any(reader_key(each.name) == key for each in studies.members(one.id))]
    if not mine:
        st.html(markup.listing("", ["You are in no study yet. Join or begin one on the page Study."], kind="note"))
        return None
    names = [one.id for one in mine]
    index = names.index(here.study_id) if here.study_id in names else 0
    return st.selectbox("Study", mine, index, format_func=lambda one: one.title, key=f"reviews-of-{here.reader}")


def _study(here: StudyDesk, studies: Studies, study: Study, banner: Slot) -> None:
    sees_all = any(
        reader_key(one.name) == reader_key(here.reader) and one.role is Role.COORDINATOR for one in studies.members(study.id)
    )
    every = studies.reviews(study.id, here.reader, history=True)
    in_hand = _in_hand(studies, study, here.reader)
    shown = [one for one in every if one.case.id not in in_hand]
    corrected = {one.supersedes for one in every}
    last = [one for one in shown if one.id not in corrected]
    st.html(study_markup.heading(study.title, "Readings of all readers." if sees_all else OWN_ONLY))
    if in_hand:
        cases = ", ".join(str(number) for number in sorted(in_hand.values()))
        which = f"Case {cases} is" if len(in_hand) == 1 else f"Cases {cases} are"
        st.html(markup.listing("", [WITHHELD.format(which, "it" if len(in_hand) == 1 else "them")], kind="note"))
    card, _ = session.card_or_reason()
    banner.html(markup.banner(card))
    tabs = st.tabs(["Readings", "Agreement", "Case by case", "Save and send"], key="reviews-tabs", on_change="rerun")
    if tabs[0].open:
        with tabs[0]:
            _readings(last)
    if tabs[1].open:
        with tabs[1]:
            _agreement(here, last)
    if tabs[2].open:
        with tabs[2]:
            _case_by_case(here, last, card)
    if tabs[3].open:
        with tabs[3]:
            _save(here, studies, study, shown, sees_all=sees_all, blinded=bool(in_hand))


def _in_hand(studies: Studies, study: Study, reader: str) -> Mapping[str, int]:
    """Cases that this person reads blinded and has not locked: what others and the machine say of them is not for them yet."""
    if study.mode is not Mode.BLINDED:
        return {}
    return {one.case.id: one.case.number for one in studies.worklist(study.id, reader) if one.stage is Stage.READING}


def _nothing() -> None:
    st.html(
        markup.listing("", ["Nothing is finished yet: readings appear here as soon as a reader finishes a case."], kind="note")
    )


# All readings


def _readings(reviews: Sequence[Review]) -> None:
    if not reviews:
        _nothing()
        return
    readers = sorted({one.reader for one in reviews})
    row = st.columns(4, vertical_alignment="bottom")
    reader = row[0].multiselect("Readers", readers, key="filter-reader", placeholder="all")
    diagnosis = row[1].multiselect("Diagnosis, with the answer", list(Diagnosis), key="filter-diagnosis", placeholder="all")
    verdict = row[2].multiselect("Verdict on the map", list(MapVerdict), key="filter-verdict", placeholder="all")
    changed = row[3].toggle("Changed after the answer", key="filter-changed")
    found = [
        one
        for one in sorted(reviews, key=lambda one: (one.case.number, one.reader))
        if (not reader or one.reader in reader)
        and (not diagnosis or one.revised.diagnosis in diagnosis)
        and (not verdict or (one.judgment is not None and one.judgment.verdict in verdict))
        and (not changed or (one.first is not None and one.first.diagnosis is not one.revised.diagnosis))
    ]
    st.caption(f"{len(found)} of {markup.plural(len(reviews), 'reading')}")
    if found:
        with st.container(key="readings-table"):
            st.html(review_markup.readings(found))


# In figures


def figures(here: StudyDesk, reviews: Sequence[Review]) -> Counted:
    """Counted once for each set of reviews: the bootstrap takes a moment."""
    key = tuple(one.id for one in reviews)
    if here.counted is None or here.counted[0] != key:
        here.counted = (key, count(reviews))
    return here.counted[1]


def _agreement(here: StudyDesk, reviews: Sequence[Review]) -> None:
    if not reviews:
        _nothing()
        return
    with st.spinner("Counting"):
        counted = figures(here, reviews)
    st.html(review_markup.headlines(counted))
    with st.container(key="agreement-tables"):
        st.html(review_markup.agreement(counted))


# Side by side


def _case_by_case(here: StudyDesk, reviews: Sequence[Review], card: ModelCard | None) -> None:
    if not reviews:
        _nothing()
        return
    cases = sorted({one.case.id: one.case for one in reviews}.values(), key=lambda one: one.number)
    row = st.columns([2, 2, 2, 3], vertical_alignment="bottom")
    case = row[0].selectbox("Case", cases, format_func=lambda one: f"Case {one.number}", key="side-case")
    of_case = [one for one in reviews if one.case.id == case.id]
    words = [Word.REVISED, Word.FIRST] if any(one.first is not None for one in of_case) else [Word.REVISED]
    word = row[1].selectbox("Drawings", words, format_func=WORD_NAMES.__getitem__, key=f"side-word-{len(words)}")
    ways = ["Majority", "STAPLE"] if has_staple() else ["Majority"]
    way = row[2].selectbox("Consensus", ways, key="side-consensus", help=CONSENSUS)
    index = _choose_slice(case, of_case, word, row[3])
    scan = here.scans_of([case]).get(case.id)
    if scan is None:
        st.html(markup.listing("", ["The scan of this case is not here: drop it to see it under the drawings."], kind="note"))
        page_study.drop_scans(here)
    _pictures(reviews, of_case, case, word, way, index, None if scan is None else scan.slices[index], card)
    st.html(review_markup.readings(of_case))
    if scan is not None and card is not None:
        _send(here, of_case, scan.slices, card)


def _choose_slice(case: Case, of_case: Sequence[Review], word: Word, place: st.delta_generator.DeltaGenerator) -> int:
    """The slice with most drawn on it, unless the reader chooses another."""
    total = len(case.slices)
    if total == 1:
        return 0
    area = [0] * total
    for one in of_case:
        said = opinion_of(one, word)
        for drawn in () if said is None else said.drawings:
            area[drawn.slice_index] += sum(drawn.runs[1::2])
    best = area.index(max(area)) if any(area) else most_telling(of_case[0].answer)
    return int(place.slider("Slice", 1, total, best + 1, key=f"side-slice-{case.id}-{word}")) - 1


def _pictures(
    reviews: Sequence[Review], of_case: Sequence[Review], case: Case, word: Word, way: str, index: int,
    scan: Slice | None, card: ModelCard | None,
) -> None:  # fmt: skip
    grey = side_by_side.ground(scan, case.slices[index].shape)
    shown: list[tuple[bytes, str]] = []
    marked: dict[Finding, str] = {}
    for one in sorted(of_case, key=lambda one: one.reader):
        said = opinion_of(one, word)
        if said is None:
            continue
        here = [drawn for drawn in said.drawings if drawn.slice_index == index]
        marked |= side_by_side.findings_of(here)
        picture = markup.png(side_by_side.drawn_picture(grey, here))
        shown.append((picture, f"{one.reader}: {review_markup.opinion(said)}{'' if here else '; nothing drawn here'}"))
    masks = list(drawn_by_readers(reviews, case.id, index, word=word).values())
    if len(masks) > 1:
        try:
            together = staple(masks).mask if way == "STAPLE" else majority(masks)
        except StudyProblem as error:
            st.error(str(error))
        else:
            picture = markup.png(side_by_side.mask_picture(grey, together))
            shown.append((picture, f"Consensus of {len(masks)} readers, {way}"))
    answer = of_case[0].answer.of(index)
    if answer is not None and answer.explanation is not None:
        picture = markup.png(side_by_side.map_picture(grey, card, answer.explanation))
        shown.append((picture, f"The map: {review_markup.answer_words(answer.prediction)}"))
    columns = st.columns(PICTURES_IN_A_ROW)
    for number, (content, words) in enumerate(shown):
        columns[number % len(columns)].html(review_markup.framed(content, words))
    if marked:
        st.html(review_markup.legend({finding.value: color for finding, color in marked.items()}))


# Out of it all


def _send(here: StudyDesk, of_case: Sequence[Review], slices: Sequence[Slice], card: ModelCard) -> None:
    """Files of one reader's review of the case."""
    with st.expander("Save or send this case: report, figure, DICOM"):
        one = st.selectbox("Reading by", of_case, format_func=lambda one: one.reader, key=f"send-{of_case[0].case.id}")
        files = st.file_uploader(
            "The scan's own DICOM files, for objects that an archive takes (optional)",
            accept_multiple_files=True,
            key=f"originals-{here.sent_count}",
            help="DICOM objects carry the patient and study of the scan. This program keeps neither, so the files are needed "
            "once more, and are forgotten again.",
        )
        if st.button("Make the files", key="make-files"):
            wanted = sorted({most_telling(one.answer), *(drawn.slice_index for drawn in one.revised.drawings)})
            with st.spinner("Making the files"):
                try:
                    readings = {index: session.model().read(slices[index], urgent=True) for index in wanted}
                    originals = [Upload(file.name, file.getvalue()) for file in files] if files else None
                    here.sent = send(case_of_review(card, readings, one), originals)
                except InputRefused as error:
                    st.error(str(error))
                else:
                    session.let_go(f"originals-{here.sent_count}")
                    here.sent_count += 1
                    here.sent_of = one.id
        if here.sent is not None and here.sent_of == one.id:
            if here.sent.notes or here.sent.refusals:
                notes = [*here.sent.notes, *(f"{refused.file}: {refused.reason}" for refused in here.sent.refusals)]
                st.html(markup.listing("", notes))
            with st.container(horizontal=True):
                for name, content in here.sent.files.items():
                    _offer(name, content, f"sent-{name}")


def _offer(name: str, content: bytes, key: str, label: str = "") -> None:
    mime = MIMES.get(name.rpartition(".")[2], "application/octet-stream")
    st.download_button(label or name, content, name, mime, key=key, on_click="ignore", icon=":material/download:")


def _save(here: StudyDesk, studies: Studies, study: Study, reviews: Sequence[Review], *, sees_all: bool, blinded: bool) -> None:
    if reviews:
        st.html('<p class="ipf-heading">Tables, for whoever counts on</p>')
        texts = st.toggle("With the readers' comments", key="save-texts", help="What was typed may name somebody.")
        truth = None
        given = st.file_uploader(
            "Truth, for iMRMC (optional): a .csv with the columns case and truth (1 is IPF)", key="save-truth"
        )
        try:
            if given is not None:
                truth = read_truth(given.getvalue().decode("utf-8", "replace"))
            tables = study_files(reviews, truth, texts=texts)
        except (InputRefused, StudyProblem) as error:
            st.error(str(error))
        else:
            with st.container(horizontal=True):
                for name, content in tables.items():
                    _offer(name, content, f"table-{name}")
    else:
        _nothing()
    if sees_all:
        st.html('<p class="ipf-heading">The whole study, to keep or to move to another computer</p>')
        st.caption("All readings and what is under way, without any scan. Another ipfvision takes it in on its page Study.")
        if blinded:
            st.html(markup.listing("", [ZIP_WITHHELD], kind="note"))
            return
        name = re.sub(r"\W+", "_", study.title).strip("_")[:40] or "study"
        st.download_button(
            "Study (.zip)", lambda: write_study(studies, study.id, here.reader), f"{name}.zip", "application/zip",
            key="save-study", on_click="ignore", icon=":material/download:",
        )  # fmt: skip

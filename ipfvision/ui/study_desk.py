"""What one reader has in hand of a study: the scans that were dropped, the case that is open, and what was said of it so far.

The case lies on a desk of its own, with a token of its own. As long as the reader's opinion is not locked, nothing that the
machine says is on that desk: neither the page nor a route could give it away.
"""

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
from streamlit.runtime.uploaded_file_manager import UploadedFile

from ipfvision.core.review import (
    BlindReview,
    Case,
    Draft,
    Drawn,
    MachineAnswer,
    Mode,
    RevealedReview,
    Review,
    Stage,
)
from ipfvision.core.slice import Series
from ipfvision.errors import ReviewChanged, ReviewRefused
from ipfvision.store import AnyReview
from ipfvision.ui import session
from ipfvision.ui.session import Drawing, Opened, Seen, Session
from ipfvision.workflow.intake import take_in
from ipfvision.workflow.reader_agreement import Counted
from ipfvision.workflow.reading import Reading
from ipfvision.workflow.sent_case import Sent
from ipfvision.workflow.studies import Studies, are_stacked_pictures, find_scans, new_case, split_pictures
from ipfvision.workflow.study_reading import METHOD, as_shown
from ipfvision.workflow.uploads import Progress, Refusal, Upload

_KEY = "ipfvision-study"
NOT_NOW = "The machine's answer is being asked for; what you draw now is kept with your revision."


@dataclass(slots=True, eq=False)
class StudyDesk:
    """One tab's part in studies."""

    desk: Session = field(default_factory=Session)
    reader: str = ""
    study_id: str | None = None
    review: AnyReview | None = None
    """The open case, as it was last known."""
    said: Draft = field(default_factory=Draft)
    """What the form says, without drawings."""
    kept: Draft = field(default_factory=Draft)
    """What was last saved, with drawings."""
    revision: int = 0
    stale: str = ""
    """Why nothing can be saved here any more: the case has gone on in another tab."""
    news: str = ""
    """One sentence on what was just done."""
    refusals: tuple[Refusal, ...] = ()
    """Of the last files."""
    done: tuple[int, int] = (0, 0)
    """Finished cases, and all, when the case was opened."""
    wish: str = ""
    """What a button asked for and was not done yet: a script run that is cut short leaves it for the next one."""
    generation: int = 0
    """How often a case was opened: part of the keys of its widgets."""
    drops: int = 0
    """How often files were taken in: part of the uploader's key."""
    counted: tuple[object, Counted] | None = None
    """The last figures, and what they are of."""
    sent: Sent | None = None
    """Files that were made of a review, until others are."""
    sent_of: str = ""
    """That review."""
    sent_count: int = 0
    """How often files were made: part of the uploader's key."""
    _turn: threading.RLock = field(default_factory=threading.RLock)

    def __post_init__(self) -> None:
        self.desk.on_leave = self._forget_sent

    # Scans

    @property
    def upload_key(self) -> str:
        """Key of the uploader: a new one each time makes it empty again."""
        return f"study-scans-{self.drops}"

    def take_in(self, files: Sequence[UploadedFile], progress: Progress | None = None) -> None:
        """Take in what was dropped, and let go of the files' bytes."""
        intake = take_in([Upload(file.name, file.getvalue()) for file in files], progress)
        session.let_go(self.upload_key)
        self.add(intake.series, intake.refusals)

    def add(self, series: Iterable[Series], refusals: tuple[Refusal, ...] = ()) -> None:
        """Keep scans for as long as this tab lives; the same scan once."""
        known = {_pixels(one) for one in self.desk.scans}
        fresh = {_pixels(one): one for one in series}
        self.desk.scans += tuple(one for pixels, one in fresh.items() if pixels not in known)
        self.refusals, self.drops = refusals, self.drops + 1

    def scans_of(self, cases: Iterable[Case]) -> dict[str, Series]:
        """The cases' scans, as far as they were dropped here, by the cases' names."""
        return find_scans(cases, self.desk.scans)

    def strangers(self, cases: Sequence[Case], *, single_pictures: bool) -> list[Series]:
        """What was dropped and is no case of this study, each as it would become one."""
        if self.study_id is None:
            return []
        known = {one.id for one in cases}
        given = split_pictures(self.desk.scans) if single_pictures else self.desk.scans
        return [one for one in given if new_case(one).id(self.study_id) not in known]

    @property
    def has_stacked_pictures(self) -> bool:
        """Whether several PNG or JPEG files came together, which may be one scan or one of each of several patients."""
        return any(are_stacked_pictures(one) for one in self.desk.scans)

    # The open case

    @property
    def stage(self) -> Stage:
        """Of the open case; `NEW` if none is."""
        if self.review is None:
            return Stage.NEW
        return Stage.FINISHED if isinstance(self.review, Review) else self.review.stage

    @property
    def answer(self) -> MachineAnswer | None:
        """The machine's, once it was shown."""
        return self.review.answer if isinstance(self.review, RevealedReview | Review) else None

    @property
    def asks(self) -> bool:
        """Whether the machine's answer is to be asked for now."""
        open_mode = isinstance(self.review, BlindReview) and self.review.study.mode is Mode.OPEN
        return self.stage is Stage.LOCKED or open_mode

    def ask_for(self, wish: str) -> None:
        """A button was pressed."""
        self.wish = wish

    def take_wish(self, wish: str) -> bool:
        """Whether this is what was asked for; it is not asked for any more then."""
        if self.wish != wish:
            return False
        self.wish = ""
        return True

    def sit_down(self, study_id: str) -> None:
        """Turn to a study."""
        self.close()
        self.study_id = study_id

    def open(self, studies: Studies, case: Case, scan: Series) -> None:
        """Open a case where this reader left it."""
        with self._turn:
            if self.study_id is None:
                raise ValueError("a case is opened in a study")
            self._show(studies, studies.open_case(self.study_id, case.id, self.reader), scan)

    def reopen(self, studies: Studies) -> None:
        """Begin a correction of the finished case that is open."""
        with self._turn:
            if self.review is not None and self.desk.opened is not None:
                self._show(studies, studies.reopen(self.review.id, self.reader), self.desk.opened.series[0])

    def again(self, studies: Studies) -> None:
        """Take the open case as it stands by now, and let go of what this tab could not save."""
        with self._turn:
            if self.review is not None and self.desk.opened is not None:
                self.open(studies, self.review.case, self.desk.opened.series[0])

    def insist(self, studies: Studies) -> None:
        """Save what this tab has over what another one saved, as far as the case stands where it stood here."""
        with self._turn:
            if self.review is None or self.study_id is None:
                return
            found = studies.open_case(self.study_id, self.review.case.id, self.reader)
            if isinstance(found, Review) or found.stage is not self.stage or found.id != self.review.id:
                self.again(studies)
                return
            self.review, self.revision, self.stale, self.wish = found, found.revision, "", ""
            self.save(studies)

    @property
    def unsaved(self) -> bool:
        """Whether something was said or drawn of the open case that is not on the disk."""
        settled = self.review is None or isinstance(self.review, Review) or self.stage is Stage.LOCKED
        return not settled and self.draft() != self.kept

    def close(self) -> None:
        """Put the open case away, and forget what is `unsaved`."""
        with self._turn:
            self.desk.on_drawn = None
            self.desk.clear()
            self.review, self.stale, self.wish = None, "", ""
            self.said = self.kept = Draft()
            self._forget_sent()

    def _forget_sent(self) -> None:
        """DICOM files carry the patient: they stay no longer than the scans."""
        self.sent, self.sent_of, self.counted = None, "", None

    def _show(self, studies: Studies, review: AnyReview, scan: Series) -> None:
        self.desk.on_drawn, self.wish = None, ""
        self.desk.open(Opened(f"Case {review.case.number}", (scan,)))
        draft = Draft.from_opinion(review.revised, review.judgment) if isinstance(review, Review) else review.draft
        self.said = replace(draft, drawings=())
        self.generation, self.stale = self.generation + 1, ""
        self.done = studies.progress(review.study.id).get(review.reader, (0, 0))
        self._lay_out(draft.drawings)
        self._stands(review)
        if self.answer is not None:
            self._show_answer(self.answer)
        self.desk.on_drawn = partial(self.save, studies)

    def _lay_out(self, drawings: Iterable[Drawn]) -> None:
        if self.desk.opened is None:
            return
        stack = self.desk.opened.stack(0)
        for one in drawings:
            before = self.desk.drawing(stack, one.slice_index)
            findings = {**before.findings, one.finding: np.array(one.runs, np.uint32)}
            self.desk.draw(stack, one.slice_index, Drawing(1, findings))

    def _stands(self, review: AnyReview) -> None:
        self.review = review
        if not isinstance(review, Review):
            self.revision, self.kept = review.revision, review.draft

    def drawn(self) -> tuple[Drawn, ...]:
        """What is drawn on the open case: what was drawn and taken away again is not in it."""
        opened = self.desk.opened
        if opened is None:
            return ()
        found = []
        for (stack, index), drawing in sorted(self.desk.drawings.items()):
            if stack == opened.stack(0):
                shape = opened.series[0].slices[index].shape
                found += [
                    Drawn(index, finding, shape, tuple(runs.tolist()))
                    for finding, runs in drawing.findings.items()
                    if len(runs) > 1
                ]
        return tuple(found)

    def draft(self) -> Draft:
        """All that was said and drawn so far."""
        return replace(self.said, drawings=self.drawn())

    def say(self, studies: Studies, said: Draft) -> None:
        """Keep what the form says."""
        with self._turn:
            self.said = said
            if not isinstance(self.review, Review) and self.stage is not Stage.LOCKED:
                self.save(studies)

    def save(self, studies: Studies) -> None:
        """Bring everything to the disk, if anything is new.

        Raises
        ------
        StudyProblem
            With a sentence. What this tab has stays here.
        """
        with self._turn:
            if self.stale:
                raise ReviewChanged(self.stale)
            if self.review is None or isinstance(self.review, Review):
                raise ReviewRefused("This case is finished; reopen it to correct it.")
            if self.stage is Stage.LOCKED:
                raise ReviewRefused(NOT_NOW)
            if not self.unsaved:
                return
            draft = self.draft()
            with self._watched():
                self.revision = studies.autosave(self.review.id, self.reader, self.revision, draft)
            self.kept = draft

    def lock(self, studies: Studies, model_sha256: str) -> None:
        """Lock the opinion; raises StudyProblem."""
        with self._turn, self._watched():
            if self.review is not None:
                self._stands(studies.lock(self.review.id, self.reader, self.revision, self.draft(), model_sha256))

    def reveal(self, studies: Studies, compute: Callable[[Case], MachineAnswer]) -> None:
        """Keep the machine's answer and show it; raises StudyProblem."""
        with self._turn, self._watched():
            if self.review is None or self.desk.opened is None:
                return
            found = studies.reveal(self.review.id, self.reader, compute)
            if not isinstance(found, Review) and found.draft == self.kept:
                self._stands(found)
            elif not self.unsaved:  # another tab was quicker, and has gone on
                self._show(studies, found, self.desk.opened.series[0])
            else:  # the revision stays that of this tab, so that the next thing to be saved is told
                self.review = found
            if self.answer is not None:
                self._show_answer(self.answer)

    def finish(self, studies: Studies) -> None:
        """Keep the last word; raises StudyProblem."""
        with self._turn, self._watched():
            if self.review is not None:
                self._stands(studies.finish(self.review.id, self.reader, self.revision, self.draft()))

    @contextmanager
    def _watched(self) -> Iterator[None]:
        """Notice that the case has gone on elsewhere."""
        try:
            yield
        except ReviewChanged as error:
            self.stale = str(error)
            raise

    def _show_answer(self, answer: MachineAnswer) -> None:
        """Put the answer where the routes find it: as it was kept, so that it is the same on every day."""
        opened = self.desk.opened
        if opened is None:
            return
        self.desk.seen.clear()
        for index, reading in as_shown(answer, opened.series[0].slices).items():
            self.desk.seen[0, index, METHOD] = Seen(reading, None)

    def reading(self, index: int) -> Reading | None:
        """What may be shown of a slice: nothing before the answer was revealed."""
        return None if self.answer is None else self.desk.any_reading(0, index)


def current() -> StudyDesk:
    """Find or make the study desk of the reader whose script run this is."""
    desk = session.once(_KEY, StudyDesk)
    session.seat(desk.desk)
    return desk


def _pixels(series: Series) -> frozenset[str]:
    return frozenset(one.source.pixel_sha256 for one in series.slices)

"""What the pages of studies show, as HTML strings: pure functions, no Streamlit. Whatever was typed is escaped."""

from collections.abc import Iterable, Mapping, Sequence
from html import escape

from ipfvision.core.review import Mode, Opinion, Stage, Study, WorkItem
from ipfvision.ui.markup import listing, plural

MODE_WORDS = {
    Mode.BLINDED: "Blinded: you say first what you see and lock it. Then the machine\u2019s answer and its map appear.",
    Mode.OPEN: "Open: the machine\u2019s answer and its map are there from the start.",
}
MODE_NAMES = {Mode.BLINDED: "Blinded first", Mode.OPEN: "Open"}
STAGE_WORDS = {
    Stage.NEW: "to be read",
    Stage.READING: "begun",
    Stage.LOCKED: "locked",
    Stage.REVEALED: "answer seen",
    Stage.FINISHED: "read",
    Stage.REOPENED: "being corrected",
}
NO_LOGIN = "A name, not a login: whoever opens this page can type any name."
CONFIDENCE_WORDS = {1: "1 guess", 2: "2", 3: "3", 4: "4", 5: "5 certain"}


def study_start() -> str:
    """Above the field for the name."""
    return (
        '<div class="ipf-welcome"><h1>Read a study, alone or with colleagues</h1>'
        "<p>A study is a work list of scans. Each reader reads every case in an order of their own and says what they see "
        "before the machine\u2019s answer is shown. What is said is kept, with its times; scans are not kept.</p></div>"
    )


def heading(title: str, sentence: str) -> str:
    """Of a page."""
    return f'<div class="ipf-study"><h1>{escape(title)}</h1><p>{escape(sentence)}</p></div>'


def study_line(study: Study, cases: int, done: int | None) -> str:
    """One study in a list; `done` is None for who has not joined."""
    mine = "not joined" if done is None else f"{done} of {plural(cases, 'case')} read"
    said = f"{MODE_NAMES[study.mode]}, begun {study.created:%Y-%m-%d}, {plural(cases, 'case')}; {mine}"
    return f'<div class="ipf-now"><b>{escape(study.title)}</b><small>{escape(said)}</small></div>'


def progress(members: Mapping[str, tuple[int, int]], roles: Mapping[str, str]) -> str:
    """How far each member is."""
    rows = "".join(
        f'<tr><th scope="row">{escape(name)}</th><td>{escape(roles.get(name, ""))}</td><td>{done} of {total}</td></tr>'
        for name, (done, total) in members.items()
    )
    head = '<tr><th scope="col">Reader</th><th scope="col">Role</th><th scope="col">Read</th></tr>'
    return f'<table class="ipf-plain"><thead>{head}</thead><tbody>{rows}</tbody></table>'


def missing(count: int, total: int) -> str:
    """That scans are not here."""
    if not count:
        return ""
    which = "No scan of this study is" if count == total else f"The scans of {count} of {plural(total, 'case')} are not"
    return listing("", [f"{which} here. Drop them on the left: they are known by their pixels, whatever the files are called."])


def case_head(number: int, done: int, total: int, study: Study, stage: Stage) -> str:
    """Above the form of a case."""
    step = {Stage.READING: 0, Stage.LOCKED: 1, Stage.REVEALED: 1, Stage.REOPENED: 1, Stage.FINISHED: 2}.get(stage, 0)
    names: tuple[str, ...] = ("You see", "The answer", "Done")
    if study.mode is Mode.OPEN:
        names, step = ("Reading", "Done"), step // 2
    current = ' aria-current="step"'
    steps = "".join(f"<li{current if index == step else ''}>{name}</li>" for index, name in enumerate(names))
    return (
        f'<div class="ipf-case"><b>Case {number}</b><span>{done} of {total} read</span></div><ol class="ipf-steps">{steps}</ol>'
    )


def first_opinion(first: Opinion) -> str:
    """What was locked."""
    said = f"{first.diagnosis.value}, confidence {first.confidence} of 5"
    return f'<div class="ipf-now">Before the answer: <b>{escape(said)}</b><small>Locked; it stays as it is.</small></div>'


def news(sentence: str) -> str:
    """What was just done."""
    return f'<p class="ipf-news" role="status">{escape(sentence)}</p>' if sentence else ""


def tile_words(item: WorkItem, *, is_here: bool) -> str:
    """Name of a case's button."""
    words = STAGE_WORDS[item.stage] if is_here else f"{STAGE_WORDS[item.stage]}, scan not here"
    return f"Case {item.case.number}: {words}"


def refused(files: Iterable[tuple[str, str]]) -> str:
    """Files that were dropped and not read."""
    sentences = [f"{name}: {reason}" for name, reason in files]
    return listing("Not read", sentences)


def stage_counts(items: Sequence[WorkItem]) -> str:
    """How far the reader is, in words."""
    done = sum(one.stage in (Stage.FINISHED, Stage.REOPENED) for one in items)
    begun = sum(one.stage in (Stage.READING, Stage.LOCKED, Stage.REVEALED) for one in items)
    words = f"{done} of {plural(len(items), 'case')} read"
    return f"{words}, {begun} begun" if begun else words

"""What the page "Reviews" shows, as HTML strings: the readings, and in a clinician's words what they add up to."""

from collections.abc import Iterable, Mapping, Sequence
from html import escape

from ipfvision.core.findings import Prediction, in_two_digits
from ipfvision.core.reader_statistics import Estimate
from ipfvision.core.review import Opinion, Review
from ipfvision.ui.markup import WORDS, listing, number, picture, plural
from ipfvision.workflow.reader_agreement import Agreement, AnswerAgreement, Changes, Counted, Seconds, most_like_ipf

DASH = "\N{EN DASH}"
STRENGTHS = ((0.0, "no better than chance"), (0.2, "slight"), (0.4, "fair"), (0.6, "moderate"), (0.8, "substantial"))
"""Landis and Koch, Biometrics 1977;33:159-174, for kappas up to each value; "almost perfect" above."""
KAPPA = "Agreement beyond chance: 1 is always the same, 0 is no better than chance."
FEW_CASES = 20
"""Below which the page says that intervals are wide."""


def strength(kappa: float) -> str:
    """A kappa in a word."""
    return next((word for most, word in STRENGTHS if kappa <= most), "almost perfect")


def percent(value: float) -> str:
    """A share without decimals."""
    return f"{100 * value:.0f} %"


def figure(one: Estimate | None, *, as_percent: bool = False, unit: str = "") -> str:
    """A figure with its interval; a dash where it is not defined."""
    if one is None or one.value is None:
        return DASH

    def words(value: float) -> str:
        return percent(value) if as_percent else number(value, 0 if unit else 2)

    found = f"{words(one.value)}{unit}"
    if one.interval_95 is not None:
        low, high = one.interval_95
        found += f" ({words(low)} to {words(high)})"
    return found


def _table(head: Sequence[str], rows: Iterable[Sequence[str]], caption: str) -> str:
    """Cells are texts: they are escaped here. The first of each row is its heading."""
    columns = "".join(f'<th scope="col">{escape(one)}</th>' for one in head)
    body = "".join(
        f'<tr><th scope="row">{escape(first)}</th>{"".join(f"<td>{escape(one)}</td>" for one in rest)}</tr>'
        for first, *rest in rows
    )
    said = f'<caption class="ipf-heading">{escape(caption)}</caption>' if caption else ""
    return f'<table class="ipf-plain wide">{said}<thead><tr>{columns}</tr></thead><tbody>{body}</tbody></table>'


def readings(reviews: Sequence[Review]) -> str:
    """One line for each reading."""
    head = ("Case", "Reader", "Before the answer", "With the answer", "The map", "The machine", "Time before", "Time after")
    return _table(head, (_line(one) for one in reviews), "")


def _line(one: Review) -> tuple[str, ...]:
    judgment, prediction = one.judgment, most_like_ipf(one.answer)
    said = DASH
    if judgment is not None:
        said = judgment.verdict.value
        if judgment.reasons:
            said += f": {', '.join(reason.value for reason in judgment.reasons)}"
    machine = answer_words(prediction)
    if one.model_changed:
        machine += ", another model than at the lock"
    to_lock = one.times.seconds_to_lock
    return (
        f"{one.case.number}",
        one.reader,
        opinion(one.first),
        opinion(one.revised),
        said,
        machine,
        DASH if to_lock is None else duration(to_lock),
        duration(one.times.seconds - (to_lock or 0.0)),
    )


def opinion(one: Opinion | None) -> str:
    """Diagnosis, and in brackets the confidence out of 5."""
    return DASH if one is None else f"{one.diagnosis.value} ({one.confidence})"


def answer_words(prediction: Prediction) -> str:
    """The machine's answer for a slice."""
    word = WORDS[prediction.decision]
    return word if prediction.probability is None else f"{word} {in_two_digits(prediction.probability)}"


def framed(content: bytes, words: str) -> str:
    """A picture with what it is below it."""
    return f'<figure class="ipf-framed">{picture(content, words)}<figcaption>{escape(words)}</figcaption></figure>'


def legend(colors: Mapping[str, str]) -> str:
    """Which color is which finding."""
    items = "".join(f'<span><i style="background:{color}"></i>{escape(name)}</span>' for name, color in colors.items())
    return f'<p class="ipf-legend">{items}</p>'


def duration(seconds: float) -> str:
    """Minutes and seconds."""
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


def headlines(counted: Counted) -> str:
    """What it comes to, in a few sentences."""
    said = [
        f"{plural(counted.reviews, 'reading')} of {plural(counted.cases, 'case')} by {plural(len(counted.readers), 'reader')}."
    ]
    alone = counted.first or counted.revised
    same, kappa = alone.diagnosis.same, alone.diagnosis.kappa
    if same.value is not None:
        when = (
            "Before they saw the machine\u2019s answer"
            if counted.first is not None
            else "With the machine\u2019s answer on screen"
        )
        sentence = f"{when}, two readers gave the same diagnosis in {percent(same.value)} of the cases"
        if kappa.value is not None:
            word = strength(kappa.value)
            word = f"agreement {word}" if kappa.value <= 0 else f"{word} agreement beyond chance"
            sentence += f": {word} (kappa {number(kappa.value, 2)})"
        said.append(sentence + ".")
    changes = counted.readings[0].changes if counted.readings else None
    if changes is not None and changes.readings:
        said.append(_changed(changes))
    gap = counted.revised.gap
    if gap.map_to_reader.value is not None and gap.reader_to_reader.value is not None:
        said.append(
            f"Two readers\u2019 drawings overlap with a Dice of {number(gap.reader_to_reader.value, 2)}, "
            f"the map and a reader\u2019s drawing with {number(gap.map_to_reader.value, 2)}."
        )
    warnings = []
    if counted.cases < FEW_CASES:
        warnings.append(
            f"These are {plural(counted.cases, 'case')}. The intervals say how far the figures would move with other cases; "
            "with so few cases they are wide."
        )
    if len(counted.models) > 1:
        warnings.append("The answers came from more than one model: figures of the map mix them.")
    return listing("", said, kind="note") + listing("", warnings)


def _changed(changes: Changes) -> str:
    if not changes.changed:
        return f"In none of {plural(changes.readings, 'blinded reading')} the diagnosis was changed after the answer."
    share_of = f"{changes.changed} of {plural(changes.readings, 'blinded reading')}"
    return (
        f"After the answer the diagnosis was changed in {share_of}: {changes.towards} towards the machine\u2019s answer, "
        f"{changes.away} away from it."
    )


def agreement(counted: Counted) -> str:
    """Every figure, with what it says."""
    parts = [_diagnoses(counted), _pairs(counted), _drawings(counted), _changes(counted), _verdicts(counted), _times(counted)]
    return "".join(part for part in parts if part)


def _words(counted: Counted) -> list[tuple[str, Agreement]]:
    found = [] if counted.first is None else [("before the answer", counted.first)]
    return [*found, ("with the answer", counted.revised)]


def _diagnoses(counted: Counted) -> str:
    words = _words(counted)
    each = [one.diagnosis for _, one in words]
    rows = [
        ("Same diagnosis", *(figure(one.same, as_percent=True) for one in each), "Of the cases that two readers share."),
        ("Cohen\u2019s kappa", *(_kappa(one.kappa) for one in each), KAPPA),
        (
            "The same, weighted",
            *(_kappa(one.weighted_kappa) for one in each),
            "A near miss counts less than a far one (quadratic weights, in the order of the form).",
        ),
        ("Fleiss\u2019 kappa", *(_kappa(one.fleiss) for one in each), "All readers at once, of cases that all have read."),
        ("Krippendorff\u2019s alpha", *(_kappa(one.alpha) for one in each), "All readers at once; a case may lack a reader."),
    ]
    head = ("", *(name for name, _ in words), "what it says (95 % interval over cases in brackets)")
    return _table(head, rows, "Do readers agree on the diagnosis?")


def _kappa(one: Estimate | None) -> str:
    said = figure(one)
    return said if one is None or one.value is None else f"{said}, {strength(one.value)}"


def _pairs(counted: Counted) -> str:
    words = _words(counted)
    pairs = [one.readers for one in counted.revised.diagnosis.pairs]
    if not pairs:
        return ""
    rows = []
    for readers in pairs:
        found = [next((one for one in each.diagnosis.pairs if one.readers == readers), None) for _, each in words]
        rows.append((f"{readers[0]}, {readers[1]}", *(DASH if one is None else _kappa(one.kappa) for one in found)))
    return _table(("", *(f"kappa {name}" for name, _ in words)), rows, "Pair by pair")


def _drawings(counted: Counted) -> str:
    words = _words(counted)
    if not any(one.drawings[0].mean.value is not None for _, one in words):
        return ""
    rows = [
        (
            "Reader to reader",
            *(figure(one.gap.reader_to_reader) for _, one in words),
            "Dice of the drawings: 1 is the same area, 0 is no overlap. On slices with a map that anybody marked.",
        ),
        (
            "Map to reader",
            *(figure(one.gap.map_to_reader) for _, one in words),
            "The map at half its peak, as one more reader.",
        ),
        (
            "The gap",
            *(figure(one.gap.gap) for _, one in words),
            "Reader to reader minus map to reader: 0 is a map that is as near to a reader as another reader.",
        ),
    ]
    for drawings in counted.revised.drawings[1:]:
        finding = drawings.finding
        means = [next((each.mean for each in one.drawings if each.finding is finding), None) for _, one in words]
        name = "" if finding is None else finding.value.capitalize()
        rows.append((name, *(figure(one) for one in means), "Dice, reader to reader, of this finding alone."))
    head = ("", *(name for name, _ in words), "what it says")
    return _table(head, rows, "Do drawings agree, and does the map?")


def _changes(counted: Counted) -> str:
    rows = [
        (
            one.reader or "All",
            f"{one.changes.readings}",
            f"{one.changes.changed}",
            f"{one.changes.towards}",
            f"{one.changes.away}",
            f"{one.changes.more_confident} more, {one.changes.less_confident} less",
            f"{one.changes.redrawn}",
        )
        for one in counted.readings
        if one.changes.readings
    ]
    head = ("", "blinded readings", "diagnosis changed", "towards the machine", "away from it", "confident", "drawn again")
    return _table(head, rows, "What did the answer change?") if rows else ""


def _verdicts(counted: Counted) -> str:
    verdicts: AnswerAgreement = counted.verdicts
    rows = [(reader, *(f"{one}" for one in counts)) for reader, counts in verdicts.counts if sum(counts)]
    if not rows:
        return ""
    reasons = ", ".join(f"{reason} {count}" for reason, count in counted.reasons)
    said = listing("", [f"Reasons given: {reasons}."], kind="note") if reasons else ""
    return _table(("The map", *verdicts.answers), rows, "What do readers say of the map?") + said


def _times(counted: Counted) -> str:
    rows = [
        (one.reader or "All", _seconds(one.to_lock), _seconds(one.after_lock))
        for one in counted.readings
        if one.after_lock.readings
    ]
    head = ("", "before the answer, median (middle half)", "after it, median (middle half)")
    return _table(head, rows, "How long does a case take? Pauses are not counted") if rows else ""


def _seconds(one: Seconds) -> str:
    if one.median.value is None:
        return DASH
    said = f"{number(one.median.value, 0)} s"
    return said if one.quartiles is None else f"{said} ({number(one.quartiles[0], 0)} to {number(one.quartiles[1], 0)} s)"

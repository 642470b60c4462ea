"""What the page shows, as HTML strings: pure functions, no Streamlit.

Every text that comes from a file, a DICOM header or an error is escaped here. None of it goes through Markdown, where a file
name could become a link or an image from another address.
"""

import base64
from collections.abc import Iterable, Mapping, Sequence
from html import escape

import cv2
import numpy as np
import numpy.typing as npt

from ipfvision.core.findings import Decision, Explanation, ModelCard, Prediction, in_two_digits
from ipfvision.core.slice import Scale, Series, Slice
from ipfvision.core.window import Window

WORDS = {
    Decision.IPF: "IPF-like",
    Decision.NORMAL: "Normal-like",
    Decision.UNCERTAIN: "Uncertain",
    Decision.REFUSED: "Not read",
}
TARGET_WORDS = {"ipf": "IPF", "normal": "normal lung"}
STATUS_WORDS = {"preliminary": "preliminary, not validated on patients", "released": "released"}


def number(value: float, digits: int = 1) -> str:
    """A number with a real minus sign, and no "-0.0"."""
    text = f"{value:.{digits}f}"
    return (text[1:] if float(text) == 0 and text.startswith("-") else text).replace("-", "\N{MINUS SIGN}")


def signed(value: float, digits: int = 2) -> str:
    """A number with its sign, plus included."""
    text = number(value, digits)
    return text if text.startswith("\N{MINUS SIGN}") or float(text) == 0 else "+" + text


def png(image: npt.NDArray[np.uint8]) -> bytes:
    """(H, W) grey or (H, W, 3) RGB as PNG: lossless, and with no text inside."""
    pixels = image if image.ndim == 2 else cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    done, encoded = cv2.imencode(".png", pixels, [cv2.IMWRITE_PNG_COMPRESSION, 1])
    if not done:
        raise ValueError(f"no PNG from {image.shape} {image.dtype}")
    return encoded.tobytes()


def picture(content: bytes, description: str) -> str:
    """An <img> that carries its own PNG: it reaches the browser over the session's own connection, byte for byte."""
    encoded = base64.b64encode(content).decode("ascii")
    return f'<img src="data:image/png;base64,{encoded}" alt="{escape(description)}">'


def banner(card: ModelCard | None) -> str:
    """The sentence that is always on the page."""
    status = "" if card is None else f"<span>Model: <b>{escape(STATUS_WORDS.get(card.status, card.status))}</b></span>"
    return (
        '<div class="ipf-banner" role="note"><b>Research use only. Not a medical device.</b>'
        "<span>Tells IPF from normal lung only: other lung diseases were never seen by it.</span>"
        f"{status}</div>"
    )


def answer(card: ModelCard, prediction: Prediction, where_words: str, warnings: int = 0) -> str:
    """The answer for one slice: a word, what it rests on, and how sure it is."""
    decision = prediction.decision
    # A shape as well as a color, so that nothing is said by color alone (WCAG 2.2, 1.4.1).
    word = f'<div class="ipf-word {decision.value}"><i></i>{WORDS[decision]}<small>{escape(where_words)}</small></div>'
    scale = "<div></div>"
    if prediction.probability is not None and prediction.margin is not None:
        low, high = (100 * value for value in card.uncertain_band)
        scale = (
            '<div class="ipf-scale"><div class="line">'
            f"<span>IPF rather than normal lung <strong>{in_two_digits(prediction.probability)}</strong></span>"
            f"<span>Margin <strong>{signed(prediction.margin)}</strong> logits</span></div>"
            f'<div class="track"><i class="band" style="left:{low:.1f}%;width:{high - low:.1f}%"></i>'
            f'<i class="here" style="left:{100 * prediction.probability:.1f}%"></i></div>'
            '<div class="line"><span>0: normal lung</span><span>calibrated; light band: uncertain</span>'
            "<span>1: IPF</span></div></div>"
        )
    count = ""
    if warnings:
        count = f'<div class="count">{plural(warnings, "warning")} below</div>'
    return f'<div class="ipf-answer">{word}{scale}<div class="ipf-reason">{escape(prediction.reason)}{count}</div></div>'


def word_only(word: str, where_words: str, sentence: str) -> str:
    """In the place of the answer: one word that is no answer, and why."""
    head = f'<div class="ipf-word">{escape(word)}<small>{escape(where_words)}</small></div>'
    return f'<div class="ipf-answer">{head}<div></div><div class="ipf-reason">{escape(sentence)}</div></div>'


def where(series: Series, index: int) -> str:
    """Which slice of a series this is; nothing for a single slice."""
    if len(series.slices) == 1:
        return "Single slice"
    plane = series.slices[index].plane
    position = "" if plane is None else f" at {number(plane.distance_mm())} mm"
    return f"Slice {index + 1} of {len(series.slices)}{position}"


def series_words(series: Series) -> str:
    """A series in a few words, none of which the patient's name could be in."""
    first = series.slices[0]
    parts = [plural(len(series.slices), "slice")]
    if first.thickness_mm is not None:
        parts.append(f"{first.thickness_mm:g} mm thick")
    if first.source.kernel:
        parts.append(f"kernel {first.source.kernel}")
    return ", ".join(parts)


def plural(count: int, noun: str) -> str:
    """Count something: 1 slice, 2 slices."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def welcome() -> str:
    """The empty state: what to do, in two sentences."""
    return (
        '<div class="ipf-welcome"><h1>How much does a slice look like IPF, and where does that come from?</h1>'
        "<p>Drop axial chest CT slices on the left: DICOM, PNG or JPEG, one slice, many, or a .zip of a series. "
        "You see each slice, the model\u2019s answer, and a map of the evidence behind it.</p>"
        '<p class="quiet">Files stay in memory and are forgotten when you close them. '
        "Nothing is written to disk or sent anywhere else.</p></div>"
    )


def nothing_read(files: Sequence[tuple[str, str]]) -> str:
    """In the place of a page: every file, and why it was not read."""
    return f'<div class="ipf-welcome"><h1>Nothing here could be read</h1>{refusals(files)}</div>'


def samples_heading() -> str:
    """Above the sample scans."""
    said = "Or start with a sample. This program drew them itself: no patient is in them."
    return f'<p class="ipf-heading">{said}</p>'


def thumbnail(content: bytes, title: str) -> str:
    """A small picture of a sample scan."""
    return f'<div class="ipf-thumbnail">{picture(content, title)}</div>'


def now_open(title: str, slices: int, refused: int, expected: str | None = None) -> str:
    """What is open, for the side bar. `expected` is the answer that belongs to a sample."""
    said = [f"{plural(slices, 'slice')} read in"]
    if expected is not None:
        said = [f"A sample, drawn by this program. Expected: {WORDS[Decision(expected)]}"]
    if refused:
        place = "under the images" if slices else "on the right"
        said.append(f"{plural(refused, 'file')} not read, listed {place}")
    notes = "".join(f"<small>{escape(sentence)}</small>" for sentence in said)
    return f'<div class="ipf-now"><b>{escape(title)}</b>{notes}</div>'


def now_reading(name: str, how: str) -> str:
    """Who reads, for the side bar."""
    return f'<div class="ipf-now">Reader: <b>{escape(name)}</b><small>{escape(how)}</small></div>'


def facts(rows: Mapping[str, str]) -> str:
    """Names and values."""
    items = "".join(f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>" for name, value in rows.items())
    return f'<dl class="ipf-facts">{items}</dl>'


def listing(heading: str, sentences: Iterable[str], kind: str = "warning") -> str:
    """A heading and a list; nothing at all where there is nothing to say. `kind` is "warning" or "note"."""
    items = "".join(f'<li class="{kind}">{escape(sentence)}</li>' for sentence in sentences)
    head = f'<p class="ipf-heading">{escape(heading)}</p>' if heading else ""
    return f'{head}<ul class="ipf-list">{items}</ul>' if items else ""


def refusals(files: Sequence[tuple[str, str]]) -> str:
    """Every file that was not read, with its sentence."""
    items = "".join(f"<li><b>{escape(name)}</b><br>{escape(reason)}</li>" for name, reason in files)
    return f'<ul class="ipf-list">{items}</ul>'


def series_summary(decisions: Sequence[Decision]) -> str:
    """How many slices of a series got which answer. It is a count of slices, not an answer for the patient."""
    counts = ", ".join(f"{WORDS[decision]} {decisions.count(decision)}" for decision in Decision if decision in decisions)
    said = "Counts of slices, not an answer for the patient."
    return f'<div class="ipf-now">{plural(len(decisions), "slice")}: {counts}.<small>{said}</small></div>'


def model_input(content: bytes) -> str:
    """The image that went into the network."""
    return (
        f'<figure class="ipf-saw">{picture(content, "What the model saw")}<figcaption>What the model saw</figcaption></figure>'
    )


def window_words(window: Window) -> str:
    """A window in Hounsfield units, in words."""
    return f"center {number(window.center, 0)}, width {number(window.width, 0)} HU"


def peak_words(explanation: Explanation) -> str:
    """The map's largest value, and where it is."""
    where = explanation.peak_xy()
    if where is None:
        return f"no evidence for {TARGET_WORDS[explanation.target]} anywhere: the map is empty"
    unit = f" {explanation.unit}" if explanation.unit == "logits" else " (no unit: this method's values are only relative)"
    return f"{number(explanation.peak, 2)}{unit} at column {where[0]}, row {where[1]}"


def cell_words(cell: tuple[float, float] | None) -> str:
    """How small a thing the map can locate at all; `cell` is (width, height) in mm."""
    if cell is None:
        return "unknown: no pixel spacing in this file"
    return f"{number(cell[0], 0)} × {number(cell[1], 0)} mm: nothing smaller than this can be located"


def provenance(scan: Slice, card: ModelCard | None) -> dict[str, str]:
    """Where the slice and the answer come from. Nothing that names a patient."""
    source, missing = scan.source, "not in the file"
    rows, columns = scan.shape
    spacing = f"{scan.spacing.row_mm:.3f} × {scan.spacing.column_mm:.3f} mm (row, column)" if scan.spacing else missing
    facts_ = {"File": source.file, "Format": source.format, "Image": f"{columns} × {rows} pixels", "Pixel spacing": spacing}
    if source.format == "DICOM":
        facts_ |= {
            "Slice thickness": f"{scan.thickness_mm:g} mm" if scan.thickness_mm is not None else missing,
            "Convolution kernel": source.kernel or missing,
            "Manufacturer": source.manufacturer or missing,
            "Transfer syntax": source.transfer_syntax or missing,
        }
    facts_["Pixels (SHA-256)"] = source.pixel_sha256[:12]
    if card is not None:
        seen = window_words(card.window) if scan.scale is Scale.HOUNSFIELD else "grey values as they came: no Hounsfield units"
        facts_ |= {
            "Window the model used": seen,
            "Model": f"{card.name} ({card.status})",
            "Model weights (SHA-256)": card.sha256[:12],
        }
    return facts_

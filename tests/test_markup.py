"""What the page shows, as HTML: said rightly, escaped, and readable."""

import base64
import re
from pathlib import Path

import cv2
import numpy as np
import pytest

from ipfvision.core.findings import TARGETS, Decision, Explanation, ModelCard, Prediction, in_two_digits
from ipfvision.core.geometry import Crop
from ipfvision.core.slice import PixelSpacing, Plane, Scale, Series, Slice, Source
from ipfvision.core.window import LUNG
from ipfvision.ui import markup

ROOT = Path(__file__).parents[1]
EVIL = '<img src="https://elsewhere.example/x.png" onerror="alert(1)">'
CARD = ModelCard(
    name="m", sha256="0123456789abcdef", status="preliminary", labels=TARGETS, window=LUNG, input_shape=(32, 32), mean=0.5,
    standard_deviation=0.5, crop_margin=0.1, dilated_layer4=True, padding_mode="zeros", temperature=1.0, operating_point=0.5,
    uncertain_band=(0.4, 0.6), map_reference=2.0,
)  # fmt: skip


def scan(position_mm: float | None = None, **source: str) -> Slice:
    plane = None if position_mm is None else Plane((0.0, 0.0, position_mm), (1.0, 0.0, 0.0), (0.0, 1.0, 0.0))
    origin = Source(**{"file": "a.dcm", "format": "DICOM", "pixel_sha256": "f" * 64} | source)
    pixels = np.zeros((8, 8), np.int16)
    return Slice(pixels, Scale.HOUNSFIELD, origin, np.zeros((8, 8), bool), PixelSpacing(0.5, 0.7), plane)


def explanation(cells: object, unit: str = "logits") -> Explanation:
    values = np.asarray(cells, np.float32)
    return Explanation(values, Crop(0, 0, 40, 40, (32, 32), (40, 40)), "ipf", "gradcam", "layer4", unit)


@pytest.mark.parametrize(
    ("value", "words"), [(0.004, "under 0.01"), (0.01, "0.01"), (0.936, "0.94"), (0.99, "0.99"), (0.997, "over 0.99")]
)
def test_a_probability_never_claims_certainty(value: float, words: str) -> None:
    assert in_two_digits(value) == words


def test_numbers_have_a_real_minus_and_zero_has_none() -> None:
    assert markup.number(-3.14159, 2) == "\N{MINUS SIGN}3.14"
    assert markup.number(-0.001, 2) == "0.00"
    assert markup.signed(2.5) == "+2.50"
    assert markup.signed(-2.5) == "\N{MINUS SIGN}2.50"
    assert markup.signed(0.0) == "0.00"


@pytest.mark.parametrize("decision", list(Decision))
def test_every_answer_is_a_word_and_a_shape_not_a_color_alone(decision: Decision) -> None:
    numbers = (None, None) if decision is Decision.REFUSED else (0.7, 1.0)
    html = markup.answer(CARD, Prediction(decision, "Because.", *numbers), "Slice 1 of 2")
    assert markup.WORDS[decision] in html
    assert "Because." in html
    css = (ROOT / "ipfvision" / "ui" / "style.css").read_text("utf-8")
    assert f".ipf-word.{decision.value} i" in css


def test_a_refusal_shows_no_number() -> None:
    html = markup.answer(CARD, Prediction(Decision.REFUSED, "No lungs."), "Single slice")
    assert "logits" not in html
    assert "Not read" in html


def test_the_banner_says_what_the_model_is_not() -> None:
    html = markup.banner(CARD)
    assert "Research use only. Not a medical device." in html
    assert "other lung diseases were never seen" in html
    assert "preliminary, not validated" in html
    assert "Model" not in markup.banner(None)


def test_nothing_from_a_file_becomes_markup() -> None:
    pieces = [
        markup.refusals([(EVIL, EVIL)]),
        markup.listing(EVIL, [EVIL]),
        markup.facts(markup.provenance(scan(file=EVIL, manufacturer=EVIL, kernel=EVIL, transfer_syntax=EVIL), CARD)),
        markup.word_only("No answer", EVIL, EVIL),
        markup.answer(CARD, Prediction(Decision.IPF, EVIL, 0.9, 2.0), EVIL),
        markup.now_open(EVIL, 1, 0),
    ]
    assert not any('<img src="https' in piece for piece in pieces)
    assert all("&lt;img" in piece for piece in pieces)


def test_a_picture_keeps_every_pixel() -> None:
    image = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    html = markup.picture(markup.png(image), "a picture")
    content = base64.b64decode(re.search(r"base64,([^\"]+)\"", html)[1])  # type: ignore[index]
    decoded = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
    np.testing.assert_array_equal(cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB), image)


def test_a_slice_says_its_number_and_its_place() -> None:
    series = Series((scan(-120.0), scan(-118.75)))
    assert markup.where(series, 1) == "Slice 2 of 2 at \N{MINUS SIGN}118.8 mm"
    assert markup.where(Series((scan(),)), 0) == "Single slice"


def test_an_empty_map_is_called_empty() -> None:
    assert markup.peak_words(explanation([[0, 0], [0, 0]])) == "no evidence for IPF anywhere: the map is empty"


def test_the_peak_is_a_number_with_a_unit_and_a_place() -> None:
    assert markup.peak_words(explanation([[0, 3], [0, 0]])) == "3.00 logits at column 30, row 0"
    assert "no unit" in markup.peak_words(explanation([[0, 3], [0, 0]], "arbitrary"))


def test_a_cell_without_pixel_spacing_is_unknown() -> None:
    assert markup.cell_words(None) == "unknown: no pixel spacing in this file"
    assert markup.cell_words((12.4, 9.6)) == "12 × 10 mm: nothing smaller than this can be located"


def test_an_image_without_hounsfield_units_is_not_given_a_window() -> None:
    grey = np.zeros((4, 4), np.float32)
    picture = Slice(grey, Scale.GREY, Source("a.png", "PNG", "a" * 64), np.zeros((4, 4), bool))
    facts = markup.provenance(picture, CARD)
    assert facts["Window the model used"] == "grey values as they came: no Hounsfield units"
    assert facts["Pixel spacing"] == "not in the file"
    assert "Convolution kernel" not in facts


def test_the_style_sheet_fetches_nothing() -> None:
    css = (ROOT / "ipfvision" / "ui" / "style.css").read_text("utf-8")
    assert not re.search(r"url\(|@import|https?:", css)


def _luminance(color: str) -> float:
    """Relative luminance (WCAG 2.2)."""
    shares = [int(color[start : start + 2], 16) / 255 for start in (1, 3, 5)]
    linear = [share / 12.92 if share <= 0.04045 else ((share + 0.055) / 1.055) ** 2.4 for share in shares]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_every_text_color_has_the_contrast_of_wcag_aa() -> None:
    css = (ROOT / "ipfvision" / "ui" / "style.css").read_text("utf-8")
    colors = dict(re.findall(r"--ipf-([a-z]+): (#[0-9a-f]{6});", css))
    theme = (ROOT / ".streamlit" / "config.toml").read_text("utf-8")
    grounds = [colors.pop("background"), *re.findall(r"ackgroundColor = \"(#[0-9a-f]{6})\"", theme), "#1d1a12"]
    del colors["rule"]  # lines, not text
    assert len(colors) >= 6
    for color in colors.values():
        for ground in grounds:
            lighter, darker = sorted((_luminance(color), _luminance(ground)), reverse=True)
            assert (lighter + 0.05) / (darker + 0.05) >= 4.5, (color, ground)

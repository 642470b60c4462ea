"""The widgets beside the images, and the choices that they stand for. Nothing here reaches the model but the method."""

from collections.abc import Mapping
from dataclasses import dataclass

import streamlit as st

from ipfvision.core.findings import TARGETS, Explanation, ModelCard
from ipfvision.core.slice import Scale, Slice
from ipfvision.core.window import GREY, LUNG, MEDIASTINUM, Window
from ipfvision.ui import markup
from ipfvision.workflow.reading import full_scale

NO_HU = "This image has no Hounsfield units"


@dataclass(frozen=True, slots=True)
class GreyView:
    """How the reader wants to see the slice."""

    window: Window
    brightness: Window
    """For images without Hounsfield units: see `ipfvision.core.window.adjust_grey`."""
    caption: str


@dataclass(frozen=True, slots=True)
class MapView:
    """Which map the reader wants to see, and how."""

    target: str
    method: str
    opacity: float
    threshold: float
    """Share of the full scale below which nothing is drawn."""
    contour: bool
    own_peak: bool
    annotation: bool

    def full_scale(self, card: ModelCard, explanation: Explanation) -> float:
        """Map value that gets the brightest color.

        The model's own reference is in logits, so a map without a unit can only be drawn up to its own peak. An empty map has
        no peak: any scale draws it as nothing.
        """
        if self.own_peak:
            return explanation.peak or card.map_reference
        return full_scale(card, explanation)


def grey_view(scan: Slice) -> GreyView:
    """Window presets for Hounsfield units; brightness and contrast, with the reason, for an image without them."""
    if scan.scale is Scale.GREY:
        st.selectbox(
            "Window", [NO_HU], disabled=True, help="A CT window needs Hounsfield units, which PNG and JPEG files do not have."
        )
        left, right = st.columns(2)
        brightness = left.slider("Brightness", -50, 50, 0, 5, key="brightness", format="%d", persist_state="session")
        contrast = right.slider("Contrast", 50, 300, 100, 10, key="contrast", format="%d%%", persist_state="session")
        adjusted = "" if (brightness, contrast) == (0, 100) else f" Brightness {brightness:+d}, contrast {contrast}%."
        return GreyView(
            LUNG, Window(GREY.center - brightness, GREY.width * 100 / contrast), f"Grey values as they came. {NO_HU}.{adjusted}"
        )
    presets: dict[str, Window | None] = {
        "Lung": LUNG,
        "Mediastinum": MEDIASTINUM,
        "As the file says": scan.file_window,
        "Custom": None,
    }
    if scan.file_window is None:
        del presets["As the file says"]

    def words(name: str) -> str:
        window = presets[name]
        return name if window is None else f"{name} ({markup.number(window.center, 0)} / {markup.number(window.width, 0)})"

    name = st.selectbox(
        "Window (center / width)", list(presets), format_func=words, key="window", persist_state="session",
        help="Only what you see. The model always looks through the window it was trained with.",
    )  # fmt: skip
    shown = presets[name]
    if shown is None:
        left, right = st.columns(2)
        center = left.number_input("Center (HU)", -2000, 3000, int(LUNG.center), 10, key="center", persist_state="session")
        width = right.number_input("Width (HU)", 1, 6000, int(LUNG.width), 50, key="width", persist_state="session")
        shown = Window(float(center), float(width))
    return GreyView(shown, GREY, f"{name} window: {markup.window_words(shown)}")


def map_view(methods: Mapping[str, str], has_annotation: bool) -> MapView:
    """Class, method and looks of the heat map."""
    target = st.segmented_control(
        "Evidence for", TARGETS, default=TARGETS[0], required=True, format_func=markup.TARGET_WORDS.__getitem__, key="target",
        width="stretch", persist_state="session", help="Whose evidence the heat map shows. The answer stays the same.",
    )  # fmt: skip
    method = st.selectbox("Method", list(methods), format_func=methods.__getitem__, key="method", persist_state="session")
    left, right = st.columns(2)
    opacity = left.slider("Opacity", 0, 100, 60, 5, format="%d%%", key="opacity", persist_state="session")
    threshold = right.slider(
        "Threshold", 0, 90, 10, 5, format="%d%%", key="threshold", persist_state="session",
        help="Values below this share of the full scale are not drawn.",
    )  # fmt: skip
    drawn = st.segmented_control(
        "Drawn as", ("fill", "contour"), default="fill", required=True, format_func=str.capitalize, key="drawn",
        width="stretch", persist_state="session",
    )  # fmt: skip
    scale = st.selectbox(
        "Full color at", ("reference", "peak"), key="scale", persist_state="session",
        format_func={"reference": "the model's reference value", "peak": "this slice's own peak"}.__getitem__,
        help="With the model's reference, colors mean the same on every slice, and a weak map looks weak.",
    )  # fmt: skip
    if scale == "peak":
        st.caption("Full color at the slice's own peak hides magnitude: a faint map looks as strong as disease.")
    annotation = has_annotation and st.toggle("Outline the annotation", True, key="annotation", persist_state="session")
    return MapView(target, method, opacity / 100, threshold / 100, drawn == "contour", scale == "peak", annotation)

"""The pages that benchmarks/viewer.py opens: the real page with series already in memory, and a plain one to compare with.

Run by Streamlit, never alone. `IPFVISION_BENCHMARK` is "viewer" or "plain".
"""

import os

import numpy as np
import streamlit as st
from streamlit.runtime.scriptrunner import get_script_run_ctx

from ipfvision.core.overlay import display_grey
from ipfvision.core.slice import Plane, Scale, Series, Slice, Source
from ipfvision.core.window import LUNG, Window
from ipfvision.synthetic.thorax import draw_thorax
from ipfvision.ui import draw, server, session
from ipfvision.ui.session import Opened

SLICES = 300
SIZE = 512
DIFFERENT = 12
"""Drawn slices that the stacks are made of; each slice is one of them, moved by some pixels."""


@st.cache_resource(show_spinner=False)
def drawn() -> list[Slice]:
    """A few different slices."""
    random = np.random.default_rng(1)
    pictures = [draw_thorax(random, level=0.35 + 0.3 * n / DIFFERENT, size=SIZE, spacing_mm=0.7) for n in range(DIFFERENT)]
    return [
        Slice(one.pixels, Scale.HOUNSFIELD, Source("", "DICOM", ""), np.zeros((SIZE, SIZE), bool), one.spacing)
        for one in pictures
    ]


def series(number: int) -> Series:
    """A stack of its own memory."""
    slices = []
    for index in range(SLICES):
        like = drawn()[index % DIFFERENT]
        pixels = np.roll(like.pixels, (number, index), axis=(0, 1)).astype(np.int16)
        plane = Plane((-180.0, -180.0, float(index)), (1.0, 0.0, 0.0), (0.0, 1.0, 0.0))
        source = Source("", "DICOM", f"{number:032d}{index:032d}")
        slices.append(Slice(pixels, Scale.HOUNSFIELD, source, np.zeros(pixels.shape, bool), like.spacing, plane, 1.0))
    return Series(tuple(slices))


def viewer_page() -> None:
    """The real page; "Prepare" makes the next series, "Open" puts it on the desk as the end of an intake does."""
    desk, state = session.current(), st.session_state
    state.setdefault("number", 0)

    def prepare() -> None:
        state["number"] += 1
        state["next"] = series(state["number"])

    def put() -> None:
        desk.open(Opened(f"Series {state['number']}", (state.pop("next"),)))
        # Reading 300 slices with the network is measured elsewhere.
        desk.pause()

    with st.sidebar:
        st.button("Prepare", on_click=prepare, key="prepare")
        st.button("Open", on_click=put, key="open", disabled="next" not in state)
        st.text(f"prepared {state['number']}" if "next" in state else "nothing prepared")
    draw()


def plain_page() -> None:
    """What Streamlit offers by itself."""
    index = st.slider("Slice", 0, SLICES - 1, 150, key="slice")
    width = st.slider("Width", 100, 3000, 1500, key="width")
    scan = st.session_state.setdefault("series", series(0)).slices[index]
    shown = display_grey(scan, Window(LUNG.center, width))
    left, right = st.columns(2)
    left.image(shown, width="stretch")
    right.image(shown, width="stretch")


PAGES = {"viewer": viewer_page, "plain": plain_page}

if get_script_run_ctx(suppress_warning=True) is None:
    app = st.App(__file__, routes=server.routes(), lifespan=server.lifespan)
else:
    PAGES[os.environ["IPFVISION_BENCHMARK"]]()

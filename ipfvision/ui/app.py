"""The frame around every page: configuration, looks, and the sentence that is always there."""

from datetime import timedelta
from pathlib import Path

import streamlit as st

from ipfvision.ui import markup, page_read, session
from ipfvision.ui.slot import Slot

STYLE = Path(__file__).with_name("style.css")


@st.fragment(run_every=timedelta(days=1))
def _draw_again_after_a_lost_connection() -> None:
    """Make the browser ask for a script run whenever it has found the server again.

    By itself it asks only if it knew of a run that the cut interrupted (streamlit pull request 9083). Of a run that began just
    before, it does not know: the server stops that run half way and calls it finished, and the browser takes everything off the
    page that the half run did not draw, the scan first. With a fragment that runs by the clock it always asks (11890), and says
    what was chosen meanwhile. The interval itself serves nothing.
    """


def draw() -> None:
    """Draw the app for one script run."""
    # No page icon: Streamlit would fetch an emoji or a symbol from another address.
    st.set_page_config(page_title="ipfvision", layout="wide", initial_sidebar_state=310)
    _draw_again_after_a_lost_connection()
    st.html(STYLE)
    banner = Slot()
    banner.html(markup.banner(session.current().card))
    page_read.draw(banner)

"""The frame around every page: configuration, looks, and the sentence that is always there."""

from pathlib import Path

import streamlit as st

from ipfvision.ui import markup, page_read, session
from ipfvision.ui.slot import Slot

STYLE = Path(__file__).with_name("style.css")


def draw() -> None:
    """Draw the app for one script run."""
    # No page icon: Streamlit would fetch an emoji or a symbol from another address.
    st.set_page_config(page_title="ipfvision", layout="wide", initial_sidebar_state=310)
    st.html(STYLE)
    banner = Slot()
    banner.html(markup.banner(session.current().card))
    page_read.draw(banner)

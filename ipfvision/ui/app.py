"""The frame around every page: configuration, looks, and the sentence that is always there."""

from datetime import timedelta
from functools import partial
from pathlib import Path

import streamlit as st

from ipfvision.ui import markup, page_read, page_reviews, page_study, session
from ipfvision.ui.slot import Slot

STYLE = Path(__file__).with_name("style.css")


@st.fragment(run_every=timedelta(days=1))
def _say_what_was_chosen_without_a_connection() -> None:
    """Make the browser ask for a script run when it has found the server again, with what was chosen meanwhile.

    It asks if there is a fragment that runs by the clock (streamlit pull request 11890); the interval itself serves nothing.
    `server.DrawAgain` is for the moment in which the browser has forgotten the clock.
    """


def draw() -> None:
    """Draw the app for one script run."""
    # No page icon: Streamlit would fetch an emoji or a symbol from another address.
    st.set_page_config(page_title="ipfvision", layout="wide", initial_sidebar_state=310)
    _say_what_was_chosen_without_a_connection()
    st.html(STYLE)
    banner = Slot()
    banner.html(markup.banner(session.current().card))
    pages = (
        st.Page(partial(page_read.draw, banner), title="Read", url_path="read", default=True),
        st.Page(partial(page_study.draw, banner), title="Study", url_path="study"),
        st.Page(partial(page_reviews.draw, banner), title="Reviews", url_path="reviews"),
    )
    st.navigation(pages).run()

"""A place on the page that is drawn more than once in one script run."""

import streamlit as st
from streamlit.delta_generator import DeltaGenerator


class Slot:
    """A place for one piece of HTML. What the last script run drew stays until this run draws: nothing flickers.

    `st.empty` would blank the place first, and everything below would jump.
    """

    def __init__(self) -> None:
        self._place = st.container()
        self._drawn: DeltaGenerator | None = None

    def html(self, body: str) -> None:
        """Draw, in place of what this slot showed before."""
        # What a Streamlit command returns stands for the element that it drew; drawing through it replaces that element.
        self._drawn = (self._drawn or self._place).html(body)

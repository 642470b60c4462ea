"""The page in the browser. Streamlit is imported only here."""

from ipfvision.ui.app import draw

__all__ = ["draw"]

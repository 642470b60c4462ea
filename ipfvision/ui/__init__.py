"""The page in the browser. Streamlit is imported only here."""

from ipfvision.ui.server import draw

__all__ = ["draw"]

"""The app: `streamlit run streamlit_app.py`."""

from ipfvision.ui import draw

draw()

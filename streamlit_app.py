"""The app: `streamlit run streamlit_app.py`.

The server imports this file for the routes beside the app; each script run runs it again for the pages.
"""

import streamlit as st
from starlette.middleware import Middleware
from streamlit.runtime.scriptrunner import get_script_run_ctx

from ipfvision.ui import draw, server

if get_script_run_ctx(suppress_warning=True) is None:
    app = st.App(__file__, routes=server.routes(), middleware=[Middleware(server.DrawAgain)], lifespan=server.lifespan)
else:
    draw()

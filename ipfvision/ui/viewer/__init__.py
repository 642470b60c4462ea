"""The viewer component: linked panes of one stack of slices, in plain JavaScript without a build step.

Its modules are served by `ipfvision.ui.routes`; what goes over the wire is made in `wire`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import streamlit as st

FOLDER = Path(__file__).parent
STATIC = {path.name: path for path in sorted([*FOLDER.glob("*.js"), *FOLDER.glob("*.css")])}
"""The program's own files, by name: the only ones that the static route knows."""

_START = """
export default async function (component) {
  const address = new URL(`${component.data.wire}/static/main.js`, document.baseURI).href;
  const main = await import(address);
  const leave = await main.default(component);
  // Streamlit also calls what a superseded call returned: only an element that has left the page is cleaned up.
  return () => { if (!component.parentElement.isConnected) leave?.(); };
}
"""


@dataclass(frozen=True, slots=True)
class Viewed:
    """What the viewer said since the last script run."""

    slice: int | None
    """Index of the slice on which scrolling came to rest; None before the first."""
    drawn: tuple[int, int] | None
    """(slice, revision) of a drawing that was saved just now."""


# Both texts have several lines: one line with a slash would be taken for the name of a file.
_mount = st.components.v2.component("ipfvision.viewer", css=(FOLDER / "viewer.css").read_text("utf-8"), js=_START)


def viewer(key: str, data: Mapping[str, Any], on_slice: Callable[[], None]) -> Viewed:
    """Mount the viewer.

    Parameters
    ----------
    key
        Of the stack: another one is another viewer.
    data
        As docs/viewer-wire.md says.
    on_slice
        Called before the script run that follows a scroll; `rested_on` then says where.
    """
    result = _mount(key=key, data=dict(data), on_slice_change=on_slice, on_drawn_change=_nothing)
    match result.get("drawn"):
        case {"slice": int(index), "revision": int(revision)}:
            drawn: tuple[int, int] | None = index, revision
        case _:
            drawn = None
    return Viewed(_index(result.get("slice")), drawn)


def rested_on(key: str) -> int | None:
    """Index of the slice on which scrolling in this viewer came to rest; None before the first."""
    # Not `st.session_state.get`: a click that comes just then would end the callback there, and the slice would not be noted.
    state = st.session_state.to_dict().get(key)
    return None if state is None else _index(state.get("slice"))


def _index(value: object) -> int | None:
    """The browser may send anything."""
    return value if type(value) is int else None


def _nothing() -> None:
    """A drawing is in the session before its trigger comes; the script run that follows is what is wanted."""

"""What the server needs to start: next to nothing, so that it answers at once. The rest is imported meanwhile, in a thread.

Everything else of the page is reached through `everything`, so that no two threads import it at once: their imports would wait
for each other, which Python ends by handing out modules that are half made.
"""

import asyncio
import importlib
import logging
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import ModuleType

import streamlit as st
from starlette.routing import BaseRoute, Route, Router
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from streamlit.proto.BackMsg_pb2 import BackMsg
from streamlit.proto.ClientState_pb2 import ClientState
from streamlit.runtime import Runtime

BELOW = "ipfvision"
"""The first part of every path that is ours (`ipfvision.ui.viewer.wire.PATH`)."""
SWEEP_SECONDS = 5

_importing = threading.Lock()


def everything(name: str) -> ModuleType:
    """A module of the page by its name in this package, with all that it imports."""
    with _importing:
        return importlib.import_module(f"ipfvision.ui.{name}")


def draw() -> None:
    """Draw the app for one script run."""
    everything("app").draw()


def routes() -> list[BaseRoute]:
    """One route for all that is ours; the first request waits until `ipfvision.ui.routes` is there."""
    base = str(st.get_option("server.baseUrlPath") or "").strip("/")
    return [Route(f"{'/' if base else ''}{base}/{BELOW}/{{rest:path}}", _Ours())]


class _Ours:
    """ASGI application: the routes beside the app."""

    def __init__(self) -> None:
        self._router: Router | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._router is None:
            self._router = Router((await asyncio.to_thread(everything, "routes")).routes())
        await self._router(scope, receive, send)


class DrawAgain:
    """ASGI middleware: a script run follows each connection with which a browser comes back.

    A browser that lost the server asks for a run only if it knew of one that was interrupted (streamlit pull request 9083).
    Of one that began just before it does not know. The server has stopped that run half way and calls it finished, so the
    browser takes off the page what the half run did not draw: the scan first.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        # The third "subprotocol" is the session that a browser comes back to.
        if scope["type"] != "websocket" or not any(scope.get("subprotocols", [])[2:]):
            await self._app(scope, receive, send)
            return
        events = 0

        async def receive_and_ask() -> Message:
            nonlocal events
            events += 1
            # The first event is the handshake, after which the browser would ask.
            return {"type": "websocket.receive", "bytes": _RUN} if events == 2 else await receive()

        await self._app(scope, receive_and_ask, send)


_RUN = BackMsg(rerun_script=ClientState()).SerializeToString()
"""Without any widget's value: the session has them."""


@asynccontextmanager
async def lifespan(_: object) -> AsyncIterator[None]:
    """While the server runs: import the rest, and release the desks whose tabs are gone."""
    sweeping = asyncio.create_task(_sweep())
    try:
        yield
    finally:
        sweeping.cancel()


async def _sweep() -> None:
    """Streamlit itself lets go of a closed tab's session only when another one comes or goes."""
    session = await asyncio.to_thread(everything, "session")
    await asyncio.to_thread(everything, "app")
    while True:
        await asyncio.sleep(SWEEP_SECONDS)
        try:
            session.release_ended(Runtime.instance().is_active_session, st.get_option("server.disconnectedSessionTTL"))
            session.collect_cleared()
        except Exception as error:  # noqa: BLE001  the next sweep is for the other tabs
            logging.getLogger(__name__).error("A closed tab could not be cleared: %s.", type(error).__name__)  # noqa: TRY400

"""The routes beside the app that the viewer asks for pixels, maps and annotations, and to which it sends drawings.

A token in the path says whose desk is meant (`session.find`). Whoever has none that is valid now, or asks for what is not
there, gets 404 and nothing else. Compression is declared done: on one machine, squeezing a slice takes longer than sending it.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import streamlit as st
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import BaseRoute, Route

from ipfvision.core.annotation import Finding
from ipfvision.core.run_lengths import check
from ipfvision.core.slice import Slice
from ipfvision.errors import StoreUnavailable, StudyProblem
from ipfvision.ui import session
from ipfvision.ui.session import Drawing, Opened, Session
from ipfvision.ui.viewer import STATIC, wire
from ipfvision.workflow.reading import METHODS

HEADERS = {
    "Cache-Control": "no-store",
    # A declared encoding keeps Streamlit's gzip away.
    "Content-Encoding": "identity",
    "X-Content-Type-Options": "nosniff",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
}
TYPES = {".js": "text/javascript; charset=utf-8", ".css": "text/css; charset=utf-8"}
MOST_BYTES = 1_000_000
"""Of one drawing as JSON; six findings drawn by hand over a whole slice take some ten thousand."""
MOST_SLICES = 16
"""In one answer; at 512 x 512 they are 8 MB."""


def base_path() -> str:
    """Where the routes begin: Streamlit puts `server.baseUrlPath` before its own routes only."""
    base = str(st.get_option("server.baseUrlPath") or "").strip("/")
    return f"/{base}{wire.PATH}" if base else wire.PATH


def routes() -> list[BaseRoute]:
    """Everything under `base_path`, with an empty 404 for what is none of it (Streamlit would answer with its page)."""
    base = base_path()
    here = base + "/{token}/{stack}/{index}"
    everything = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]
    return [
        Route(f"{base}/static/{{name}}", _static),
        Route(f"{here}/pixels", _pixels),
        Route(f"{here}/maps", _maps),
        Route(f"{here}/annotations", _annotations),
        Route(f"{here}/drawing", _drawing, methods=["GET", "PUT"]),
        Route(base.removesuffix("/v1") + "/{rest:path}", _nothing, methods=everything),
    ]


def _answer(content: bytes = b"", status: int = 200, kind: str | None = None) -> Response:
    return Response(content, status, HEADERS, kind)


def _json(content: Any, status: int = 200) -> Response:
    return _answer(json.dumps(content, separators=(",", ":")).encode(), status, "application/json")


async def _nothing(_: Request) -> Response:
    return _answer(status=404)


async def _static(request: Request) -> Response:
    path = STATIC.get(request.path_params["name"])
    return _answer(status=404) if path is None else _answer(path.read_bytes(), kind=TYPES[path.suffix])


@dataclass(frozen=True, slots=True)
class _Asked:
    """What a path names, taken from the desk in one go: it may be cleared at any moment."""

    desk: Session
    opened: Opened
    series: int
    index: int

    @property
    def stack(self) -> str:
        return self.opened.stack(self.series)

    @property
    def scan(self) -> Slice:
        return self.opened.series[self.series].slices[self.index]


def _find(request: Request) -> _Asked | None:
    desk, index = session.find(request.path_params["token"]), _number(request.path_params["index"])
    opened = None if desk is None else desk.opened
    series = None if opened is None else opened.find_stack(request.path_params["stack"])
    if desk is None or opened is None or series is None or index is None:
        return None
    return _Asked(desk, opened, series, index) if index < len(opened.series[series].slices) else None


def _number(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 7 else None


async def _pixels(request: Request) -> Response:
    """One slice, or a run of them: a browser spends more on each request than on the bytes of a slice."""
    asked, count = _find(request), _number(request.query_params.get("count", "1"))
    if asked is None or count is None or not 0 < count <= MOST_SLICES:
        return _answer(status=404)
    slices = asked.opened.series[asked.series].slices[asked.index : asked.index + count]
    if len(slices) < count:
        return _answer(status=404)
    if count == 1:
        return _answer(wire.pixels(slices[0]), kind="application/octet-stream")
    length = sum(2 * scan.pixels.size for scan in slices)
    headers = HEADERS | {"Content-Length": str(length)}
    return StreamingResponse(_one_by_one(slices), headers=headers, media_type="application/octet-stream")


async def _one_by_one(slices: Sequence[Slice]) -> AsyncIterator[bytes]:
    """No more than one is held as bytes: the next one is made when the connection has taken the last one."""
    for scan in slices:
        yield wire.pixels(scan)


async def _maps(request: Request) -> Response:
    asked, method = _find(request), request.query_params.get("method", "gradcam")
    if asked is None or method not in METHODS:
        return _answer(status=404)
    seen = asked.desk.seen.get((asked.series, asked.index, method))
    card = asked.desk.card
    if seen is None or card is None or seen.reading.scan is not asked.scan:
        return _answer(status=204)
    return _json(wire.maps(card, seen.reading))


async def _annotations(request: Request) -> Response:
    asked = _find(request)
    if asked is None:
        return _answer(status=404)
    return _json(wire.annotations(asked.desk.from_files(asked.series, asked.index)))


def _drawing_json(drawing: Drawing) -> dict[str, Any]:
    return {"revision": drawing.revision, "findings": {one.value: runs.tolist() for one, runs in drawing.findings.items()}}


async def _drawing(request: Request) -> Response:
    asked = _find(request)
    if asked is None:
        return _answer(status=404)
    if request.method != "PUT":
        return _json(_drawing_json(asked.desk.drawing(asked.stack, asked.index)))
    content = await _body(request)
    if content is None:
        return _answer(status=413)
    try:
        changes, findings = _read_drawing(content, asked.scan.pixels.size)
    except (ValueError, RecursionError):
        return _answer(status=400)
    # The desk may have been cleared while the body came in. From here on nothing awaits, so of two tabs only one wins.
    if _find(request) is None:
        return _answer(status=404)
    now = asked.desk.drawing(asked.stack, asked.index)
    if changes != now.revision:
        return _json(_drawing_json(now), 409)
    if not asked.desk.draw(asked.stack, asked.index, Drawing(now.revision + 1, findings)):
        return _answer(status=413)
    if asked.desk.on_drawn is not None:
        try:
            await asyncio.to_thread(asked.desk.on_drawn)
        except StoreUnavailable:
            return _answer(status=503)
        except StudyProblem:
            return _answer(status=423)
    return _json({"revision": now.revision + 1})


async def _body(request: Request) -> bytes | None:
    """The whole body; None as soon as it is too large, whatever its header said."""
    parts, length = [], 0
    async for part in request.stream():
        parts.append(part)
        length += len(part)
        if length > MOST_BYTES:
            return None
    return b"".join(parts)


def _read_drawing(content: bytes, size: int) -> tuple[int, dict[Finding, npt.NDArray[np.uint32]]]:
    """Revision and findings of a PUT; raises ValueError for anything that is not a drawing of `size` pixels."""
    given = json.loads(content)
    if not isinstance(given, dict) or type(given.get("revision")) is not int or not isinstance(given.get("findings"), dict):
        raise ValueError("a drawing has a revision and findings")
    return given["revision"], {Finding(name): check(runs, size) for name, runs in given["findings"].items()}

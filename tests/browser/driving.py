"""What the browser tests do with the page, and what they give it."""

import base64
import io
import math
import re
import time
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from playwright.sync_api import FilePayload, Locator, Page, WebSocketRoute, expect

from ipfvision.core.run_lengths import check, decode
from ipfvision.core.slice import Plane, Scale, Slice, Source
from ipfvision.core.window import Window
from ipfvision.dicom.writing import write_ct
from ipfvision.synthetic.thorax import draw_thorax

Pixels = np.ndarray[Any, np.dtype[np.uint8]]

SHAPE = (256, 256)
"""Of the drawn slices."""
COUNTS = "Counts of slices, not an answer for the patient."
"""On the page once a whole series was read."""


def ct(level: float, position_mm: float = 0.0, seed: int = 5) -> bytes:
    """A drawn slice as DICOM."""
    drawn = draw_thorax(np.random.default_rng(seed), level=level, size=256, spacing_mm=1.4)
    plane = Plane((-180.0, -180.0, position_mm), (1.0, 0.0, 0.0), (0.0, 1.0, 0.0))
    nowhere = np.zeros(drawn.pixels.shape, bool)
    number = 1 + round(position_mm)
    source = Source("", "DICOM", "", series_instance_uid="1.2.826.0.1.3680043.8.498.1", instance_number=number)
    scan = Slice(drawn.pixels, Scale.HOUNSFIELD, source, nowhere, drawn.spacing, plane, thickness_mm=1.0)
    return write_ct(scan, uid_seed="browser test")


def stack_files(count: int) -> list[bytes]:
    """The slices of a drawn series, from the feet up."""
    return [ct(0.4 + 0.3 * number / count, 10.0 * number) for number in range(count)]


def stack(count: int) -> bytes:
    """A .zip of a drawn series."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for number, content in enumerate(stack_files(count)):
            archive.writestr(f"{number}", content)
    return packed.getvalue()


def png(level: float = 0.5) -> bytes:
    """A drawn slice as PNG."""
    drawn = draw_thorax(np.random.default_rng(5), level=level, size=256, spacing_mm=1.4)
    grey = np.clip((drawn.pixels.astype(np.float32) + 1350) / 1500 * 255, 0, 255).astype(np.uint8)
    return bytes(cv2.imencode(".png", grey)[1])


def drop(room: Page, *files: tuple[str, bytes] | Path) -> None:
    """Give files to the uploader."""
    payloads: list[FilePayload] = [
        {"name": file.name, "mimeType": "", "buffer": file.read_bytes()}
        if isinstance(file, Path)
        else {"name": file[0], "mimeType": "", "buffer": file[1]}
        for file in files
    ]
    room.locator('input[type="file"]').set_input_files(payloads)


def answered(room: Page, words: Sequence[str] = ("IPF-like", "Normal-like", "Uncertain")) -> str:
    """Wait for the answer; its word."""
    word = room.locator(".ipf-word", has_text=re.compile("|".join(words)))
    word.wait_for()
    return next(one for one in words if one in word.inner_text())


def settled(room: Page) -> None:
    """Wait until the script run that is under way has drawn everything."""
    expect(room.get_by_test_id("stApp")).to_have_attribute("data-test-script-state", "notRunning")


def until(room: Page, condition: str, argument: Any = None) -> None:
    """Wait until a JavaScript function of (viewer, argument) is true; `viewer` is what docs/viewer-wire.md offers to tests."""
    asked = f"([argument]) => {{ const viewer = ({FIND})(); return Boolean(viewer && ({condition})(viewer, argument)); }}"
    room.wait_for_function(asked, arg=[argument])


FIND = """
() => {
  const inside = (root) => {
    for (const node of root.querySelectorAll("*")) {
      if (node.ipfViewer) return node.ipfViewer;
      const found = node.shadowRoot && inside(node.shadowRoot);
      if (found) return found;
    }
    return null;
  };
  return inside(document);
}
"""

_TO_TEXT = """
(bytes) => {
  let text = "";
  for (let i = 0; i < bytes.length; i += 32768) text += String.fromCharCode(...bytes.subarray(i, i + 32768));
  return btoa(text);
}
"""


class Viewer:
    """The viewer on the page, as a test sees it."""

    def __init__(self, room: Page) -> None:
        self.room = room
        self.root = room.locator(".ipf-viewer")

    def ready(self, slices: int = 1) -> "Viewer":
        """Wait until the slice on screen is drawn, and at least so many slices are here."""
        until(self.room, "(viewer, slices) => viewer.lastDraw.ms >= 0 && viewer.cached >= slices", slices)
        return self

    def with_map(self) -> "Viewer":
        """Wait until the map of the slice on screen is drawn."""
        self.ready()
        self.pane("map").locator(".legend .scale").wait_for()
        return self

    def saved(self) -> "Viewer":
        """Wait until everything drawn is on the server."""
        until(self.room, '(viewer) => viewer.saving === "saved"')
        return self

    @property
    def state(self) -> dict[str, Any]:
        found: dict[str, Any] = self.root.evaluate("(node) => node.ipfViewer.state")
        return found

    def on_slice(self, index: int) -> "Viewer":
        """Wait until this slice is drawn."""
        until(self.room, "(viewer, index) => viewer.lastDraw.slice === index", index)
        return self

    def press(self, key: str) -> None:
        """A key for the images."""
        self.root.locator(".stage").press(key)

    def pane(self, kind: str) -> Locator:
        return self.root.locator(f'.pane[data-pane="{kind}"]')

    def center(self, kind: str = "ct") -> tuple[float, float]:
        """Of a pane, on the page."""
        box = self.pane(kind).bounding_box()
        if box is None:
            raise ValueError(f"no pane {kind} on screen")
        return box["x"] + box["width"] / 2, box["y"] + box["height"] / 2

    def place(self, kind: str, x: float, y: float) -> tuple[float, float]:
        """Where a point of the slice is on the page."""
        script = "(node, [kind, x, y]) => { const v = node.ipfViewer; return v.toWindow(v.state.panes.indexOf(kind), x, y); }"
        found = self.root.evaluate(script, [kind, x, y])
        return found["x"], found["y"]

    @property
    def window(self) -> Window:
        """Of slices in Hounsfield units."""
        shown = self.state["windows"]["hounsfield"]
        return Window(shown["center"], shown["width"])

    def picture(self, kind: str) -> Pixels:
        """(H, W, 3): the picture of a pane at the slice's own size; the slice is square."""
        script = f"(node, kind) => ({_TO_TEXT})(node.ipfViewer.pixels(node.ipfViewer.state.panes.indexOf(kind)))"
        content = self.root.evaluate(script, kind)
        side = math.isqrt(len(base64.b64decode(content)) // 4)
        return _pixels((side, side, content))

    def canvas(self, kind: str) -> Pixels:
        """(H, W, 3): what is on a pane's canvas, at the size that it has on screen."""
        script = f"""(canvas) => {{
          const {{ width, height }} = canvas;
          const bytes = canvas.getContext("2d").getImageData(0, 0, width, height).data;
          return [height, width, ({_TO_TEXT})(bytes)];
        }}"""
        return _pixels(self.pane(kind).locator("canvas.picture").evaluate(script))

    def mask(self, finding: str, shape: tuple[int, int] = SHAPE) -> np.ndarray[Any, np.dtype[np.bool_]]:
        """What is drawn on the slice on screen."""
        text = self.root.evaluate(f"(node, finding) => ({_TO_TEXT})(node.ipfViewer.mask(finding))", finding)
        return np.frombuffer(base64.b64decode(text), np.uint8).reshape(shape) > 0


def _pixels(found: tuple[int, int, str]) -> Pixels:
    height, width, content = found
    return np.frombuffer(base64.b64decode(content), np.uint8).reshape(height, width, 4)[:, :, :3]


def colored(picture: Pixels) -> int:
    """How many pixels are not grey."""
    return int((picture.max(axis=2) != picture.min(axis=2)).sum())


class Wire:
    """What the viewer's own requests were, so that a test can make the same."""

    def __init__(self, room: Page) -> None:
        self.room = room
        self.base = ""
        room.on("request", self._look)

    def _look(self, request: Any) -> None:
        found = re.match(r"(.*/ipfvision/v1/[\w-]{43}/[\w-]+)/\d+/pixels$", request.url)
        if found:
            self.base = found[1]

    def get(self, index: int, what: str) -> Any:
        """The JSON that the server gives for a slice of the stack that is open."""
        return self.room.request.get(f"{self.base}/{index}/{what}").json()

    def drawn(self, index: int, finding: str, shape: tuple[int, int] = SHAPE) -> np.ndarray[Any, np.dtype[np.bool_]]:
        """The server's drawing of one finding."""
        runs = self.get(index, "drawing")["findings"].get(finding, [shape[0] * shape[1]])
        return decode(check(runs, shape[0] * shape[1]), shape)


class Connection:
    """The page's connection to the server, which a test may cut. Loads the page anew, so that it goes through here."""

    def __init__(self, room: Page) -> None:
        self.room = room
        self.sockets: list[WebSocketRoute] = []
        self.let_through: int | None = None
        room.route_web_socket(re.compile("/_stcore/stream"), self._connect)
        room.reload()
        room.get_by_text("Research use only").wait_for()

    def _connect(self, socket: WebSocketRoute) -> None:
        if self.sockets:
            time.sleep(1)  # until the server has noticed that the old connection is lost
        server = socket.connect_to_server()
        server.on_message(lambda message: self._arrived(socket, message))
        self.let_through = None
        self.sockets.append(socket)

    def _arrived(self, socket: WebSocketRoute, message: str | bytes) -> None:
        if self.let_through is not None:
            if not self.let_through:
                return
            self.let_through -= 1
        socket.send(message)

    def lose_all_but(self, messages: int) -> None:
        """From now on only so many messages of the server reach the page."""
        self.let_through = messages

    def cut(self) -> None:
        """The page loses the server."""
        self.sockets[-1].close()

    def restored(self, connections: int) -> None:
        """Wait until the page has found the server for so many times."""
        for _ in range(300):
            if len(self.sockets) >= connections:
                return
            self.room.wait_for_timeout(100)
        raise TimeoutError(f"{len(self.sockets)} connections, not {connections}")

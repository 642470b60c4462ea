"""The real app in a real browser: one server, the system's Chromium, and every request looked at."""

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import ConsoleMessage, Page, Request, expect

ROOT = Path(__file__).parents[2]
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
QUIET = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
)  # fmt: skip
START_SECONDS = 60
CUT_OFF = ("ERR_INTERNET_DISCONNECTED", "when disconnected from server", "status of 409 (Conflict)")
"""What the browser and Streamlit say when a test takes the connection away, and when a viewer that comes back meets itself."""
PATIENCE_MS = 60_000
"""The first reading of a server loads the model, on a machine that runs other tests beside."""


def find_browser() -> str | None:
    """The system's Chromium or Chrome."""
    return next((path for name in BROWSERS if (path := shutil.which(name))), None)


@pytest.fixture(scope="session")
def browser_type_launch_args(browser_type_launch_args: dict[str, Any]) -> dict[str, Any]:
    """Start the system's browser, without its own errands on the network."""
    path = find_browser()
    if path is None:
        if os.environ.get("CI") == "true":
            pytest.fail(f"no browser: one of {', '.join(BROWSERS)} must be installed")
        pytest.skip(f"needs a browser: one of {', '.join(BROWSERS)}")
    return browser_type_launch_args | {"executable_path": path, "args": list(QUIET)}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port: int = probe.getsockname()[1]
        return port


def start_app(log: Path, *options: str, before: str = "") -> tuple[subprocess.Popen[bytes], str]:
    """Start the app as `make app` does, on a free port, and wait until it answers; `before` is Python to run in it first."""
    address = f"http://localhost:{free_port()}"
    begin = f"import sys\n{before}\nfrom streamlit.web.cli import main\nmain(sys.argv[1:])"
    command = [sys.executable, "-c", begin, "run", "streamlit_app.py", "--server.headless=true", *options]
    command.append(f"--server.port={address.rpartition(':')[2]}")
    with log.open("wb") as output:
        process = subprocess.Popen(command, cwd=ROOT, stdout=output, stderr=subprocess.STDOUT)
    until = time.monotonic() + START_SECONDS
    while time.monotonic() < until and process.poll() is None:
        try:
            with socket.create_connection(("localhost", int(address.rpartition(":")[2])), timeout=1):
                return process, address
        except OSError:
            time.sleep(0.1)
    process.kill()
    raise RuntimeError(f"the app did not start: {log.read_text('utf-8')}")


@pytest.fixture(scope="session")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Where the app answers."""
    process, where = start_app(tmp_path_factory.mktemp("app") / "log")
    yield where
    process.terminate()
    process.wait(timeout=20)


@pytest.fixture
def reading_room(page: Page, address: str) -> Iterator[Page]:
    """The app's empty page at 1366 x 768; afterwards no request may have left the machine, and no error been logged."""
    host = address.removeprefix("http://")
    strangers: list[str] = []
    errors: list[str] = []

    def look(request: Request) -> None:
        if not request.url.startswith((f"{address}/", "data:", f"blob:{address}/")):
            strangers.append(request.url)

    def note(message: ConsoleMessage) -> None:
        if message.type == "error" and not any(words in message.text for words in CUT_OFF):
            errors.append(message.text)

    page.on("request", look)
    page.on("websocket", lambda socket_: None if socket_.url.startswith(f"ws://{host}/") else strangers.append(socket_.url))
    page.on("console", note)
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.set_viewport_size({"width": 1366, "height": 768})
    page.set_default_timeout(PATIENCE_MS)
    expect.set_options(timeout=PATIENCE_MS)
    page.goto(address)
    page.get_by_text("Research use only").wait_for()
    yield page
    assert not strangers, "requests left the machine"
    assert not errors, "errors in the browser's console"

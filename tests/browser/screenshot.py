"""Make the README's picture from the real app: `python -m tests.browser.screenshot docs/screenshot.png`.

What is on it is a sample that the program drew itself, never a patient.
"""

import argparse
import io
import tempfile
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, sync_playwright

from tests.browser.conftest import QUIET, find_browser, start_app

SAMPLE = "02_honeycombing"
SIZE = (1366, 768)
MOST_BYTES = 400_000


def take(page: Page, address: str, sample: str) -> bytes:
    """Open a sample and take a picture of the finished page."""
    page.goto(address)
    page.locator(f".st-key-sample-{sample} button").click()
    page.locator('.pane[data-pane="map"] .legend .scale').wait_for(timeout=120_000)
    page.locator('[data-testid="stDownloadButton"]').first.wait_for()
    page.mouse.move(SIZE[0] - 2, SIZE[1] - 2)
    page.wait_for_timeout(1000)
    return page.screenshot()


def small(picture: bytes) -> bytes:
    """The same pixels in as few bytes as PNG can."""
    out = io.BytesIO()
    Image.open(io.BytesIO(picture)).convert("RGB").save(out, "PNG", optimize=True)
    if len(out.getvalue()) > MOST_BYTES:
        raise ValueError(f"the picture has {len(out.getvalue())} bytes, more than {MOST_BYTES}")
    return out.getvalue()


def main() -> None:
    """Start the app, take the picture, write it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("--sample", default=SAMPLE, help="name of a file in sample_scans/, without its ending")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        process, address = start_app(Path(folder) / "log")
        browser = playwright.chromium.launch(executable_path=find_browser(), args=list(QUIET))
        try:
            page = browser.new_page(viewport={"width": SIZE[0], "height": SIZE[1]})
            given.file.write_bytes(small(take(page, address, given.sample)))
        finally:
            browser.close()
            process.terminate()
            process.wait(timeout=20)


if __name__ == "__main__":
    main()

"""`python -m benchmarks.viewer`: the viewer in a real browser, beside a plain page of st.slider and st.image.

300 slices of 512 x 512 that the program draws itself; server, page and browser share this machine. Times are of this machine
and of what else runs on it; the ratios to the plain page hardly are.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from playwright.sync_api import CDPSession, Page, sync_playwright

from benchmarks.viewer_pages import SLICES
from tests.browser.conftest import QUIET, find_browser, free_port
from tests.browser.driving import FIND

ROOT = Path(__file__).parents[1]
MEGABYTE = 2**20

WATCH = f"""
() => {{
  window.findViewer = {FIND};
  window.frame = () => new Promise(requestAnimationFrame);
  const all = () => [...document.querySelectorAll("*")];
  window.stageOf = () => all().map((one) => one.shadowRoot?.querySelector(".stage")).find(Boolean);
}}
"""

OPEN = """
async (slices) => {
  performance.clearResourceTimings();
  performance.setResourceTimingBufferSize(10 * slices);
  const old = window.findViewer(), begun = performance.now();
  document.querySelector(".st-key-open button").click();
  let viewer = null, first = null, request = null;
  for (;;) {
    await window.frame();
    viewer = window.findViewer();
    if (!viewer || viewer === old) continue;
    if (first === null && viewer.lastDraw.ms >= 0 && viewer.state.shown !== null) {
      await window.frame();
      first = performance.now() - begun;
    }
    if (viewer.cached >= slices) break;
  }
  const pixels = performance.getEntriesByType("resource").filter((one) => one.name.endsWith("/pixels")).slice(-slices);
  request = Math.min(...pixels.map((one) => one.startTime));
  return { first, whole: performance.now() - begun, loading: performance.now() - request };
}
"""

STEPS = """
async ([kind, count]) => {
  const viewer = window.findViewer(), stage = window.stageOf(), ms = [], frames = [];
  const pane = stage.querySelector(".pane"), box = pane.getBoundingClientRect();
  const at = (x) => ({ bubbles: true, composed: true, pointerId: 1, pointerType: "mouse", button: 2, buttons: 2,
    clientX: box.left + box.width / 2 + x, clientY: box.top + box.height / 2 });
  const key = (name) => new KeyboardEvent("keydown", { key: name, bubbles: true, composed: true });
  const fire = {
    window: (i) => pane.dispatchEvent(new PointerEvent("pointermove", at(2 * (i % 40) + 2))),
    slice: (i) => stage.dispatchEvent(key(i % 60 < 30 ? "ArrowDown" : "ArrowUp")),
  }[kind];
  for (let i = 0; i < count; i++) {
    const before = JSON.stringify(viewer.draws.slice(-6));
    const begun = performance.now();
    fire(i);
    let frame = 0;
    while (JSON.stringify(viewer.draws.slice(-6)) === before && frame < 20) {
      await window.frame();
      frame++;
    }
    ms.push(viewer.lastDraw.ms);
    frames.push(frame);
    await window.frame();
  }
  return { ms, frames };
}
"""

SAVED = """
async () => {
  const viewer = window.findViewer(), begun = performance.now();
  while (viewer.saving === "saved" && performance.now() - begun < 50) await new Promise((done) => setTimeout(done, 1));
  while (viewer.saving !== "saved") await new Promise((done) => setTimeout(done, 1));
  return performance.now() - begun;
}
"""

WATCH_PLAIN = """
() => {
  const images = () => [...document.querySelectorAll(".stImage img")];
  const before = images().map((one) => one.src).join();
  window.changed = new Promise((done) => {
    const look = (begun) => {
      const now = images(), all = now.length && now.every((one) => one.complete && one.naturalWidth);
      if (all && now.map((one) => one.src).join() !== before) done(performance.now() - begun);
      else requestAnimationFrame(() => look(begun));
    };
    document.addEventListener("keydown", () => look(performance.now()), { once: true, capture: true });
  });
}
"""


@contextmanager
def serving(page: str) -> Iterator[tuple[str, int]]:
    """One of the benchmark's pages on a free port: its address and the server's process."""
    port = free_port()
    command = [
        sys.executable,
        "-m",
        "streamlit",
        "run",
        "benchmarks/viewer_pages.py",
        "--server.headless=true",
        f"--server.port={port}",
    ]
    environment = os.environ | {"IPFVISION_BENCHMARK": page, "PYTHONPATH": str(ROOT)}
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log)
        try:
            time.sleep(3)
            yield f"http://localhost:{port}", process.pid
        finally:
            process.terminate()
            process.wait(timeout=20)


def resident(process: int) -> float:
    """MB of a process in memory."""
    line = next(line for line in Path(f"/proc/{process}/status").read_text().splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) / 1024


def heap(session: CDPSession) -> float:
    """MB of JavaScript on the page after a collection, typed arrays included."""
    session.send("HeapProfiler.collectGarbage")
    usage = session.send("Runtime.getHeapUsage")
    return float(usage["usedSize"] + usage.get("backingStorageSize", 0)) / MEGABYTE


def go(page: Page, address: str) -> None:
    for _ in range(40):
        try:
            page.goto(address)
            break
        except Exception:  # noqa: BLE001 - the server is still starting
            time.sleep(0.5)
    page.evaluate(WATCH)


def prepare(page: Page, number: int) -> None:
    page.locator(".st-key-prepare button").click()
    page.get_by_text(f"prepared {number}", exact=True).wait_for(timeout=120_000)
    page.wait_for_timeout(300)


def steps(page: Page, kind: str, count: int) -> dict[str, float]:
    found = page.evaluate(STEPS, [kind, count])
    by_second = sum(frame <= 2 for frame in found["frames"]) / count
    return {
        "script ms, median": statistics.median(found["ms"]),
        "script ms, worst": max(found["ms"]),
        "by the second frame": by_second,
    }


def viewer(page: Page, address: str, process: int, many: int) -> dict[str, float]:
    """Everything about the viewer itself."""
    go(page, address)
    prepare(page, 1)
    found: dict[str, float] = {}
    opened = page.evaluate(OPEN, SLICES)
    found["first slice visible while the model loads, ms"] = opened["first"]
    found["whole stack while the model loads, ms"] = opened["loading"]
    page.locator(".ipf-word.ipf, .ipf-word.normal, .ipf-word.uncertain").wait_for(timeout=120_000)
    page.wait_for_timeout(1500)
    box = page.locator(".pane").first.bounding_box()
    if box is None:
        raise RuntimeError("no pane on screen")
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down(button="right")
    found |= {f"window drag: {name}": value for name, value in steps(page, "window", 120).items()}
    page.mouse.up(button="right")
    found |= {f"cached slice: {name}": value for name, value in steps(page, "slice", 120).items()}
    page.wait_for_timeout(1500)
    page.locator(".stage").press("b")
    saves = []
    for nth in range(12):
        page.mouse.move(x - 80, y - 60 + 10 * nth)
        page.mouse.down()
        page.mouse.move(x + 80, y - 55 + 10 * nth, steps=8)
        page.mouse.up()
        saves.append(page.evaluate(SAVED))
        page.wait_for_timeout(400)
    found["mask saved and acknowledged, ms"] = statistics.median(saves)

    session = page.context.new_cdp_session(page)
    heaps: list[float] = []
    residents: list[float] = []
    openings: list[dict[str, float]] = []
    for number in range(2, many + 2):
        prepare(page, number)
        openings.append(page.evaluate(OPEN, SLICES))
        page.wait_for_timeout(500)
        heaps.append(heap(session))
        residents.append(resident(process))
    print("JS heap with typed arrays, MB, series by series:", *(f"{value:.0f}" for value in heaps))
    print("server RSS, MB, series by series:              ", *(f"{value:.0f}" for value in residents))
    found["first slice visible, ms, median"] = statistics.median(one["first"] for one in openings)
    found["whole stack after its first request, ms, median"] = statistics.median(one["loading"] for one in openings)
    half = many // 2
    found["JS heap: second half of the series over the first"] = statistics.mean(heaps[half:]) / statistics.mean(heaps[:half])
    found["server RSS: second half of the series over the first"] = statistics.mean(residents[half:]) / statistics.mean(
        residents[:half]
    )
    return found


def plain(page: Page, address: str) -> dict[str, float]:
    """Milliseconds of the plain page, from a key press to both pictures."""
    go(page, address)
    page.locator(".stImage img").first.wait_for(timeout=120_000)
    page.wait_for_timeout(2000)
    found = {}
    for label, name in (("slice", "plain page, another slice, ms"), ("width", "plain page, another window, ms")):
        times = []
        for nth in range(12):
            page.evaluate(WATCH_PLAIN)
            page.locator(f".st-key-{label}").get_by_role("slider").press("ArrowRight" if nth % 2 else "ArrowLeft")
            times.append(page.evaluate("window.changed"))
            page.wait_for_timeout(150)
        found[name] = statistics.median(times[2:])
    return found


def main() -> int:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.viewer", description=__doc__)
    parser.add_argument("--series", type=int, default=20, help="series opened one after another, for memory")
    parser.add_argument("--json", type=Path, help="write {name: figure}")
    arguments = parser.parse_args()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=find_browser(), args=[*QUIET, "--enable-precise-memory-info"])
        strangers: list[str] = []

        def new_page(address: str) -> Page:
            page = browser.new_page(viewport={"width": 1920, "height": 1080})
            page.on(
                "request", lambda one: None if one.url.startswith((address, "data:", "blob:")) else strangers.append(one.url)
            )
            return page

        with serving("viewer") as (address, process):
            page = new_page(address)
            found = viewer(page, address, process, arguments.series)
            page.close()
        with serving("plain") as (address, _):
            found |= plain(new_page(address), address)
        browser.close()
    found["requests that left the machine"] = len(strangers)
    ratio: dict[str, Any] = {
        "another slice: script time, plain page over viewer": found["plain page, another slice, ms"]
        / found["cached slice: script ms, median"],
        "window: script time, plain page over viewer": found["plain page, another window, ms"]
        / found["window drag: script ms, median"],
    }
    for name, figure in (found | ratio).items():
        print(f"{figure:10.2f}  {name}")
    if arguments.json:
        arguments.json.write_text(json.dumps(found | ratio, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Annotations in a real browser: what is dropped is seen, and says what the command line says."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from playwright.sync_api import FilePayload, Page, expect

ROOT = Path(__file__).parents[2]
SCAN = ROOT / "sample_scans" / "02_honeycombing.dcm"
MASK = ROOT / "sample_scans" / "masks" / "02_honeycombing.png"

pytestmark = [
    pytest.mark.browser,
    pytest.mark.xdist_group("browser"),
    # pytest-base-url, which pytest-playwright brings, writes its fixture in a way that pytest 10 will not take.
    pytest.mark.filterwarnings("ignore:Session-scoped fixtures defined as instance methods:pytest.PytestRemovedIn10Warning"),
]

LINES = """
(canvases) => canvases.map((canvas) => {
  const seen = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
  let drawn = 0;
  for (let i = 3; i < seen.length; i += 4) drawn += seen[i] > 0;
  return drawn;
})
"""


def payload(name: str, content: bytes) -> FilePayload:
    return {"name": name, "mimeType": "", "buffer": content}


def agreement_by_the_command_line() -> dict[str, float]:
    command = [sys.executable, "-m", "ipfvision", "read", str(SCAN), "--json", "-", "--annotation", str(MASK)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, check=True, text=True)
    found: dict[str, float] = json.loads(done.stdout)["slices"][0]["agreement"]
    return found


def test_a_scan_dropped_with_its_annotation_gives_the_numbers_of_the_command_line(reading_room: Page) -> None:
    reading_room.locator('input[type="file"]').first.set_input_files(
        [payload(SCAN.name, SCAN.read_bytes()), payload("02_honeycombing_mask.png", MASK.read_bytes())]
    )
    cards = reading_room.locator(".ipf-card strong")
    expect(cards).to_have_count(3)
    found = agreement_by_the_command_line()
    assert cards.all_inner_texts() == [
        "Hit" if found["pointing_hit"] else "Miss",
        f"{100 * found['mass']:.0f} %",
        f"{found['enrichment']:.1f} \N{MULTIPLICATION SIGN}",
    ]
    chances = reading_room.locator(".ipf-card small").all_inner_texts()
    assert chances[0] == f"by chance {100 * found['pointing_chance']:.0f} %"
    # The viewer fetched the outline, names it beside the map, and draws it there and not on the plain CT.
    expect(reading_room.locator(".ipf-viewer").get_by_text("Honeycombing", exact=True).locator("visible=true")).to_have_count(1)
    without, with_outline = reading_room.locator("canvas.lines").evaluate_all(LINES)
    assert with_outline > without + 1000


def test_a_broken_annotation_gets_a_sentence_and_the_scan_stays_on_screen(reading_room: Page) -> None:
    reading_room.locator('input[type="file"]').first.set_input_files(SCAN)
    answer = reading_room.locator(".ipf-word", has_text=re.compile("IPF-like|Normal-like|Uncertain"))
    answer.wait_for()
    # The page is drawn once more when the answer is there, with uploaders of its own.
    expect(reading_room.get_by_text("What the margin is made of")).to_be_visible()
    expect(reading_room.get_by_test_id("stApp")).to_have_attribute("data-test-script-state", "notRunning")
    reading_room.get_by_text("Annotations", exact=True).click()
    reading_room.locator('input[type="file"]').nth(1).set_input_files([payload("broken.nii.gz", b"\x1f\x8b" + b"x" * 3000)])
    expect(reading_room.locator(".ipf-list li", has_text="broken.nii.gz")).to_contain_text(re.compile(r"\w{3,}.*\."))
    expect(answer).to_be_visible()
    expect(reading_room.locator("canvas").first).to_be_visible()

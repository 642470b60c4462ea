"""Annotations on the page, without a browser: the real script, real files, a model with random weights."""

import io
import json
import re
import zipfile
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from streamlit.testing.v1 import AppTest
from test_dicom_segmentation import content as seg_content
from test_dicom_segmentation import cts, seg

from ipfvision.core.annotation import Finding
from ipfvision.core.run_lengths import encode
from ipfvision.ui import compare, page_read, scorecard
from ipfvision.ui.session import Drawing, Session
from ipfvision.workflow.annotations import take_in_annotations
from ipfvision.workflow.intake import take_in
from ipfvision.workflow.reading import Reader
from ipfvision.workflow.samples import SAMPLES
from ipfvision.workflow.scoring import AGREEMENT_KEYS, EVIDENCE_KEYS, PLAUSIBILITY_KEYS, score
from ipfvision.workflow.uploads import Upload

SCRIPT = Path(__file__).parents[1] / "streamlit_app.py"
SCAN = "02_honeycombing.dcm", (SAMPLES / "02_honeycombing.dcm").read_bytes()
MASK = "02_honeycombing_mask.png", (SAMPLES / "masks" / "02_honeycombing.png").read_bytes()
SERIES = "09_series.zip", (SAMPLES / "09_series.zip").read_bytes()
SIZE = 320

File = tuple[str, bytes]


def polygons(image: str = SCAN[0], size: int = SIZE, **labels: tuple[int, int, int, int]) -> File:
    """LabelMe: rectangles (left, top, right, bottom) by their label."""
    shapes = [
        {"label": label.replace("_", " "), "shape_type": "polygon", "points": [[x0, y0], [x1, y0], [x1, y1], [x0, y1]]}
        for label, (x0, y0, x1, y1) in labels.items()
    ]
    made = {"shapes": shapes, "imagePath": image, "imageHeight": size, "imageWidth": size}
    return f"{Path(image).stem}.json", json.dumps(made).encode()


LEFT, RIGHT = (200, 150, 260, 210), (60, 150, 120, 210)
BOTH = polygons(honeycombing=LEFT, reticulation=RIGHT)


@pytest.fixture
def app(reader: Reader) -> AppTest:
    return quiet(AppTest.from_file(str(SCRIPT), default_timeout=120).run())


def quiet(app: AppTest) -> AppTest:
    """The app ran to its end without an exception."""
    assert not app.exception, app.exception[0].message
    return app


def desk_of(app: AppTest) -> Session:
    desk: Session = app.session_state["ipfvision"]
    return desk


def drop(app: AppTest, *files: File) -> AppTest:
    """Give files to the uploader of scans."""
    app.file_uploader[0].set_value([(name, content, "") for name, content in files]).run()
    return quiet(app)


def annotate(app: AppTest, *files: File) -> AppTest:
    """Give files to the uploader of annotations."""
    app.file_uploader[1].set_value([(name, content, "") for name, content in files]).run()
    return quiet(app)


def html(app: AppTest) -> str:
    return "\n".join(element.proto.body for element in app.get("html"))


def numbers(shown: str) -> list[str]:
    """The large numbers of the strip."""
    return re.findall(r'<div class="ipf-card [^>]*><span>[^<]*</span><strong>([^<]*)</strong>', shown)


def viewer_data(app: AppTest) -> dict[str, Any]:
    (found,) = app.get("bidi_component")
    data: dict[str, Any] = json.loads(found.proto.json)
    return data


def scored_apart(reader: Reader, *files: File, scan: File = SCAN, index: int = 0) -> str:
    """The strip's numbers, made from the same files without the page."""
    series = take_in([Upload(*scan)]).series
    given = take_in_annotations([Upload(*file) for file in files], series).by_slice.get((0, index), ())
    agreement = score(reader.read(series[0].slices[index]), given).agreement
    assert agreement is not None
    return scorecard.strip(agreement)


def test_a_scan_and_its_mask_dropped_together_are_compared(app: AppTest, reader: Reader) -> None:
    drop(app, SCAN, MASK)
    found = numbers(html(app))
    assert found == numbers(scored_apart(reader, MASK))
    assert found[0] in ("Hit", "Miss")
    assert re.fullmatch(r"\d+ %", found[1])
    assert viewer_data(app)["annotated"] == [True]
    assert "1 annotation on 1 slice" in html(app)
    assert "against 1 annotation" in html(app)


def test_without_annotation_the_budget_is_there_and_the_strip_is_not(app: AppTest) -> None:
    drop(app, SCAN)
    assert "What the margin is made of" in html(app)
    assert "No annotation is open" in html(app)
    assert not numbers(html(app))


def test_an_annotation_is_added_later_beside_another_and_both_are_forgotten(app: AppTest, reader: Reader) -> None:
    drop(app, SCAN)
    version = viewer_data(app)["annotation_version"]
    annotate(app, polygons(honeycombing=LEFT))
    assert numbers(html(app)) == numbers(scored_apart(reader, polygons(honeycombing=LEFT)))
    assert viewer_data(app)["annotation_version"] > version
    annotate(app, polygons(reticulation=RIGHT))
    assert numbers(html(app)) == numbers(scored_apart(reader, BOTH))
    assert "2 annotations on 1 slice" in html(app)
    assert not app.file_uploader[1].value
    app.button(key="forget-annotations").click().run()
    assert not numbers(html(quiet(app)))
    assert viewer_data(app)["annotated"] == [False]
    assert viewer_data(app)["stack"]["slices"]


def test_a_choice_of_labels_changes_the_outlines_and_the_numbers(app: AppTest, reader: Reader) -> None:
    drop(app, SCAN, BOTH)
    assert numbers(html(app)) == numbers(scored_apart(reader, BOTH))
    (choice,) = app.multiselect
    assert choice.options == ["honeycombing", "reticulation"]
    choice.set_value(["reticulation"]).run()
    desk = desk_of(quiet(app))
    assert numbers(html(app)) == numbers(scored_apart(reader, polygons(reticulation=RIGHT)))
    assert [one.said.finding for one in desk.from_files(0, 0)] == [Finding.RETICULATION]
    app.multiselect[0].set_value([]).run()
    assert numbers(html(quiet(app))) == numbers(scored_apart(reader, BOTH))


def test_a_forgotten_choice_does_not_come_back(app: AppTest, reader: Reader) -> None:
    drop(app, SCAN, BOTH)
    app.multiselect[0].set_value(["reticulation"]).run()
    app.button(key="forget-annotations").click().run()
    annotate(app, BOTH)
    assert app.multiselect[0].value == []
    assert numbers(html(app)) == numbers(scored_apart(reader, BOTH))


def test_a_chosen_drawing_that_is_erased_does_not_stop_the_page(app: AppTest) -> None:
    drop(app, SCAN, BOTH)
    desk = desk_of(app)
    assert desk.opened is not None
    mask = np.zeros((SIZE, SIZE), bool)
    mask[100:120, 100:120] = True
    desk.draw(desk.opened.stack(0), 0, Drawing(1, {Finding.GROUND_GLASS: encode(mask)}))
    quiet(app.run()).multiselect[0].set_value(["ground glass"]).run()
    assert numbers(html(quiet(app)))
    desk_of(app).draw(desk.opened.stack(0), 0, Drawing(2, {}))
    quiet(app.run())
    assert app.multiselect[0].options == ["honeycombing", "reticulation"]


def small_mask() -> bytes:
    return bytes(cv2.imencode(".png", np.eye(64, dtype=np.uint8) * 255)[1])


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("noise.nii", bytes(np.random.default_rng(0).integers(0, 256, 5000, np.uint8))),
        ("02_mask.png", small_mask()),
        ("elsewhere.dcm", seg_content(seg(cts(3), np.ones((3, *cts(1)[0].pixel_array.shape), np.uint8)))),
    ],
)
def test_a_bad_annotation_gets_a_sentence_and_the_scan_stays(app: AppTest, name: str, content: bytes) -> None:
    drop(app, SCAN)
    answer = re.findall(r'<div class="ipf-answer">.*', html(app))
    annotate(app, (name, content))
    shown = html(app)
    (sentence,) = re.findall(rf"<li><b>{re.escape(name)}</b><br>([^<]+)</li>", shown)
    assert sentence.endswith(".")
    assert len(sentence) > 40
    assert re.findall(r'<div class="ipf-answer">.*', shown) == answer
    assert viewer_data(app)["stack"]["slices"]
    assert "No annotation was taken in" in shown


def test_a_bad_annotation_dropped_with_the_scan_gets_its_sentence_too(app: AppTest) -> None:
    drop(app, SCAN, ("elsewhere.json", polygons("another.dcm", 64, cyst=(5, 5, 20, 20))[1]))
    assert re.search(r"<li><b>elsewhere\.json</b><br>[^<]{30,}</li>", html(app))
    assert viewer_data(app)["stack"]["slices"]
    assert any(word in html(app) for word in ("IPF-like", "Normal-like", "Uncertain"))


def test_what_the_reader_draws_is_compared(app: AppTest, reader: Reader) -> None:
    drop(app, SCAN)
    desk = desk_of(app)
    assert desk.opened is not None
    mask = np.asarray(cv2.imdecode(np.frombuffer(MASK[1], np.uint8), cv2.IMREAD_GRAYSCALE)) > 127
    desk.draw(desk.opened.stack(0), 0, Drawing(1, {Finding.HONEYCOMBING: encode(mask)}))
    assert numbers(html(quiet(app.run()))) == numbers(scored_apart(reader, MASK))
    assert "drawn here" in html(app)
    desk_of(app).draw(desk.opened.stack(0), 0, Drawing(2, {Finding.HONEYCOMBING: encode(~mask)}))
    assert numbers(html(quiet(app.run()))) != numbers(scored_apart(reader, MASK))


def test_outlines_of_organs_are_not_taken_for_disease(app: AppTest) -> None:
    drop(app, SCAN, polygons(aorta=LEFT, rib_7=RIGHT))
    assert "Not called a finding of fibrosis: aorta, rib 7." in html(app)


def circled() -> File:
    """A drawn slice as a picture, with a red circle around something in the right lung."""
    scan = take_in([Upload(*SCAN)]).series[0].slices[0]
    grey = np.rint(np.clip((scan.pixels.astype(np.float32) + 1350) / 1500, 0, 1) * 255).astype(np.uint8)
    canvas = cv2.resize(cv2.cvtColor(grey, cv2.COLOR_GRAY2BGR), (640, 640), interpolation=cv2.INTER_CUBIC)
    cv2.circle(canvas, (190, 330), 38, (0, 0, 255), 3, cv2.LINE_AA)
    return "teaching.png", bytes(cv2.imencode(".png", canvas)[1])


def test_marks_on_a_picture_are_compared_with_when_the_reader_says_so(app: AppTest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ipfvision.workflow.reading.SHORTCUT_ODDS", 1.0)
    drop(app, circled())
    assert not numbers(html(app))
    (toggle,) = [one for one in app.toggle if one.label.startswith("Compare with")]
    assert toggle.label == "Compare with 1 mark on the picture"
    assert "Marks on the picture." in html(app)
    toggle.set_value(True).run()
    assert len(numbers(html(quiet(app)))) == 3
    assert "burned-in mark" in html(app)
    assert viewer_data(app)["annotated"] == [True]
    (area,) = desk_of(app).from_files(0, 0)
    assert getattr(area, "mask")[330, 190]  # noqa: B009 - an area, whatever its type
    next(one for one in app.toggle if one.label.startswith("Compare with")).set_value(False).run()
    assert not numbers(html(quiet(app)))


def test_a_map_is_checked_on_demand_and_the_result_kept(app: AppTest) -> None:
    drop(app, SCAN, MASK)
    app.button(key="trust").click().run()
    shown = html(quiet(app))
    assert '<ul class="ipf-list ipf-trust">' in shown
    assert shown.count(" yes</b>") + shown.count(" no</b>") + shown.count(" not known</b>") == 4
    desk = desk_of(app)
    (kept,) = desk.trust.values()
    assert desk.check is None
    quiet(app.run())
    assert list(desk_of(app).trust.values()) == [kept]
    assert "trust" not in [button.key for button in app.button]


def test_checks_go_on_where_a_script_run_ended_and_can_be_cancelled(app: AppTest, monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[int] = []

    def some(desk: Session, _: object) -> None:
        """Two passes, as if a click had ended the run then."""
        assert desk.check is not None
        steps.extend(next(desk.check.steps).done for _ in range(2))

    drop(app, SCAN, MASK)
    monkeypatch.setattr(compare, "go_on_checking", some)
    app.button(key="trust").click().run()
    quiet(app.run())
    assert steps == [1, 2, 3, 4]
    app.button(key="trust-cancel").click().run()
    assert desk_of(quiet(app)).check is None
    assert "trust" in [button.key for button in app.button]
    assert not desk_of(app).trust


def masks_of_series() -> list[File]:
    """Masks for the last three of five slices; the last one is looked at, and empty."""
    made = []
    for number in (3, 4, 5):
        mask = np.zeros((240, 240), np.uint8)
        if number < 5:
            mask[140:170, 60:100] = 255
        made.append((f"{number:02d}_mask.png", bytes(cv2.imencode(".png", mask)[1])))
    return made


def test_a_series_gets_its_profile_and_the_worst_disagreements_lead_to_their_slices(app: AppTest, reader: Reader) -> None:
    drop(app, SERIES, *masks_of_series())
    shown = html(app)
    assert "Along the series" in shown
    assert re.search(r'alt="\d slices? compared, of which \d disagree"', shown)
    # From the feet up, and the files from the head down.
    assert viewer_data(app)["annotated"] == [True, True, True, False, False]
    worst = [button for button in app.button if str(button.key).startswith("worst-")]
    assert worst
    index = int(str(worst[0].key).removeprefix("worst-"))
    assert index in (0, 1, 2)
    assert worst[0].label.startswith(f"Slice {index + 1}: ")
    worst[0].click().run()
    assert viewer_data(quiet(app))["slice"] == index
    assert f"Slice {index + 1} of 5" in html(app)
    desk_of(app).show(0, 4)
    assert "Nothing is annotated on this slice." in html(quiet(app.run()))


def test_a_long_series_is_compared_in_several_script_runs(app: AppTest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compare, "COMPARE_SECONDS", -1.0)
    drop(app, SERIES)
    annotate(app, *masks_of_series())
    desk = desk_of(app)
    assert all(desk.is_scored(0, index, reading) for index, reading in enumerate(desk.readings(0)))


def test_organs_along_a_series_disagree_with_nobody(app: AppTest) -> None:
    drop(app, SERIES, *(polygons(f"{number:02d}.dcm", 240, aorta=(60, 140, 100, 170)) for number in range(1, 6)))
    assert "Along the series" in html(app)
    assert not [button for button in app.button if str(button.key).startswith("worst-")]


def test_the_downloaded_result_holds_the_numbers(reader: Reader) -> None:
    series = take_in([Upload(*SCAN)]).series
    given = take_in_annotations([Upload(*MASK)], series).by_slice[0, 0]
    reading = reader.read(series[0].slices[0])
    (entry,) = json.loads(page_read.result_json(reader.card, [reading], [given], "ipf"))["slices"]
    assert set(entry["agreement"]) == set(AGREEMENT_KEYS)
    assert set(entry["evidence"]) == set(EVIDENCE_KEYS)
    assert set(entry["plausibility"]) == set(PLAUSIBILITY_KEYS)
    assert entry["evidence"]["annotated"] is not None
    assert [one["origin"] for one in entry["annotations"]] == ["mask"]
    assert entry["file"] is None


def test_names_come_from_run_lengths_findings_first(app: AppTest) -> None:
    drop(app, SCAN, polygons(Zone=LEFT, aorta=RIGHT, reticulation=LEFT))
    assert desk_of(app).names() == ("reticulation", "aorta", "Zone")


def test_a_zip_of_scan_and_annotation_goes_both_ways(app: AppTest, reader: Reader) -> None:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name, content in (SCAN, BOTH):
            archive.writestr(name, content)
    drop(app, ("case.zip", packed.getvalue()))
    assert numbers(html(app)) == numbers(scored_apart(reader, BOTH))

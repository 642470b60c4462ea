"""What leaves the program of a case: files for a PACS with the scan's patient, everything else with nobody's."""

import dataclasses
import json
import re
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset

from ipfvision import dicom, images
from ipfvision.case_page import CasePage
from ipfvision.core.agreement import HALF
from ipfvision.core.annotation import Annotation, BoxAnnotation, Finding, OnSlice, PointAnnotation, Said
from ipfvision.core.placement import place
from ipfvision.core.review import (
    Case,
    CaseSlice,
    Diagnosis,
    Drawn,
    Judgment,
    MachineAnswer,
    MapVerdict,
    Mode,
    Opinion,
    Reason,
    Review,
    SliceAnswer,
    Study,
    Times,
)
from ipfvision.core.slice import PixelSpacing, Plane, Scale, Series, Slice, Source, grey
from ipfvision.core.window import LUNG
from ipfvision.errors import InputRefused
from ipfvision.synthetic.thorax import draw_thorax
from ipfvision.ui.viewer.wire import COLORS as VIEWER_COLORS
from ipfvision.workflow import sending_dicom
from ipfvision.workflow.case_report import (
    FINDING_COLORS,
    RESEARCH,
    case_figure,
    case_page,
    case_page_png,
    case_pdf,
    case_picture,
)
from ipfvision.workflow.intake import Upload, take_in
from ipfvision.workflow.reading import Reader, Reading
from ipfvision.workflow.sending import send
from ipfvision.workflow.sending_dicom import case_dicom
from ipfvision.workflow.sent_case import Sent, SentCase, case_json, case_of, case_of_review, map_region
from tests.ct_files import change, to_bytes
from tests.dicom_validators import mismatches, need_tools, problems, written_to

SIZE = 160
NAMES = {
    "PatientName": "Doe^Jane",
    "PatientID": "MRN-4711",
    "PatientBirthDate": "19500102",
    "ReferringPhysicianName": "Refer^Rita",
}
SECRETS = ("Doe", "Jane", "MRN-4711", "19500102", "Refer", "Rita", "doe_jane")
STUDY = {"PatientSex": "F", "StudyDate": "20200304", "StudyTime": "101112", "StudyID": "1", "AccessionNumber": "A1"}
WHEN = datetime(2026, 1, 2, 3, 4, tzinfo=UTC)


def thorax(number: int, **more: Any) -> Slice:
    drawn = draw_thorax(np.random.default_rng(11 + number), level=0.6, size=SIZE, spacing_mm=2.0)
    source = Source("x", "DICOM", "", series_instance_uid="1.2.3.4", study_instance_uid="1.2.3", instance_number=number + 1)
    return replace(
        Slice(
            drawn.pixels,
            Scale.HOUNSFIELD,
            source,
            np.zeros(drawn.pixels.shape, np.bool_),
            spacing=PixelSpacing(2.0, 2.0),
            plane=Plane((-160.0, -150.0, 5.0 * number), (1.0, 0.0, 0.0), (0.0, 1.0, 0.0)),
            thickness_mm=5.0,
        ),
        **more,
    )


@pytest.fixture(scope="module")
def opened(random_model: Any) -> Reader:
    return Reader.open(random_model.weights)


@pytest.fixture(scope="module")
def files() -> list[Upload]:
    made = []
    for number in range(2):
        dataset = dcmread(BytesIO(dicom.write_ct(thorax(number), uid_seed="sending")))
        made.append(Upload(f"doe_jane_{number}.dcm", to_bytes(change(dataset, FrameOfReferenceUID="1.2.9", **NAMES, **STUDY))))
    return made


@pytest.fixture(scope="module")
def readings(opened: Reader, files: list[Upload]) -> list[Reading]:
    (series,) = take_in(files).series
    return [opened.read(one) for one in series.slices]


def area(finding: Finding = Finding.HONEYCOMBING, top: int = 60, reader: str = "reader") -> Annotation:
    mask = np.zeros((SIZE, SIZE), np.bool_)
    mask[top : top + 12, 30:55] = True
    return Annotation(mask, Said(finding, reader, origin="drawn here"))


OPINION = Opinion(Diagnosis.UIP, 4, comment="Basal, subpleural; more on the right")


@pytest.fixture(scope="module")
def case(opened: Reader, readings: list[Reading]) -> SentCase:
    given: list[list[OnSlice]] = [[area(), area(Finding.RETICULATION, 80)], [area(top=90)]]
    made = case_of(opened.card, readings, given, reader="R. Reader")
    return replace(
        made,
        first=Opinion(Diagnosis.PROBABLE_UIP, 2),
        revised=OPINION,
        judgment=Judgment(MapVerdict.PARTLY, (Reason.VESSEL, Reason.OTHER), "lights the heart"),
        made=WHEN,
    )


@pytest.fixture(scope="module")
def sent(case: SentCase, files: list[Upload]) -> Sent:
    return case_dicom(case, files, case_picture(case))


def by_kind(sent: Sent) -> dict[str, Dataset]:
    return {name.split("_", 2)[2].removesuffix(".dcm"): dcmread(BytesIO(content)) for name, content in sent.files.items()}


def test_a_case_becomes_two_segmentations_a_map_a_picture_and_a_report(sent: Sent, case: SentCase) -> None:
    made = by_kind(sent)
    assert set(made) == {"seg_reader", "seg_map", "map", "picture", "report"}
    assert sent.notes == ()
    assert len({one.SeriesInstanceUID for one in made.values()}) == len({one.SeriesNumber for one in made.values()}) == 5
    assert {one.StudyInstanceUID for one in made.values()} == {"1.2.3"}
    assert {str(one.PatientName) for one in made.values()} == {"Doe^Jane"}
    assert not [name for name in sent.files if any(secret.lower() in name.lower() for secret in SECRETS)]
    labels = [segment.SegmentLabel for segment in made["seg_reader"].SegmentSequence]
    assert labels == ["honeycombing", "reticulation"]
    (algorithm,) = made["seg_map"].SegmentSequence[0].SegmentationAlgorithmIdentificationSequence
    assert algorithm.AlgorithmVersion == case.card.sha256


def test_what_is_sent_is_valid_and_of_the_scan_s_study(sent: Sent, files: list[Upload], tmp_path: Path) -> None:
    need_tools()
    paths = written_to(tmp_path, sent.files)
    assert {path.name: problems(path) for path in paths} == {path.name: [] for path in paths}
    sources = written_to(tmp_path, {f"{number}.dcm": one.content for number, one in enumerate(files)})
    assert mismatches([*sources, *paths]) == []


def test_masks_and_map_come_back_to_the_pixels_that_they_were_made_of(sent: Sent, case: SentCase) -> None:
    series = Series(tuple(one.reading.scan for one in case.slices))
    for kind, wanted in (
        ("seg_map", [map_region(one.reading.explanations["ipf"]) for one in case.slices]),
        ("seg_reader", [one.annotations[0].mask for one in case.slices if isinstance((one.annotations or ())[0], Annotation)]),
    ):
        (content,) = [content for name, content in sent.files.items() if kind in name]
        placed = place(dicom.read_annotations(content), [series])
        for index, mask in enumerate(wanted):
            found = [one for one in placed.by_slice[0, index] if isinstance(one, Annotation)]
            assert any(np.array_equal(one.mask, mask) for one in found)
    made = by_kind(sent)["map"]
    for group, pixels in zip(made.PerFrameFunctionalGroupsSequence, made.pixel_array, strict=True):
        z = group.PlanePositionSequence[0].ImagePositionPatient[2]
        assert np.array_equal(pixels, case.slices[round(z / 5)].reading.explanations["ipf"].heatmap())


def test_the_region_of_the_map_is_the_one_that_dice_is_measured_on(case: SentCase) -> None:
    for one in case.slices:
        heatmap = one.reading.explanations["ipf"].heatmap()
        drawn = np.logical_or.reduce([given.mask for given in one.annotations or () if isinstance(given, Annotation)])
        region = map_region(one.reading.explanations["ipf"])
        assert np.array_equal(region, heatmap / heatmap.max() >= np.float32(HALF))
        assert one.scored.agreement is not None
        assert one.scored.agreement.dice_at_half == pytest.approx(2 * (region & drawn).sum() / (region.sum() + drawn.sum()))


def items(dataset: Dataset) -> Iterator[Dataset]:
    for one in dataset.get("ContentSequence", []):
        yield one
        yield from items(one)


def test_the_report_says_the_answer_the_numbers_and_the_opinions(sent: Sent, case: SentCase) -> None:
    report = by_kind(sent)["report"]
    numbers: dict[str, list[float]] = {}
    answers: dict[str, list[str]] = {}
    texts = []
    for item in items(report):
        name = item.ConceptNameCodeSequence[0].CodeMeaning if "ConceptNameCodeSequence" in item else ""
        if item.ValueType == "NUM":
            numbers.setdefault(name, []).append(float(item.MeasuredValueSequence[0].NumericValue))
        elif item.ValueType == "CODE":
            answers.setdefault(name, []).append(item.ConceptCodeSequence[0].CodeMeaning)
        elif item.ValueType == "TEXT":
            texts.append(item.TextValue)
    first, second = (one.reading.prediction for one in case.slices)
    agreements = [one.scored.agreement for one in case.slices]
    found = numbers["Calibrated probability of IPF against normal lung"]
    assert found == pytest.approx([first.probability, second.probability])
    assert numbers["Dice at half the peak"] == pytest.approx([one.dice_at_half for one in agreements if one is not None])
    assert numbers["Area on the slice"].count(12 * 25 * 4.0) == 3
    assert answers["CT pattern, before the answer"] == ["Probable UIP"]
    assert answers["CT pattern, with the answer"] == ["UIP"]
    assert answers["Verdict on the map"] == ["The map agrees in part"]
    assert answers["Why the map does not agree"] == ["Vessel", "Other"]
    assert OPINION.comment in texts
    assert "lights the heart" in texts


def test_pictures_have_no_study_to_go_to(opened: Reader) -> None:
    png = images.write_png(np.rint(grey(thorax(0), LUNG) * 255).astype(np.uint8))
    (series,) = take_in([Upload("a.png", png)]).series
    case = case_of(opened.card, [opened.read(series.slices[0])], [[area()]])
    with pytest.raises(InputRefused, match="belong to no study"):
        case_dicom(case, [Upload("a.png", png)], np.zeros((4, 4, 3), np.uint8))
    assert case_pdf(case).startswith(b"%PDF")
    assert json.loads(case_json(case))["slices"][0]["decision"]
    assert case_figure(case).startswith(b"\x89PNG")


def test_without_the_scan_s_files_nothing_is_sent(case: SentCase, files: list[Upload]) -> None:
    with pytest.raises(InputRefused, match="files of 1 of 2 slices"):
        case_dicom(case, files[:1], case_picture(case))
    changed = dcmread(BytesIO(files[1].content))
    changed.PixelData = bytes(len(changed.PixelData))
    with pytest.raises(InputRefused, match="other pixels"):
        case_dicom(case, [files[0], Upload("x", to_bytes(changed))], case_picture(case))


PAGES = {"page.pdf", "figure.png", "case.json"}


def altered(upload: Upload, **attributes: Any) -> Upload:
    return replace(upload, content=to_bytes(change(dcmread(BytesIO(upload.content)), **attributes)))


def kinds(sent: Sent) -> set[str]:
    return {name.split("_", 2)[2] for name in sent.files}


@pytest.mark.parametrize(
    ("attributes", "tags"),
    [
        ({"PatientID": "OTHER-1"}, {"(0010,0020)"}),
        ({"PatientName": "Roe^Richard"}, {"(0010,0010)"}),
        ({"PatientBirthDate": "19700101"}, {"(0010,0030)"}),
        ({"PatientID": None, "PatientName": "", "PatientBirthDate": ""}, {"(0010,0020)", "(0010,0010)", "(0010,0030)"}),
        ({"StudyInstanceUID": "1.2.999"}, {"(0020,000D)"}),
        ({"SeriesInstanceUID": "1.2.998"}, {"(0020,000E)"}),
        ({"FrameOfReferenceUID": "1.2.997"}, {"(0020,0052)"}),
    ],
)
def test_files_of_two_patients_or_studies_become_no_object(
    case: SentCase, files: list[Upload], attributes: dict[str, Any], tags: set[str]
) -> None:
    for order in (files[0], altered(files[1], **attributes)), (altered(files[0], **attributes), files[1]):
        found = send(case, order)
        assert kinds(found) == PAGES
        (note,) = found.notes
        assert set(re.findall(r"\([0-9A-F]{4},[0-9A-F]{4}\)", note)) == tags
        assert not [value for value in (*NAMES.values(), *attributes.values()) if value and value in note]


@pytest.mark.parametrize(
    "attributes", [{"StudyInstanceUID": "1.2.999"}, {"SeriesInstanceUID": "1.2.998"}, {"FrameOfReferenceUID": "1.2.997"}]
)
def test_nothing_is_written_into_another_study_than_the_one_that_was_read(
    case: SentCase, files: list[Upload], attributes: dict[str, Any]
) -> None:
    with pytest.raises(InputRefused, match="please give the file that was read"):
        case_dicom(case, [altered(one, **attributes) for one in files], case_picture(case))


def test_files_that_differ_in_nothing_that_counts_are_one_patient_s(case: SentCase, files: list[Upload]) -> None:
    padded = altered(files[1], PatientName="Doe^Jane^^", PatientID="MRN-4711 ")
    assert len(case_dicom(case, [files[0], padded], case_picture(case)).files) == 5
    nobody = [altered(one, PatientName=None, PatientID="", PatientBirthDate=None) for one in files]
    assert len(case_dicom(case, nobody, case_picture(case)).files) == 5


def test_slices_as_read_that_share_no_frame_of_reference_become_no_object(opened: Reader, files: list[Upload]) -> None:
    moved = [files[0], altered(files[1], FrameOfReferenceUID="1.2.997")]
    (series,) = take_in(moved).series
    case = case_of(opened.card, [opened.read(one) for one in series.slices], [[area()], None])
    with pytest.raises(InputRefused, match=r"\(0020,0052\)"):
        case_dicom(case, moved, case_picture(case))


def test_what_highdicom_does_not_take_is_left_out_in_a_sentence(opened: Reader, files: list[Upload]) -> None:
    beside = [files[0], altered(files[1], ImagePositionPatient=[-60, -150, 0])]  # in one plane, side by side
    (series,) = take_in(beside).series
    assert len(series.slices) == 2
    case = case_of(opened.card, [opened.read(one) for one in series.slices], [[area()], None])
    found = send(case, beside)
    assert kinds(found) == PAGES | {"picture.dcm", "report.dcm"}
    assert [note.split(" was left out. ")[0] for note in found.notes] == [
        "The segmentation of what was drawn",
        "The segmentation of the map",
        "The map",
    ]
    assert all("please export the CT again." in note and "duplicates" not in note for note in found.notes)


def test_the_files_are_found_in_a_zip_among_others(case: SentCase, files: list[Upload]) -> None:
    packed = BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("README.txt", "not a scan")
        archive.writestr("broken.dcm", b"\0" * 128 + b"DICM broken")
        for number, one in enumerate(files):
            archive.writestr(f"sub/{number}", one.content)
    steps: list[tuple[int, int]] = []
    found = case_dicom(case, [Upload("s.zip", packed.getvalue())], case_picture(case), lambda *at: steps.append(at))
    assert len(found.files) == 5
    assert steps[-1] == (4, 4)


def test_slices_of_two_series_are_not_sent_together(case: SentCase, files: list[Upload]) -> None:
    one = case.slices[1]
    scan = one.reading.scan
    other = replace(scan, source=replace(scan.source, series_instance_uid="9.9"))
    mixed = replace(case, slices=(case.slices[0], replace(one, reading=replace(one.reading, scan=other))))
    with pytest.raises(InputRefused, match="more than one series"):
        case_dicom(mixed, files, case_picture(case))


def test_what_cannot_be_made_is_left_out_and_said(case: SentCase, files: list[Upload], opened: Reader) -> None:
    point = PointAnnotation(30.0, 40.0, Said(Finding.OTHER, "reader"))
    box = BoxAnnotation(10.0, 10.0, 20.0, 20.0, Said(Finding.OTHER, "reader"))
    synthetic = area(reader="synthetic")
    readings = [one.reading for one in case.slices]
    bare = case_of(opened.card, readings, [[point, box, synthetic], None])
    found = case_dicom(bare, files, case_picture(bare))
    assert set(by_kind(found)) == {"seg_map", "map", "picture", "report"}
    assert len(found.notes) == 3
    assert all(re.fullmatch(r"[A-Z].*\.", note) for note in found.notes)


def test_a_scan_without_a_place_gets_a_picture_and_a_report_only(opened: Reader) -> None:
    dataset = dcmread(BytesIO(dicom.write_ct(thorax(0), uid_seed="placeless")))
    content = to_bytes(change(dataset, ImagePositionPatient=None, **NAMES, **STUDY))
    (series,) = take_in([Upload("a", content)]).series
    case = case_of(opened.card, [opened.read(series.slices[0])], [[area()]])
    found = case_dicom(case, [Upload("a", content)], case_picture(case))
    assert set(by_kind(found)) == {"picture", "report"}
    assert sum("(0020,0032)" in note for note in found.notes) == 3


def test_a_refused_slice_is_sent_without_a_map(opened: Reader) -> None:
    empty = thorax(0, pixels=np.full((SIZE, SIZE), -1000, np.int16))
    content = to_bytes(change(dcmread(BytesIO(dicom.write_ct(empty, uid_seed="air"))), **NAMES, **STUDY))
    (series,) = take_in([Upload("a", content)]).series
    case = case_of(opened.card, [opened.read(series.slices[0])], [None])
    found = case_dicom(case, [Upload("a", content)], case_picture(case))
    assert set(by_kind(found)) == {"picture", "report"}
    assert case_pdf(case).startswith(b"%PDF")


def test_a_long_series_is_sent_in_part_and_says_so(
    case: SentCase, files: list[Upload], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sending_dicom, "MOST_MAPPED", 1)
    monkeypatch.setattr(sending_dicom, "MOST_REPORTED", 1)
    found = case_dicom(case, files, case_picture(case))
    assert by_kind(found)["map"].NumberOfFrames == 1
    position = by_kind(found)["map"].PerFrameFunctionalGroupsSequence[0].PlanePositionSequence[0].ImagePositionPatient
    assert position[2] == 5 * case.key
    assert sum("1 of 2 slices" in note for note in found.notes) == 2


def review(case: SentCase, sha256: str) -> Review:
    slices = tuple(CaseSlice(one.reading.scan.source.pixel_sha256, (SIZE, SIZE)) for one in case.slices)
    drawn = Drawn.of(1, Finding.HONEYCOMBING, area().mask)
    answer = MachineAnswer(
        case.card.name, sha256, tuple(SliceAnswer(index, one.reading.prediction) for index, one in enumerate(case.slices))
    )
    return Review(
        id="r",
        study=Study("s", "Twelve cases", Mode.BLINDED, 0, WHEN),
        case=Case("c", 1, slices),
        reader="R. Reader",
        revised=Opinion(Diagnosis.UIP, 5, (drawn,)),
        answer=answer,
        times=Times(WHEN),
        application_version="0",
        first=OPINION,
    )


def test_a_review_is_sent_with_its_own_drawings_and_model(case: SentCase, opened: Reader) -> None:
    given = review(case, opened.card.sha256)
    readings = {index: one.reading for index, one in enumerate(case.slices)}
    made = case_of_review(opened.card, readings, given)
    assert made.slices[0].annotations is None
    (drawn,) = made.slices[1].annotations or ()
    assert isinstance(drawn, Annotation)
    assert np.array_equal(drawn.mask, area().mask)
    assert (made.reader, made.first, made.revised) == ("R. Reader", OPINION, given.revised)
    with pytest.raises(InputRefused, match="load the model of the review"):
        case_of_review(opened.card, readings, review(case, "f" * 64))
    with pytest.raises(InputRefused, match="not the one that was reviewed"):
        case_of_review(opened.card, {0: readings[1]}, given)


def words(page: Any) -> Iterator[str]:
    if isinstance(page, str):
        yield page
    elif dataclasses.is_dataclass(page):
        for one in dataclasses.fields(page):
            yield from words(getattr(page, one.name))
    elif isinstance(page, (tuple, list)):
        for item in page:
            yield from words(item)


def test_page_figure_and_json_name_nobody(case: SentCase) -> None:
    shown = "\n".join(words(case_page(case)))
    for content in (shown.encode(), case_pdf(case), case_figure(case), case_json(case)):
        assert not [secret for secret in SECRETS if secret.encode() in content]
    assert b"/Title" not in case_pdf(case)
    assert b"/Author" not in case_pdf(case)


def test_the_page_says_what_the_answer_rests_on(case: SentCase) -> None:
    shown = "\n".join(words(case_page(case)))
    cell = case.slices[case.key].reading.explanations["ipf"].cell_mm(PixelSpacing(2.0, 2.0))
    assert cell is not None
    for said in (
        RESEARCH,
        case.card.sha256,
        case.card.name,
        "\N{MINUS SIGN}600 / 1500 HU",
        f"{cell[0]:.0f} \N{MULTIPLICATION SIGN} {cell[1]:.0f} mm",
        "UIP; confidence 4 of 5",
        "probable UIP; confidence 2 of 5",
        "partly: vessel, other",
        "uncertain 0.40 to 0.60",
        "at least 50 % of its peak",
        OPINION.comment,
    ):
        assert said in shown, said


def test_the_page_s_evidence_adds_up_to_the_margin(case: SentCase) -> None:
    *parts, total = case_page(case).parts
    assert total.is_total
    assert sum(part.value for part in parts) == pytest.approx(total.value, abs=1e-4)
    assert total.value == pytest.approx(case.slices[case.key].reading.prediction.margin, abs=1e-4)


def test_a_case_is_one_page_of_a4(case: SentCase) -> None:
    content = case_pdf(case)
    assert len(re.findall(rb"/Type /Page\b", content)) == 1
    (box,) = re.findall(rb"/MediaBox \[ *0 0 ([\d.]+) ([\d.]+) *\]", content)
    assert [float(side) for side in box] == pytest.approx([595, 842], abs=1)


HARD = "Zweitbefund 肺 😀 $x_{2}$ \\frac{1}{2} " + "W" * 300 + "\n" + "long " * 400


def crowded(case: SentCase) -> SentCase:
    reading = case.slices[0].reading
    scan = replace(reading.scan, warnings=(HARD, *["A warning that takes some words to say. " * 5] * 6))
    one = replace(case.slices[0], reading=replace(reading, scan=scan))
    return replace(
        case,
        slices=(one, case.slices[1]),
        reader="W" * 200,
        first=replace(OPINION, comment=HARD),
        revised=replace(OPINION, comment=HARD),
        judgment=Judgment(MapVerdict.DISAGREES, tuple(Reason), HARD),
    )


def test_no_word_leaves_the_page_however_much_is_said(case: SentCase) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    from ipfvision.case_page import HEIGHT, WIDTH, _Sheet

    page: CasePage = case_page(crowded(case), 0)
    figure = Figure(figsize=(WIDTH, HEIGHT), dpi=100)
    _Sheet(figure).draw(page)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    edge = figure.bbox
    texts = [one.get_window_extent(canvas.get_renderer()) for one in figure.texts if one.get_text()]
    assert len(texts) > 50
    assert [box for box in texts if box.x0 < 30 or box.x1 > edge.x1 - 30 or box.y0 < 10 or box.y1 > edge.y1 - 10] == []
    assert any("(cut)" in one.get_text() for one in figure.texts)


def test_what_the_typeface_lacks_is_no_warning_in_the_log(case: SentCase) -> None:
    assert case_pdf(crowded(case), 0).startswith(b"%PDF")  # warnings are errors here
    assert case_page_png(case).startswith(b"\x89PNG")


def test_every_pixel_of_the_slice_is_in_the_figure(case: SentCase) -> None:
    from ipfvision.core.overlay import display_grey

    shown: npt.NDArray[np.uint8] = case_picture(case, 0)
    pixels = display_grey(case.slices[0].reading.scan, LUNG)
    factor = round(512 / SIZE)
    grown = np.kron(pixels, np.ones((factor, factor), np.uint8))
    pane = shown[58 : 58 + grown.shape[0], 12 : 12 + grown.shape[1]]
    same = (pane == grown[:, :, None]).all(axis=2)
    assert same.mean() > 0.98  # letters and the scale bar lie on it
    assert (pane[20:60, 60:200] == grown[20:60, 60:200, None]).all()


def test_everything_is_sent_at_once_and_a_page_even_without_a_pacs(case: SentCase, files: list[Upload]) -> None:
    alone, whole, without = send(case), send(case, files), send(case, [])
    assert kinds(alone) == kinds(without) == PAGES
    assert len(whole.files) == 8
    assert alone.notes == whole.notes == ()
    (note,) = without.notes
    assert "files of 2 of 2 slices" in note
    shown = dcmread(BytesIO(next(content for name, content in whole.files.items() if name.endswith("picture.dcm"))))
    assert np.array_equal(shown.pixel_array, case_picture(case))


def test_findings_have_the_colors_of_the_viewer() -> None:
    assert dict(FINDING_COLORS) == dict(VIEWER_COLORS)


def test_the_json_is_the_result_with_the_review(case: SentCase) -> None:
    document = json.loads(case_json(case))
    assert [entry["file"] for entry in document["slices"]] == [None, None]
    assert document["review"]["reader"] == "R. Reader"
    assert document["review"]["revised"] == {"diagnosis": "UIP", "confidence": 4, "comment": OPINION.comment}
    assert document["review"]["map"] == {"verdict": "partly", "reasons": ["vessel", "other"], "text": "lights the heart"}
    assert document["model"]["sha256"] == case.card.sha256
    assert document["slices"][0]["agreement"]["dice_at_half"] is not None


def test_long_words_in_any_alphabet_reach_the_report_whole(case: SentCase, files: list[Upload], tmp_path: Path) -> None:
    need_tools()
    long = (HARD + "\\")[:10_000].ljust(10_000, "é")
    told = replace(
        case,
        reader="Ž" * 200,
        first=None,
        revised=replace(OPINION, comment=long),
        judgment=Judgment(MapVerdict.DISAGREES, tuple(Reason), long),
    )
    found = case_dicom(told, files, case_picture(case))
    texts = [item.TextValue for item in items(by_kind(found)["report"]) if item.ValueType == "TEXT"]
    assert texts.count(long) == 2
    paths = written_to(tmp_path, found.files)
    assert {path.name: problems(path) for path in paths} == {path.name: [] for path in paths}

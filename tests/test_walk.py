"""The walk of a slice, as ARCHITECTURE.md draws it: bytes in, answer, map and picture out."""

import json
from pathlib import Path

import numpy as np
import pytest

from ipfvision import dicom, images
from ipfvision.core.findings import Decision
from ipfvision.core.slice import PixelSpacing, Plane, Scale, Slice, Source, grey
from ipfvision.core.window import LUNG
from ipfvision.synthetic.thorax import draw_thorax
from ipfvision.workflow.intake import Upload, take_in
from ipfvision.workflow.reading import METHODS, Reader, full_scale, overlay_name, picture, picture_png, result


@pytest.fixture(scope="module")
def drawn() -> Slice:
    thorax = draw_thorax(np.random.default_rng(11), level=0.6, size=320, spacing_mm=0.9)
    return Slice(
        thorax.pixels,
        Scale.HOUNSFIELD,
        Source("drawn", "DICOM", "0"),
        np.zeros(thorax.pixels.shape, np.bool_),
        spacing=PixelSpacing(0.9, 0.9),
        plane=Plane((0.0, 0.0, 0.0), (1.0, 0.0, 0.0), (0.0, 1.0, 0.0)),
        thickness_mm=1.0,
    )


@pytest.fixture(scope="module")
def reader(random_model: object) -> Reader:
    return Reader.open(random_model.weights)  # type: ignore[attr-defined]


def test_a_slice_walks_from_bytes_to_answer_map_and_picture(reader: Reader, drawn: Slice) -> None:
    content = dicom.write_ct(drawn, uid_seed="walk")
    (series,) = take_in([Upload("any name", content)]).series
    (scan,) = series.slices
    assert scan.scale is Scale.HOUNSFIELD

    reading = reader.read(scan)
    assert reading.prediction.decision is not Decision.REFUSED
    assert reading.model_input is not None
    assert reading.model_input.shape == reader.card.input_shape

    explanation = reading.explanations["ipf"]
    heatmap = explanation.heatmap()
    assert heatmap.shape == scan.shape
    assert explanation.peak == pytest.approx(heatmap.max(), rel=0.3)  # the peak cell's center may lie between pixels

    shown = picture(reader.card, reading, "ipf", threshold=0.0)
    untouched = heatmap == 0
    assert (shown[untouched] == shown[untouched][:, :1]).all()


def test_dicom_and_png_of_one_slice_meet_at_grey(reader: Reader, drawn: Slice) -> None:
    png = images.write_png(np.rint(grey(drawn, LUNG) * 65535).astype(np.uint16))
    scans = [take_in([Upload("x", content)]).series[0].slices[0] for content in (dicom.write_ct(drawn, uid_seed="a"), png)]
    first, second = (reader.read(scan) for scan in scans)
    assert first.prediction.margin == pytest.approx(second.prediction.margin, abs=0.02)
    assert [scan.scale for scan in scans] == [Scale.HOUNSFIELD, Scale.GREY]
    assert second.explanations["ipf"].cell_mm(scans[1].spacing) is None


def test_moving_the_readers_window_does_not_move_the_answer(reader: Reader, drawn: Slice) -> None:
    from ipfvision.core.window import MEDIASTINUM

    reading = reader.read(drawn)
    narrow = picture(reader.card, reading, window=MEDIASTINUM)
    assert (narrow != picture(reader.card, reading)).any()
    again = reader.read(drawn)
    assert again.prediction == reading.prediction
    assert (again.explanations["ipf"].cells == reading.explanations["ipf"].cells).all()


def test_a_slice_without_lungs_is_refused_with_a_reason_and_no_numbers(reader: Reader) -> None:
    nothing = Slice(
        np.full((128, 128), -1000, np.int16), Scale.HOUNSFIELD, Source("x", "DICOM", "0"), np.zeros((128, 128), np.bool_)
    )
    reading = reader.read(nothing)
    assert reading.prediction.decision is Decision.REFUSED
    assert reading.prediction.probability is None
    assert reading.explanations == {}
    assert picture(reader.card, reading).shape == (128, 128, 3)
    (part,) = result(reader.card, [reading])["slices"]
    assert part["probability"] is part["margin"] is part["explanation"] is None
    assert part["reason"].endswith(".")


@pytest.mark.parametrize("target", ["ipf", "normal"])
def test_the_json_has_the_promised_shape(reader: Reader, drawn: Slice, target: str) -> None:
    content = json.loads(json.dumps(result(reader.card, [reader.read(drawn)], target)))
    (part,) = content["slices"]
    assert part["file"] == "drawn"
    assert part["scale"] == "hounsfield"
    assert sum(part["probability"].values()) == pytest.approx(1)
    assert part["decision"] in {"ipf", "normal", "uncertain"}
    assert set(part) >= {"file", "scale", "probability", "margin", "decision", "reason", "warnings", "explanation"}
    assert set(part["explanation"]) >= {"method", "target", "layer", "peak", "peak_xy", "cell_mm"}
    assert part["explanation"]["target"] == target
    assert content["model"]["sha256"] == reader.card.sha256


def test_an_overlays_file_name_holds_nothing_of_the_inputs_name(reader: Reader, drawn: Slice) -> None:
    name = overlay_name(3, reader.read(drawn), "ipf")
    assert name == "0003_0_ipf_gradcam.png"
    assert picture_png(reader.card, reader.read(drawn))[:4] == b"\x89PNG"


def test_only_a_map_in_logits_is_drawn_on_the_cards_scale(reader: Reader, drawn: Slice) -> None:
    in_logits = reader.read(drawn).explanations["ipf"]
    other = reader.read(drawn, "layercam").explanations["ipf"]
    assert full_scale(reader.card, in_logits) == reader.card.map_reference
    assert full_scale(reader.card, other) == (other.peak or reader.card.map_reference)


def test_an_unknown_method_is_refused(reader: Reader, drawn: Slice) -> None:
    assert "gradcam" in METHODS
    with pytest.raises(ValueError, match="no explanation method"):
        reader.read(drawn, "rainbow")


def test_reading_stops_when_nobody_asks_for_the_next_slice(reader: Reader, drawn: Slice) -> None:
    asked = []

    def slices():
        for number in range(5):
            asked.append(number)
            yield drawn

    for _ in reader.read_all(slices()):
        break
    assert asked == [0, 1]  # the next one is made ready while this one is computed


def test_an_uploaded_patients_name_is_nowhere_in_the_result(reader: Reader, drawn: Slice, tmp_path: Path) -> None:
    import pydicom

    path = tmp_path / "a.dcm"
    path.write_bytes(dicom.write_ct(drawn, uid_seed="named"))
    named = pydicom.dcmread(path)
    named.PatientName, named.PatientID, named.PatientBirthDate = "Doe^Jane", "ID4711", "19500203"
    named.StudyDate, named.InstitutionName, named.ReferringPhysicianName = "20200102", "Mercy", "Roe^Richard"
    named.save_as(path)
    (series,) = take_in([Upload("upload", path.read_bytes())]).series
    said = json.dumps(result(reader.card, [reader.read(series.slices[0])])) + repr(series)
    for secret in ("Doe", "Jane", "4711", "19500203", "20200102", "Mercy", "Roe"):
        assert secret not in said

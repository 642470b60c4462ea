"""The routes beside the app, over real HTTP and behind Streamlit's own middleware."""

import asyncio
import gc
import http.client
import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import numpy as np
import pytest
import uvicorn
from starlette.applications import Starlette
from streamlit import config
from streamlit.proto.BackMsg_pb2 import BackMsg
from streamlit.web.server.starlette.starlette_app import create_streamlit_middleware

from ipfvision.core import run_lengths
from ipfvision.core.annotation import Annotation, BoxAnnotation, Finding, PointAnnotation, Said
from ipfvision.core.geometry import Crop
from ipfvision.core.slice import PixelSpacing, Plane, Scale, Series, Slice, Source
from ipfvision.errors import ReviewChanged, StoreUnavailable, StudyProblem
from ipfvision.ui import routes, server, session
from ipfvision.ui.session import Opened, Session
from ipfvision.ui.viewer import STATIC, wire
from ipfvision.workflow.reading import Reader

SHAPE = (256, 240)
SIZE = SHAPE[0] * SHAPE[1]


def scan(number: int = 0, *, lungs: bool = True) -> Slice:
    """Two dark ellipses in a bright one, as int16 Hounsfield units with a padded corner."""
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    hu = np.full(SHAPE, -1000, np.int16)
    hu[((x - 120) / 110) ** 2 + ((y - 128) / 85) ** 2 < 1] = 40
    if lungs:
        for center in (70, 170):
            hu[((x - center) / 36) ** 2 + ((y - 125) / 58) ** 2 < 1] = -850
    hu += np.random.default_rng(number).integers(-15, 16, SHAPE).astype(np.int16)
    padding = np.zeros(SHAPE, bool)
    padding[:3, :5] = True
    plane = Plane((0.0, 0.0, 5.0 * number), (1.0, 0.0, 0.0), (0.0, 1.0, 0.0))
    source = Source("DOE^JOHN.dcm", "DICOM", f"{number:064d}")
    return Slice(hu, Scale.HOUNSFIELD, source, padding, PixelSpacing(1.4, 1.4), plane, 5.0)


@dataclass
class Answer:
    status: int
    body: bytes
    headers: http.client.HTTPMessage

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def nothing(self) -> bool:
        return (self.status, self.body) == (404, b"")


class Wire:
    """A client that sends a path as it is given."""

    def __init__(self, port: int) -> None:
        self.port = port

    def __call__(self, path: str, method: str = "GET", body: Any = None) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        content = json.dumps(body).encode() if isinstance(body, dict) else body
        # Without a length http.client sends chunks.
        connection.request(method, path, content, {"Accept-Encoding": "gzip"}, encode_chunked=not isinstance(content, bytes))
        answer = connection.getresponse()
        found = Answer(answer.status, answer.read(), answer.headers)
        connection.close()
        return found


@pytest.fixture(scope="module")
def ask() -> Iterator[Wire]:
    app = Starlette(routes=server.routes(), middleware=create_streamlit_middleware())
    serving = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_level="error", lifespan="off", ws="none"))
    thread = threading.Thread(target=serving.run)
    thread.start()
    while not serving.started:
        time.sleep(0.01)
    yield Wire(serving.servers[0].sockets[0].getsockname()[1])
    serving.should_exit = True
    thread.join(timeout=20)


def sit_down(*series: Series, **annotations: Any) -> Session:
    """A desk with these series, as `session.current` would register it."""
    desk = Session(session_id="tab")
    desk.open(Opened("files", series, annotations=annotations))
    session._by_token[desk.token] = desk
    return desk


def at(desk: Session, index: int | str = 0, what: str = "pixels", series: int = 0) -> str:
    assert desk.opened is not None
    return f"/ipfvision/v1/{desk.token}/{desk.opened.stack(series)}/{index}/{what}"


@pytest.fixture
def desk() -> Session:
    return sit_down(Series((scan(0), scan(1), scan(2, lungs=False))))


def test_pixels_are_little_endian_hounsfield_units_and_say_where_nothing_was_measured(ask: Wire, desk: Session) -> None:
    answer = ask(at(desk, 1))
    got = np.frombuffer(answer.body, "<i2").reshape(SHAPE)
    one = desk.scan(0, 1)
    np.testing.assert_array_equal(got[~one.padding], one.pixels[~one.padding])
    assert (got[one.padding] == -32768).all()


def test_a_run_of_slices_is_what_each_alone_is(ask: Wire, desk: Session) -> None:
    alone = b"".join(ask(at(desk, index)).body for index in (1, 2))
    answer = ask(f"{at(desk, 1)}?count=2")
    assert answer.body == alone
    assert int(answer.headers["Content-Length"]) == len(alone)
    assert answer.headers["Cache-Control"] == "no-store"
    assert answer.headers["Content-Encoding"] == "identity"


@pytest.mark.parametrize("count", ["0", "4", "-1", "x", "", "17", "9999999", "\N{SUPERSCRIPT TWO}"])
def test_a_run_that_is_not_there_is_nothing(ask: Wire, desk: Session, count: str) -> None:
    assert ask(f"{at(desk)}?count={quote(count)}").nothing


def test_no_answer_has_more_slices_than_the_limit(ask: Wire) -> None:
    desk = sit_down(Series(tuple(scan(number) for number in range(17))))
    assert len(ask(f"{at(desk)}?count=16").body) == 16 * 2 * SIZE
    assert ask(f"{at(desk)}?count=17").nothing


def test_a_run_is_as_secret_as_a_slice(ask: Wire, desk: Session) -> None:
    other = sit_down(Series((scan(3), scan(4))))
    assert ask(f"{at(desk).replace(desk.token, other.token)}?count=2").nothing
    path = at(desk)
    desk.clear()
    assert ask(f"{path}?count=2").nothing


def come_in(subprotocols: list[str]) -> list[Any]:
    """`arrival`, in a thread of its own: a browser test of the same process may leave an event loop running in this one."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, arrival(subprotocols)).result()


async def arrival(subprotocols: list[str]) -> list[Any]:
    """What an app is told that `DrawAgain` stands before, when the browser itself says nothing but hello and goodbye."""
    said: Iterator[Any] = iter([{"type": "websocket.connect"}, {"type": "websocket.disconnect"}])
    heard: list[Any] = []

    async def receive() -> Any:
        return next(said)

    async def app(_: Any, listen: Any, __: Any) -> None:
        while not heard or heard[-1]["type"] != "websocket.disconnect":
            heard.append(await listen())

    async def send(_: Any) -> None:
        """Nothing is sent."""

    await server.DrawAgain(app)({"type": "websocket", "subprotocols": subprotocols}, receive, send)
    return heard


def test_a_browser_that_comes_back_gets_a_script_run_and_a_new_one_asks_for_its_own() -> None:
    hello, request, goodbye = come_in(["streamlit", "xsrf", "session"])
    assert (hello["type"], goodbye["type"]) == ("websocket.connect", "websocket.disconnect")
    assert BackMsg.FromString(request["bytes"]).WhichOneof("type") == "rerun_script"
    for fresh in ([], ["streamlit"], ["streamlit", "xsrf"], ["streamlit", "", ""]):
        assert [event["type"] for event in come_in(fresh)] == ["websocket.connect", "websocket.disconnect"]


def test_values_between_units_are_rounded_and_values_beyond_int16_are_held_inside() -> None:
    hu = np.array([[-1e6, -0.6, 0.4, 1e6]], np.float32)
    one = Slice(hu, Scale.HOUNSFIELD, Source("", "DICOM", ""), np.array([[False, False, False, False]]))
    assert np.frombuffer(wire.pixels(one), "<i2").tolist() == [-32767, -1, 0, 32767]


def test_a_picture_sends_its_grey_in_full_steps() -> None:
    grey = np.linspace(0, 1, 5, dtype=np.float32)[None]
    one = Slice(grey, Scale.GREY, Source("", "PNG", ""), np.zeros((1, 5), bool))
    got = np.frombuffer(wire.pixels(one), "<i2")
    assert (got[0], got[-1]) == (0, 32767)
    assert np.abs(got / 32767 - grey).max() < 1e-4


@pytest.mark.parametrize(("numbers", "end"), [((0, 5), "feet"), ((5, 0), "head"), ((3,), None), ((3, 3), None)])
def test_the_viewer_is_told_which_end_of_the_patient_comes_first(numbers: tuple[int, ...], end: str | None) -> None:
    assert wire.stack(Series(tuple(scan(number) for number in numbers)), "x")["first_end"] == end


def test_no_answer_is_compressed_or_kept(ask: Wire, desk: Session) -> None:
    for path in (at(desk), at(desk, 0, "drawing"), at(desk, 0, "annotations"), "/ipfvision/v1/static/viewer.css", at(desk, 9)):
        headers = ask(path).headers
        assert headers["Content-Encoding"] == "identity"
        assert headers["Cache-Control"] == "no-store"
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert "Access-Control-Allow-Origin" not in headers


def test_what_is_wrong_old_or_of_another_session_is_nothing(ask: Wire, desk: Session) -> None:
    other = sit_down(Series((scan(5),)))
    assert desk.opened is not None
    stack = desk.opened.stack(0)
    wrong = [
        at(desk).replace(desk.token, "A" * 43),
        at(desk).replace(desk.token, other.token),
        at(desk).replace(desk.token, desk.token[:-1]),
        at(desk).replace(desk.token, "%C3%A4"),
        at(desk).replace(stack, stack.replace("-0", "-1")),
        at(desk).replace(stack, "0"),
        *(at(desk, index) for index in ("3", "-1", "x", "", "%D9%A1", "9" * 30, "1.0")),
        at(desk, 0, "secrets"),
        at(desk, 0, "maps?method=unknown"),
        f"/ipfvision/v1/{desk.token}",
        f"/ipfvision/v1/{desk.token}/",
        f"/ipfvision/v1/{desk.token}/{stack}/",
        "/ipfvision/v1/",
        "/ipfvision/v1/static/",
        "/ipfvision/v2/static/viewer.css",
    ]
    assert [path for path in wrong if not ask(path).nothing] == []
    assert ask(at(desk)).status == ask(at(other)).status == 200


def test_every_way_of_asking_for_what_is_not_there_gets_nothing(ask: Wire, desk: Session) -> None:
    for method in ("POST", "PUT", "DELETE", "OPTIONS", "PATCH"):
        assert ask("/ipfvision/v1/nobody/0/0/elsewhere", method, b"x").nothing
        assert ask(at(desk).replace(desk.token, "A" * 43).replace("pixels", "drawing"), method, b"x").status in {404, 405}


def test_a_stack_is_gone_as_soon_as_the_desk_is_cleared(ask: Wire, desk: Session) -> None:
    old = at(desk)
    series = desk.opened.series  # type: ignore[union-attr]
    desk.clear()
    assert ask(old).nothing
    desk.open(Opened("the same again", series))
    assert ask(old).nothing
    assert ask(at(desk)).status == 200


def test_only_the_components_own_files_are_static(ask: Wire) -> None:
    assert {"viewer.css"} <= set(STATIC)
    assert all(path.suffix in {".js", ".css"} for path in STATIC.values())
    for name, path in STATIC.items():
        answer = ask(f"/ipfvision/v1/static/{name}")
        assert (answer.status, answer.body) == (200, path.read_bytes())
        assert answer.headers["Content-Type"].startswith("text/")
    for name in (
        "__init__.py",
        "wire.py",
        "..%2Fstyle.css",
        "%2e%2e/style.css",
        "../style.css",
        "..",
        ".",
        "viewer.css/",
        "%00",
    ):
        assert ask(f"/ipfvision/v1/static/{name}").status in {400, 404}, name


def test_a_token_dies_with_its_session(ask: Wire) -> None:
    desk = sit_down(Series((scan(),)))
    path = at(desk)
    assert ask(path).status == 200
    del desk
    gc.collect()
    assert ask(path).nothing


def test_a_desk_is_cleared_when_its_tab_stays_away_too_long(ask: Wire, desk: Session) -> None:
    staying = sit_down(Series((scan(),)))
    staying.session_id = "open tab"
    desk.draw(desk.opened.stack(0), 0, session.Drawing(1))  # type: ignore[union-attr]
    path = at(desk)

    def connected(tab: str) -> bool:
        return tab == "open tab"

    session.release_ended(connected, 60)
    assert ask(path).status == 200
    session.release_ended(lambda _: True, 0)  # it came back
    session.release_ended(connected, 0)
    assert ask(path).status == 200
    time.sleep(0.01)
    session.release_ended(connected, 0)
    assert ask(path).nothing
    assert desk.opened is None
    assert not desk.drawings
    assert ask(at(staying)).status == 200


def test_tokens_are_long_and_never_the_same() -> None:
    tokens = {Session().token for _ in range(100)}
    assert len(tokens) == 100
    assert all(len(token) == 43 for token in tokens)
    assert not any(token in repr(Session()) for token in tokens)
    assert "token" not in repr(Session())


def test_maps_come_when_the_slice_was_read(
    ask: Wire, desk: Session, random_model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = Reader.open(random_model.weights)
    monkeypatch.setattr(session, "model", lambda: reader)
    path = at(desk, 0, "maps?method=hirescam")
    assert (ask(path).status, ask(path).body) == (204, b"")
    reading, desk.card = desk.read(0, 0, "hirescam").reading, reader.card
    assert ask(at(desk, 0, "maps")).status == 204
    got = ask(path).json
    assert got["decision"] == reading.prediction.decision.value
    assert (got["probability"], got["margin"]) == (reading.prediction.probability, reading.prediction.margin)
    for target, explanation in reading.explanations.items():
        one = got["maps"][target]
        np.testing.assert_array_equal(np.array(one["values"], np.float32).reshape(one["shape"]), explanation.cells)
        left, top, width, height = one["crop"]
        crop = Crop(left, top, width, height, reader.card.input_shape, SHAPE)
        np.testing.assert_array_equal(crop.paste_cells(explanation.cells), explanation.heatmap())
        assert one["peak"] == explanation.peak
        peak_xy = explanation.peak_xy()
        assert one["peak_xy"] == (None if peak_xy is None else list(peak_xy))
    lungs = run_lengths.decode(run_lengths.check(got["lungs"], SIZE), SHAPE)
    np.testing.assert_array_equal(lungs, reading.lungs.mask)


def test_a_refused_slice_has_an_answer_and_no_maps(
    ask: Wire, desk: Session, random_model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = Reader.open(random_model.weights)
    monkeypatch.setattr(session, "model", lambda: reader)
    desk.read(0, 2, "gradcam")
    desk.card = reader.card
    got = ask(at(desk, 2, "maps")).json
    assert (got["decision"], got["probability"], got["maps"], got["lungs"]) == ("refused", None, {}, None)


def test_annotations_from_files_keep_their_kind_and_origin(ask: Wire) -> None:
    one = scan()
    mask = np.zeros(SHAPE, bool)
    mask[40:60, 30:70] = True
    said = Said(Finding.RETICULATION, "DICOM SEG", "retic.", "DICOM SEG", "SOP Instance UID")
    desk = sit_down(
        Series((one, scan(1))),
        **{one.source.pixel_sha256: [Annotation(mask, said), PointAnnotation(3.5, 4.0, said), BoxAnnotation(1, 2, 3, 4, said)]},
    )
    area, point, box = ask(at(desk, 0, "annotations")).json
    common = {"finding": "reticulation", "label": "retic.", "origin": "DICOM SEG", "matched_by": "SOP Instance UID"}
    np.testing.assert_array_equal(run_lengths.decode(run_lengths.check(area.pop("runs"), SIZE), SHAPE), mask)
    assert area == {"kind": "mask"} | common
    assert point == {"kind": "point", "x": 3.5, "y": 4.0} | common
    assert box == {"kind": "box", "box": [1, 2, 3, 4]} | common
    assert ask(at(desk, 1, "annotations")).json == []


def test_a_drawing_arrives_pixel_for_pixel_as_the_readers_own_annotation(ask: Wire, desk: Session) -> None:
    path = at(desk, 1, "drawing")
    assert ask(path).json == {"revision": 0, "findings": {}}
    masks = {
        name: np.random.default_rng(seed).random(SHAPE) > 0.5 for seed, name in enumerate(["honeycombing", "ground glass"])
    }
    sent = {name: run_lengths.encode(mask).tolist() for name, mask in masks.items()} | {"other": [SIZE]}
    answer = ask(path, "PUT", {"revision": 0, "findings": sent})
    assert (answer.status, answer.json) == (200, {"revision": 1})
    assert ask(path).json == {"revision": 1, "findings": sent}
    drawn = desk.drawn(0, 1)
    assert [one.said.finding.value for one in drawn] == list(masks)
    for one in drawn:
        np.testing.assert_array_equal(one.mask, masks[one.said.finding.value])
        assert (one.said.origin, one.said.reader) == ("drawn here", "reader")
    assert desk.drawn(0, 0) == ()


def test_the_slower_of_two_tabs_gets_the_drawing_that_won(ask: Wire, desk: Session) -> None:
    path = at(desk, 0, "drawing")
    first = {"honeycombing": [10, 5, SIZE - 15]}
    assert ask(path, "PUT", {"revision": 0, "findings": first}).json == {"revision": 1}
    late = ask(path, "PUT", {"revision": 0, "findings": {"other": [SIZE]}})
    assert (late.status, late.json) == (409, {"revision": 1, "findings": first})
    assert ask(path).json["findings"] == first


def test_of_many_at_once_exactly_one_wins_each_revision(ask: Wire, desk: Session) -> None:
    path = at(desk, 0, "drawing")

    def save(number: int) -> int:
        return ask(path, "PUT", {"revision": 0, "findings": {"other": [number, 1, SIZE - 1 - number]}}).status

    with ThreadPoolExecutor(8) as pool:
        statuses = list(pool.map(save, range(24)))
    assert sorted(statuses) == [200] + [409] * 23
    assert ask(path).json["revision"] == 1


GOOD = {"revision": 0, "findings": {}}


@pytest.mark.parametrize(
    "body",
    [
        b"", b"{", b"[]", b"null", b'"x"', b"\xff\xfe", b"[" * 100_000, {}, GOOD | {"revision": "0"}, GOOD | {"revision": True},
        GOOD | {"findings": []}, GOOD | {"findings": {"emphysema": [SIZE]}}, GOOD | {"findings": {"other": [SIZE - 1]}},
        GOOD | {"findings": {"other": [SIZE + 1, -1]}}, GOOD | {"findings": {"other": [10, 0, SIZE - 10]}},
        GOOD | {"findings": {"other": [float(SIZE)]}}, GOOD | {"findings": {"other": "all"}},
        GOOD | {"findings": {"other": []}},
    ],
)  # fmt: skip
def test_what_is_no_drawing_is_refused_and_changes_nothing(ask: Wire, desk: Session, body: Any) -> None:
    answer = ask(at(desk, 0, "drawing"), "PUT", body)
    assert (answer.status, answer.body) == (400, b"")
    assert not desk.drawings


def test_a_drawing_that_is_too_large_is_refused_whatever_its_header_says(ask: Wire, desk: Session) -> None:
    large = b" " * routes.MOST_BYTES + json.dumps(GOOD).encode()
    for body in (large, [large[:500_000], large[500_000:]]):
        answer = ask(at(desk, 0, "drawing"), "PUT", body)
        assert (answer.status, answer.body) == (413, b"")
    assert not desk.drawings


def test_all_drawings_of_a_session_together_are_bounded(ask: Wire, desk: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "MOST_RUNS", 5)
    drawing = {"revision": 0, "findings": {"other": [1, 1, SIZE - 2]}}
    assert ask(at(desk, 0, "drawing"), "PUT", drawing).status == 200
    assert ask(at(desk, 1, "drawing"), "PUT", drawing).status == 413
    assert ask(at(desk, 1, "drawing")).json["revision"] == 0
    assert ask(at(desk, 0, "drawing"), "PUT", drawing | {"revision": 1}).json == {"revision": 2}


@pytest.mark.parametrize(
    ("problem", "status"), [(StoreUnavailable("The disk is full."), 503), (ReviewChanged("Another tab was quicker."), 423)]
)
def test_a_drawing_that_did_not_reach_the_disk_is_not_called_saved(
    ask: Wire, desk: Session, problem: StudyProblem, status: int
) -> None:
    path = at(desk, 0, "drawing")
    kept: list[int] = []

    def keep() -> None:
        if not kept:
            kept.append(desk.drawing(str(path.split("/")[4]), 0).revision)
            raise problem

    desk.on_drawn = keep
    first = {"honeycombing": [10, 5, SIZE - 15]}
    answer = ask(path, "PUT", {"revision": 0, "findings": first})
    assert (answer.status, answer.body) == (status, b"")
    again = ask(path, "PUT", {"revision": 0, "findings": first})
    assert (again.status, again.json) == (409, {"revision": 1, "findings": first})
    assert ask(path, "PUT", {"revision": 1, "findings": first}).json == {"revision": 2}
    assert kept == [1]


def test_a_desk_that_nobody_sits_at_holds_no_scan(ask: Wire, desk: Session) -> None:
    desk.scans, desk.on_drawn = (Series((scan(7),)),), desk.pause
    path = at(desk)
    desk.leave()
    assert (desk.scans, desk.on_drawn, desk.opened) == ((), None, None)
    assert ask(path).nothing


def test_the_routes_lie_below_the_servers_base_path() -> None:
    before = config.get_option("server.baseUrlPath")
    config.set_option("server.baseUrlPath", "/lung/app/")
    try:
        assert routes.base_path() == "/lung/app/ipfvision/v1"
        assert all(route.path.startswith("/lung/app/ipfvision/") for route in routes.routes())  # type: ignore[attr-defined]
        assert [route.path for route in server.routes()] == ["/lung/app/ipfvision/{rest:path}"]  # type: ignore[attr-defined]
    finally:
        config.set_option("server.baseUrlPath", before)
    assert routes.base_path() == "/ipfvision/v1"

"""A series: in order, in little memory, cancelled at once, and shared fairly between readers."""

import gc
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace

import numpy as np
import pytest
import torch

from ipfvision.core.findings import TARGETS
from ipfvision.core.slice import PixelSpacing, Scale, Slice, Source
from ipfvision.nn import torchvision_door
from ipfvision.nn import turns as nn_turns
from ipfvision.nn.network import Model, load, to_tensor
from ipfvision.nn.runtime import Runtime, on_torch
from ipfvision.nn.series import Pace, ahead, in_groups
from ipfvision.nn.turns import URGENT_IN_A_ROW, Turns
from ipfvision.workflow import series
from ipfvision.workflow.intake import take_in_paths
from ipfvision.workflow.reading import DEFAULT_MODEL, Reader, Reading
from ipfvision.workflow.samples import list_samples
from ipfvision.workflow.series import SeriesReading, left_words

READERS = 8
PATIENCE = 30.0
"""Seconds after which a thread that should have come has not."""


def thorax(number: int) -> Slice:
    """Two dark ellipses in a bright one; each number has noise of its own."""
    y, x = np.mgrid[:128, :128]
    hu = np.full((128, 128), -1000, np.int16)
    hu[((x - 64) / 58) ** 2 + ((y - 64) / 43) ** 2 < 1] = 40
    for center in (38, 90):
        hu[((x - center) / 19) ** 2 + ((y - 62) / 29) ** 2 < 1] = -850
    hu += np.random.default_rng(number).integers(-60, 61, hu.shape).astype(np.int16)
    source = Source("drawn", "DICOM", f"{number}", instance_number=number)
    return Slice(hu, Scale.HOUNSFIELD, source, np.zeros(hu.shape, bool), PixelSpacing(2.8, 2.8))


class Counting:
    """The network itself, and how often it was asked."""

    def __init__(self, model: Model) -> None:
        self._body = on_torch(model).features
        self.passes = 0
        self.sizes: list[int] = []
        self.at_once = self.most_at_once = 0
        self.reader = Reader(model, Runtime("counting", self))
        self.batching = Reader(model, Runtime("counting batches", self, batch=4))

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        self.passes += 1
        self.sizes.append(len(images))
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        found = self._body(images)
        self.at_once -= 1
        return found


@pytest.fixture(scope="module")
def model(random_model) -> Model:
    return random_model()


@pytest.fixture
def counting(model: Model) -> Counting:
    return Counting(model)


def same(one: Reading, other: Reading) -> bool:
    """Bit by bit."""
    return (
        one.prediction == other.prediction
        and one.explanations.keys() == other.explanations.keys()
        and all((one.explanations[key].cells == other.explanations[key].cells).all() for key in one.explanations)
    )


def test_items_come_in_order_and_one_is_made_ahead() -> None:
    made: list[int] = []
    second = threading.Event()

    def items() -> Iterator[int]:
        for number in range(4):
            made.append(number)
            if number == 1:
                second.set()
            yield number

    with closing(ahead(int, items())) as found:
        assert next(found) == 0
        assert second.wait(PATIENCE)
        assert made == [0, 1]
        assert list(found) == [1, 2, 3]
    assert list(ahead(int, [])) == []


def test_what_making_an_item_raises_comes_in_its_place() -> None:
    def items() -> Iterator[int]:
        yield 0
        raise ValueError("no slice")

    found = ahead(int, items())
    assert next(found) == 0
    with pytest.raises(ValueError, match="no slice"):
        next(found)


def test_a_series_is_answered_as_each_slice_alone_is(counting: Counting) -> None:
    slices = [thorax(number) for number in range(6)]
    slices.insert(2, Slice(np.full((128, 128), -1000, np.int16), Scale.HOUNSFIELD, slices[0].source, slices[0].padding))
    readings = list(counting.reader.read_all(slices))
    assert [reading.scan for reading in readings] == slices
    assert [not reading.explanations for reading in readings] == [number == 2 for number in range(7)]
    assert counting.passes == 6  # the refused one needs none
    assert all(same(reading, counting.reader.read(reading.scan)) for reading in readings)


def test_a_batch_is_answered_as_each_slice_alone_is(counting: Counting) -> None:
    slices = [thorax(number) for number in range(10)]
    slices.insert(2, Slice(np.full((128, 128), -1000, np.int16), Scale.HOUNSFIELD, slices[0].source, slices[0].padding))
    readings = list(counting.batching.read_all(slices))
    assert counting.sizes == [3, 4, 3]  # the refused one needs none
    assert [reading.scan for reading in readings] == slices
    for reading in readings:
        alone = counting.reader.read(reading.scan)
        assert reading.prediction.decision == alone.prediction.decision
        assert reading.explanations.keys() == alone.explanations.keys()
        if alone.prediction.margin is not None:
            assert reading.prediction.margin == pytest.approx(alone.prediction.margin, abs=1e-3)
        for target, explanation in alone.explanations.items():
            scale = max(one.peak for one in alone.explanations.values())
            assert np.abs(reading.explanations[target].cells - explanation.cells).max() <= 1e-3 * scale


def test_what_is_made_ahead_is_bounded_and_keeps_its_order() -> None:
    taken: list[int] = []

    def items() -> Iterator[int]:
        for number in range(20):
            taken.append(number)
            yield number

    def make(number: int) -> int:
        time.sleep(0.02 * (number % 3 == 0))
        return number * 10

    with closing(ahead(make, items(), most=4)) as found:
        for place, made in enumerate(found):
            assert made == place * 10
            assert len(taken) <= place + 1 + 4
    assert place == 19


def test_groups_hold_all_and_the_last_may_be_smaller() -> None:
    assert list(in_groups(range(7), 3)) == [[0, 1, 2], [3, 4, 5], [6]]
    assert list(in_groups(range(4), 2)) == [[0, 1], [2, 3]]
    assert list(in_groups([], 2)) == []


@pytest.mark.parametrize("by", ["event", "close", "break"])
def test_a_cancelled_series_computes_nothing_more(counting: Counting, by: str) -> None:
    cancelled = threading.Event()
    slices = (thorax(number) for number in range(1000))
    readings = counting.reader.read_all(slices, cancelled=cancelled)
    for number, _ in enumerate(readings, start=1):
        if number == 3:
            if by == "break":
                break
            cancelled.set() if by == "event" else readings.close()
    del readings
    passes = counting.passes
    assert passes == 3
    time.sleep(0.1)
    assert counting.passes == passes
    assert threading.active_count() < 50


def test_a_series_that_waits_for_its_turn_is_cancelled_too(counting: Counting) -> None:
    cancelled = threading.Event()
    with ThreadPoolExecutor(1) as pool, counting.reader.turn():
        found = pool.submit(lambda: list(counting.reader.read_all([thorax(0), thorax(1)], cancelled=cancelled)))
        _until(lambda: counting.reader._computing.waiting == 1)
        cancelled.set()
    assert found.result(PATIENCE) == []
    assert counting.passes == 0


def test_of_a_long_series_hardly_any_slice_is_held(counting: Counting) -> None:
    made: list[weakref.ref[np.ndarray]] = []

    def slices() -> Iterator[Slice]:
        for number in range(40):
            scan = thorax(number)
            made.append(weakref.ref(scan.pixels.base))
            yield scan

    most = 0
    for _ in counting.reader.read_all(slices()):
        gc.collect(0)
        most = max(most, sum(pixels() is not None for pixels in made))
    assert len(made) == 40
    # The one handed out, the one that this loop had before, the one made ready and the one being made.
    assert most <= 4


def test_the_pace_says_how_long_the_rest_will_take() -> None:
    now = 100.0
    pace = Pace(lambda: now)
    assert pace.seconds_left(10) is None
    for _ in range(4):
        now += 2.0
        pace.step()
    now += 50.0  # while nothing was asked
    assert pace.seconds_left(10) == 20.0
    assert pace.seconds_left(0) == 0.0
    assert [left_words(value) for value in (None, 3.0, 41.0, 61.0, 150.0)] == [
        "", "", ", about 40 s left", ", about 60 s left", ", about 2 min left",
    ]  # fmt: skip


def _until(true: object) -> None:
    end = time.monotonic() + PATIENCE
    while not true():  # type: ignore[operator]
        assert time.monotonic() < end, "it did not come to that"
        time.sleep(0.001)


class Queue:
    """Threads that want a turn, begun one after the other; who had one, in that order."""

    def __init__(self) -> None:
        self.turns = Turns()
        self.served: list[str] = []
        self.threads: list[threading.Thread] = []

    def ask(self, name: str, *, urgent: bool = False) -> None:
        before = self.turns.waiting

        def run() -> None:
            with self.turns.turn(urgent=urgent):
                self.served.append(name)

        self.threads.append(threading.Thread(target=run))
        self.threads[-1].start()
        _until(lambda: self.turns.waiting == before + 1)

    def finish(self) -> list[str]:
        for thread in self.threads:
            thread.join(PATIENCE)
        assert not any(thread.is_alive() for thread in self.threads)
        return self.served


def test_turns_go_round_and_a_single_slice_comes_first() -> None:
    queue = Queue()
    with queue.turns.turn():
        with queue.turns.turn():  # who has the turn need not wait for it
            queue.ask("series of a")
        queue.ask("series of b")
        queue.ask("slice of c", urgent=True)
        queue.ask("series of d")
        queue.ask("slice of e", urgent=True)
    assert queue.finish() == ["slice of c", "slice of e", "series of a", "series of b", "series of d"]
    assert queue.turns.waiting == 0


def test_a_series_never_starves() -> None:
    queue = Queue()
    with queue.turns.turn():
        queue.ask("series")
        for number in range(2 * URGENT_IN_A_ROW):
            queue.ask(f"slice {number}", urgent=True)
    assert queue.finish().index("series") == URGENT_IN_A_ROW


class Stopped(BaseException):
    """As Ctrl+C raises."""


class StoppedTicket:
    """Of a thread that is stopped while it waits."""

    def __init__(self) -> None:
        self.called = self

    def wait(self) -> None:
        raise Stopped


def test_a_reader_who_waits_and_is_stopped_holds_nobody_up(monkeypatch: pytest.MonkeyPatch) -> None:
    turns = Turns()

    def stopped() -> None:
        with turns.turn():
            pass

    with turns.turn(), ThreadPoolExecutor(1) as pool:
        pool.submit(lambda: None).result(PATIENCE)
        monkeypatch.setattr(nn_turns, "_Ticket", StoppedTicket)
        with pytest.raises(Stopped):
            pool.submit(stopped).result(PATIENCE)
        assert turns.waiting == 0
    with turns.turn():
        pass


def test_eight_readers_take_turns_and_get_their_own_answers(counting: Counting) -> None:
    reader, slices = counting.reader, [[thorax(100 * who + number) for number in range(4)] for who in range(READERS)]
    alone = [[reader.read(scan) for scan in own] for own in slices]
    counting.most_at_once = 0
    order: list[int] = []
    start = threading.Barrier(READERS + 1)

    def read(who: int) -> list[Reading]:
        start.wait(PATIENCE)
        found = []
        for reading in reader.read_all(slices[who]):
            order.append(who)
            found.append(reading)
        return found

    with ThreadPoolExecutor(READERS) as pool:
        results = [pool.submit(read, who) for who in range(READERS)]
        with reader.turn():
            start.wait(PATIENCE)
            _until(lambda: reader._computing.waiting == READERS)
        found = [result.result(PATIENCE) for result in results]
    assert counting.most_at_once == 1
    assert all(
        same(one, other) for own, others in zip(found, alone, strict=True) for one, other in zip(own, others, strict=True)
    )
    # Nobody is two slices ahead of anybody, but for what a thread did between its turn and this list.
    for end in range(READERS, len(order)):
        counts = [order[:end].count(who) for who in range(READERS)]
        assert max(counts) - min(counts) <= 2


def test_a_pass_has_all_threads_and_what_is_small_has_one(model: Model) -> None:
    before, of_passes, beside = torch.get_num_threads(), list[int](), list[int]()
    handle = model.network.get_submodule("layer4").register_forward_hook(lambda *_: of_passes.append(torch.get_num_threads()))
    torch.set_num_threads(3)
    try:
        runtime = on_torch(model)

        def features(images: torch.Tensor) -> torch.Tensor:
            beside.append(torch.get_num_threads())
            return runtime.features(images)

        reader = Reader(model, replace(runtime, features=features))
        reader.read(thorax(0))
        assert (of_passes, beside, torch.get_num_threads()) == ([3], [1], 3)
        torch.set_num_threads(2)
        with reader.turn():  # for what computes with torch's own network
            assert torch.get_num_threads() == 3
        assert torch.get_num_threads() == 2
    finally:
        handle.remove()
        torch.set_num_threads(before)


def test_a_single_slice_does_not_wait_for_seven_series(counting: Counting) -> None:
    reader = counting.reader
    stop = threading.Event()
    done = 0

    def series_without_end() -> Iterator[Slice]:
        while not stop.is_set():
            yield thorax(done)

    def read() -> None:
        nonlocal done
        for _ in reader.read_all(series_without_end(), cancelled=stop):
            done += 1

    threads = [threading.Thread(target=read) for _ in range(READERS - 1)]
    for thread in threads:
        thread.start()
    try:
        _until(lambda: done > READERS)
        waited = []
        for number in range(5):
            before = counting.passes
            reader.read(thorax(number), urgent=True)
            waited.append(counting.passes - before)
    finally:
        stop.set()
        for thread in threads:
            thread.join(PATIENCE)
    # Its own, the one under way, and those that were computed while it was made ready.
    assert np.median(waited) <= 4


def taken(reading: SeriesReading, count: int) -> list[tuple[int, Reading]]:
    found: list[tuple[int, Reading]] = []
    while len(found) < count and not reading.ended:
        found += reading.take(PATIENCE)
    return found


def test_a_series_in_the_background_comes_in_order_and_says_how_long(counting: Counting) -> None:
    slices = {number: thorax(number) for number in (7, 3, 5)}
    reading = SeriesReading(counting.reader, slices)
    found = taken(reading, 3)
    assert [number for number, _ in found] == [3, 5, 7]
    assert all(one.scan is slices[number] for number, one in found)
    _until(lambda: reading.ended)
    assert reading.seconds_left == 0
    assert reading.take(PATIENCE) == []


def test_a_series_in_the_background_leaves_out_what_was_read_otherwise(counting: Counting) -> None:
    with counting.reader.turn():
        reading = SeriesReading(counting.reader, {number: thorax(number) for number in range(4)})
        assert reading.seconds_left is None
        reading.leave_out(0)
        reading.leave_out(3)
    assert [number for number, _ in taken(reading, 4)] == [1, 2]
    assert counting.passes <= 3  # the first one may have been ready


def test_a_series_in_the_background_is_cancelled_at_once(counting: Counting) -> None:
    reading = SeriesReading(counting.reader, {number: thorax(number) for number in range(500)})
    assert taken(reading, 2)
    reading.cancel()
    passes = counting.passes
    _until(lambda: not reading.take() and reading.ended)
    assert counting.passes <= passes + 1


def test_a_series_that_nobody_looks_at_ends(counting: Counting, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(series, "ALONE_SECONDS", 0.0)
    reading = SeriesReading(counting.reader, {number: thorax(number) for number in range(500)})
    _until(lambda: reading._over)
    assert counting.passes == 1
    assert [number for number, _ in reading.take()] == [0]
    assert reading.ended


def test_an_error_in_the_background_is_raised_where_the_series_is_looked_at(counting: Counting) -> None:
    class Broken(Exception):
        pass

    def broken(_: object) -> torch.Tensor:
        raise Broken

    reading = SeriesReading(Reader(counting.reader.model, Runtime("broken", broken)), {0: thorax(0)})
    with pytest.raises(Broken):
        taken(reading, 1)
    assert reading.ended


def _breaks_at_third(body: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[torch.Tensor], torch.Tensor]:
    passes = iter(range(10))

    def features(images: torch.Tensor) -> torch.Tensor:
        if next(passes) == 2:
            raise RuntimeError("the third pass")
        return body(images)

    return features


def test_what_was_read_before_an_error_is_not_lost(counting: Counting) -> None:
    reader = Reader(counting.reader.model, Runtime("broken", _breaks_at_third(counting)))
    reading = SeriesReading(reader, {number: thorax(number) for number in range(4)})
    _until(lambda: reading._over)
    assert [number for number, _ in reading.take()] == [0, 1]
    assert not reading.ended
    with pytest.raises(RuntimeError, match="third pass"):
        reading.take()
    assert reading.ended


def test_nobody_is_told_of_an_error_in_what_was_cancelled(counting: Counting) -> None:
    asked, go_on = threading.Event(), threading.Event()

    def broken(_: object) -> torch.Tensor:
        asked.set()
        go_on.wait(PATIENCE)
        raise RuntimeError("too late")

    reading = SeriesReading(Reader(counting.reader.model, Runtime("broken", broken)), {0: thorax(0)})
    assert asked.wait(PATIENCE)
    reading.cancel()
    go_on.set()
    _until(lambda: reading.ended)
    assert reading.take() == []


@pytest.mark.slow
def test_a_series_says_what_the_slow_path_says() -> None:
    """Torch, slice after slice, and the package's own Grad-CAM on the whole network, class by class."""
    torchvision_door.load()
    from pytorch_grad_cam import GradCAM
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    slices = [one.slices[0] for one in take_in_paths([sample.path for sample in list_samples()[1:2]]).series]
    fast = list(Reader.open().read_all(slices))
    slow = Reader(load(DEFAULT_MODEL))
    network = load(DEFAULT_MODEL).network
    for parameter in network.parameters():
        parameter.requires_grad_(True)
    for reading in fast:
        prepared = slow.prepare(reading.scan)
        assert prepared.image is not None
        assert reading.prediction.margin == pytest.approx(slow.see(prepared).margin, abs=1e-3)
        pixels = to_tensor(prepared.image[None], slow.card)
        peak = max(explanation.peak for explanation in reading.explanations.values())
        for index, target in enumerate(TARGETS):
            cells = reading.explanations[target].cells
            with GradCAM(model=network, target_layers=[network.get_submodule("layer4")]) as cam:
                # Before the package scales it to [0, 1]: magnitudes are compared, too.
                scores = cam.activations_and_grads(pixels)
                ClassifierOutputTarget(index)(scores[0]).backward()
                found = cam.get_cam_image(
                    pixels, network.get_submodule("layer4"), [ClassifierOutputTarget(index)],
                    cam.activations_and_grads.activations[0].numpy(), cam.activations_and_grads.gradients[0].numpy(), False,
                )[0]  # fmt: skip
            assert np.abs(np.maximum(found, 0) * cells.size - cells).max() <= 1e-3 * peak

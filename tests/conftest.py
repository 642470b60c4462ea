"""Fixtures that several tests share."""

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import streamlit as st
import torch
from torch import nn

from ipfvision.core.findings import TARGETS, ModelCard
from ipfvision.core.window import LUNG
from ipfvision.nn.network import Model, body, build, card_path, card_to_json, load, save
from ipfvision.ui import session
from ipfvision.workflow.reading import Reader
from tests import postgresql as postgresql_server

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="session", autouse=True)
def cache_folder(request: pytest.FixtureRequest) -> Iterator[Path]:
    """Where checks of models are kept between runs: pytest's own cache, not the user's."""
    with pytest.MonkeyPatch.context() as patch:
        folder = request.config.cache.mkdir("models")
        patch.setenv("IPFVISION_CACHE", str(folder))
        yield folder


@pytest.fixture(autouse=True)
def main_module() -> Iterator[None]:
    """Streamlit leaves the last page that it tested as `__main__`, which every process started after it would run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "__main__", sys.modules["__main__"])
        yield


@pytest.fixture(scope="session", autouse=True)
def reviews_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where reviews are kept if a test does not say: not in the user's data folder."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("reviews")
        patch.setenv("IPFVISION_REVIEWS", str(folder))
        patch.delenv("IPFVISION_DATABASE_URL", raising=False)
        yield folder


@pytest.fixture(scope="session")
def postgresql() -> Iterator[postgresql_server.Server]:
    """A real PostgreSQL server; with CI=true a missing one is a failure."""
    programs = postgresql_server.find_programs()
    if programs is None:
        if os.environ.get("CI") == "true":
            pytest.fail("no PostgreSQL: initdb and postgres must be installed")
        pytest.skip("needs PostgreSQL: initdb and postgres")
    server = postgresql_server.Server(programs)
    yield server
    server.close()


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database of each kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'reviews.sqlite'}"
    server: postgresql_server.Server = request.getfixturevalue("postgresql")
    return server.new_database()


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The real scans; never part of the repository."""
    folder = Path(os.environ.get("IPFVISION_DATA", ROOT.parent / "shared" / "data"))
    if not (folder / "manifest.csv").is_file():
        pytest.skip("needs the real scans in shared/data")
    return folder


def _with_two_signs(network: nn.Module) -> nn.Module:
    """Turn the last layer so that both classes' maps have positive and negative cells on an image of noise."""
    network.eval()
    with torch.no_grad():
        mean = body(network, torch.randn(1, 3, 96, 128)).mean(dim=(0, 2, 3))
        weight = network.get_submodule("fc").weight
        weight.copy_(torch.randn_like(weight))
        weight -= torch.outer(weight @ mean, mean) / (mean @ mean)
    return network


class RandomModels:
    """Checkpoints with random weights, for tests of everything but the answer."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.weights = self._write(dilated_layer4=True)

    def _write(self, *, dilated_layer4: bool) -> Path:
        torch.manual_seed(0)
        padding_mode = "replicate"
        weights = self._folder / f"random_{dilated_layer4}.safetensors"
        sha256 = save(_with_two_signs(build(dilated_layer4, padding_mode)), weights)
        card = ModelCard(
            name="random",
            sha256=sha256,
            status="test",
            labels=TARGETS,
            window=LUNG,
            input_shape=(96, 128),
            mean=0.2333,
            standard_deviation=0.8,
            crop_margin=0.1,
            dilated_layer4=dilated_layer4,
            padding_mode=padding_mode,
            temperature=1.0,
            operating_point=0.5,
            uncertain_band=(0.4, 0.6),
            map_reference=5.0,
        )
        card_path(weights).write_text(json.dumps(card_to_json(card)))
        return weights

    def __call__(self, *, dilated_layer4: bool = True) -> Model:
        """A fresh copy, so that a test may change it."""
        return load(self.weights if dilated_layer4 else self._write(dilated_layer4=False))


@pytest.fixture(scope="session")
def random_model(tmp_path_factory: pytest.TempPathFactory) -> RandomModels:
    """Call it for a loaded model; `.weights` is its file."""
    return RandomModels(tmp_path_factory.mktemp("models"))


@pytest.fixture
def reader(random_model: RandomModels, monkeypatch: pytest.MonkeyPatch) -> Iterator[Reader]:
    """The random model in place of the shipped one, and none of it left in Streamlit's cache."""
    opened = Reader.open(random_model.weights)
    monkeypatch.setattr(Reader, "open", lambda *_: opened)
    session.loading.clear()
    yield opened
    st.cache_resource.clear()

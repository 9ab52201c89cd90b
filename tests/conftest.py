"""Tiny image folders, and a cache of its own for each test."""

import copy
import gc
import logging
import os
import shutil
import signal
import zlib
from collections.abc import Generator, Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

if TYPE_CHECKING:  # the process that hands out the tests reads this file too, and needs no torch for it
    from imgbench.run import Run

# Tiny tensors gain nothing from threads, which on a busy machine wait for each other; so do the commands' own.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["LANGUAGE"] = "en"  # of reports, whoever runs the tests

# Ctrl-C is ignored by a shell's background jobs and all that they start; tests interrupt commands nevertheless.
signal.signal(signal.SIGINT, signal.default_int_handler)

COLORS = [(200, 60, 60), (60, 200, 60), (60, 60, 200), (200, 200, 60), (60, 200, 200), (200, 60, 200)]
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
REAL_DATA = Path(__file__).parents[2] / "shared" / "data"  # photographs that lie beside the repository, or do not


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The slow ones come first, so that at the end no core waits for one of them."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """What all tests import stays: the garbage collector need not look through its million objects, then or later."""
    gc.disable()
    result = yield
    gc.freeze()
    gc.enable()
    # Around each part of each test pytest adds its handlers to each logger that does not propagate: sixty of PyTorch's.
    for logger in logging.root.manager.loggerDict.values():
        if isinstance(logger, logging.Logger) and logger.name.partition(".")[0] == "torch":
            logger.propagate = True
    return result


@pytest.fixture(autouse=True)
def cache_home(tmp_path_factory, monkeypatch):
    """The image cache of this test: never the user's."""
    home = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("IMGBENCH_CACHE", str(home))
    return home


@pytest.fixture(scope="session")
def make_folder():
    """Writes `root/<class>/<number><ending>`: noise around a colour of the class; no two images are the same."""

    def make(root: Path, counts: dict[str, int], size: int | tuple[int, int] = 24, ending: str = ".png") -> Path:
        width, height = (size, size) if isinstance(size, int) else size
        for index, (name, count) in enumerate(counts.items()):
            (root / name).mkdir(parents=True, exist_ok=True)
            for number in range(count):
                rng = np.random.default_rng(zlib.crc32(f"{root.name}/{name}/{number}".encode()))
                noise = rng.integers(-40, 40, (height, width, 3))
                pixels = np.clip(np.array(COLORS[index % len(COLORS)]) + noise, 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(root / name / f"{number}{ending}")
        return root

    return make


@pytest.fixture(scope="module")
def browser():
    """Chromium, driven by playwright."""
    if CHROMIUM is None:
        pytest.skip("no Chromium to look at the page with; on Debian: apt install chromium")
    api = pytest.importorskip(
        "playwright.sync_api", reason='no playwright to drive it with: pip install "imgbench[dev]"'
    )
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def make_data():
    """A data module of 16-pixel images without augmentation; keyword arguments are the data module's."""
    from imgbench.data.augment import Augment
    from imgbench.data.datamodule import ImageFolderDataModule

    def make(root: Path, **options) -> ImageFolderDataModule:
        return ImageFolderDataModule(str(root), **{"augment": Augment(), "image_size": 16, "batch_size": 4, **options})

    return make


@pytest.fixture
def real_photos() -> list[Path]:
    """A few real photographs."""
    photos = sorted(REAL_DATA.glob("[!.]*/*/*.[jJ][pP]*g"))[::200][:5] if REAL_DATA.is_dir() else []
    if not photos:
        pytest.skip(f"no photographs in {REAL_DATA}")
    return photos


@pytest.fixture(scope="session")
def train_run():
    """Trains the small CNN on the images of `root` for an epoch, as the command does; words are further overrides."""
    from imgbench.experiment.compose import compose
    from imgbench.run import Run
    from imgbench.train import train

    @cache
    def composed(words: tuple[str, ...]) -> Any:
        """Most runs are composed of the same words, and Hydra takes a fifth of a second each time."""
        return compose(words)

    def run(root: Path, folder: Path, *words: str, conclude: Any = None) -> Run:
        small = ["data=folder", "model=cnn", "data.image_size=20", "data.batch_size=4", "trainer.max_epochs=1"]
        small += ["augment=none", "optimizer=adam", "scheduler=constant"]
        config = copy.deepcopy(composed((*small, *words)))
        config.data.root = str(root)
        result = Run(folder)
        train(config, result, conclude)
        return result

    return run


def unconcluded(run: "Run", data: object) -> None:
    """In the place of what concludes a run: the test images are not looked at."""


@pytest.fixture(scope="session")
def fit_run(train_run):
    """As `train_run`, in a third of the time: nothing is audited before, and nothing evaluated or drawn after it."""

    def run(root: Path, folder: Path, *words: str) -> "Run":
        return train_run(root, folder, "data.audit=false", "data.thumbnails=false", *words, conclude=unconcluded)

    return run


@pytest.fixture(scope="session")
def run_of(tmp_path_factory, make_folder, train_run):
    """Trains on generated images of each class: the run lies beside its `photos` and a cache of its own."""

    def train(name: str, sizes: Mapping[str, int], *words: str) -> "Run":
        home = tmp_path_factory.mktemp(name)
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("IMGBENCH_CACHE", str(home / "cache"))
            return train_run(make_folder(home / "photos", sizes), home / "run", *words)

    return train


@pytest.fixture(scope="session")
def tiny_run(run_of) -> "Run":
    """A finished run on 32 generated images of the classes `cat` and `dog`."""
    return run_of("tiny", {"cat": 16, "dog": 16})


@pytest.fixture(scope="session")
def larger_run(run_of) -> "Run":
    """As `tiny_run` on 60 images, as many as an 8-bit file takes to be calibrated; a test that changes it copies it."""
    return run_of("larger", {"a": 30, "b": 30}, "trainer.max_epochs=2", "data.batch_size=8")


@pytest.fixture
def home(original, tmp_path, monkeypatch) -> Path:
    """A copy of the folder `original` of a test file, in which a run lies beside its photographs and its cache."""
    folder = Path(shutil.copytree(original, tmp_path / "home"))
    monkeypatch.setenv("IMGBENCH_CACHE", str(folder / "cache"))
    config = folder / "run" / "config.yaml"
    config.write_text(config.read_text().replace(str(original / "photos"), str(folder / "photos")))
    return folder

"""How often `drift` raises a false alarm, and after how many photographs it notices a change."""

import io
import logging
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from omegaconf import DictConfig
from PIL import Image, ImageEnhance, ImageFilter

from imgbench.data.collection import Collection
from imgbench.decode import open_image
from imgbench.evaluation.martingale import ALARM, Bettors, Comparison, levels, shares_of
from imgbench.experiment.compose import with_model
from imgbench.inference.acceptance import Calibration
from imgbench.inference.labelled import images_of_run
from imgbench.inference.predictor import Predictor
from imgbench.progress import shown
from imgbench.run import Run
from imgbench.train import train

log = logging.getLogger(__name__)

STREAMS, LENGTH = 1000, 1000  # of photographs like those of validation
REPEATED = 100  # streams with a change
BEFORE = 50  # photographs that come before it
MORE = 3  # times as often as before: the commonest class, where the mix of classes changes


def darker(image: Image.Image) -> Image.Image:
    return ImageEnhance.Brightness(image).enhance(0.6)


def warmer(image: Image.Image) -> Image.Image:
    gains = np.array([1.15, 1.0, 0.8])
    return Image.fromarray((np.asarray(image) * gains).clip(0, 255).astype(np.uint8))


def blurred(image: Image.Image) -> Image.Image:
    return image.filter(ImageFilter.GaussianBlur(0.01 * min(image.size)))


def jpeg(image: Image.Image) -> Image.Image:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=20)
    return Image.open(file).convert("RGB")


def other_camera(image: Image.Image) -> Image.Image:
    """Simulated: a steeper curve of tones, paler colours, sharpened, with noise."""
    paler = ImageEnhance.Color(ImageEnhance.Contrast(image).enhance(1.3)).enhance(0.7)
    image = ImageEnhance.Sharpness(paler).enhance(2)
    noise = np.random.default_rng(0).normal(0, 6, (image.height, image.width, 1))
    return Image.fromarray((np.asarray(image) + noise).clip(0, 255).astype(np.uint8))


CHANGES: dict[str, Callable[[Image.Image], Image.Image]] = {
    "darker: 0.6 of the values": darker,
    "warmer light: red 1.15, blue 0.8": warmer,
    "blur of 1 % of the side": blurred,
    "JPEG of quality 20": jpeg,
    "another camera, simulated": other_camera,
}


class Scores(NamedTuple):
    """Of N photographs."""

    novelty: np.ndarray
    predicted: np.ndarray

    def take(self, rows: np.ndarray) -> "Scores":
        return Scores(self.novelty[rows], self.predicted[rows])

    def then(self, others: "Scores") -> "Scores":
        return Scores(*(np.concatenate(pair) for pair in zip(self, others, strict=True)))


def alarms(calibrations: Sequence[Scores], streams: Sequence[Scores], shares: np.ndarray) -> np.ndarray:
    """(N,) the number of the photograph, from 0, at which each of N streams of one length raises the alarm, or -1.

    Args:
        shares: of the classes among the training images.
    """
    compared = [Comparison(own.novelty, own.predicted, len(shares), seed) for seed, own in enumerate(calibrations)]
    classes, number = len(compared[0].classes), len(streams)
    bettors, found = Bettors(number, shares, True), np.full(number, -1)
    for place in shown(range(len(streams[0].novelty)), len(streams[0].novelty), "Watching streams"):
        p = [
            one.p_values(float(stream.novelty[place]), int(stream.predicted[place]))
            for one, stream in zip(compared, streams, strict=True)
        ]
        raised = (levels(bettors.step(np.array(p)), classes) >= np.log10(ALARM)).any(1)
        found[raised & (found < 0)] = place
        if (found >= 0).all():
            break
    return found


def measure_drift(settings: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Of streams without a change, the share that raises the alarm; of each change, the median of the changed
    photographs until it is noticed (all there are, where it is not), and the share of streams that notice it.
    """
    own = {"image_size": None, "normalize": None}  # what the weights expect
    config = with_model(DictConfig({**settings, "data": {**settings["data"], **own}}), "pretrained")
    with tempfile.TemporaryDirectory() as folder:
        run = Run(Path(folder) / "run")
        train(config, run)
        return measured(run, settings["others"])


def measured(run: Run, others: str | None) -> dict[str, dict[str, Any]]:
    """As `measure_drift`, of a run; `others` is a folder of photographs of other things."""
    predictor = Predictor.load(run.path)
    calibration = Calibration.open(run.path, predictor.model, "drift")
    assert calibration.distances is not None
    k = len(predictor.class_names)

    def scores(images: Sequence[Image.Image]) -> Scores:
        values, errors = predictor.apply(calibration.function, k + 1, images)
        assert not errors
        return Scores(values[:, -1], values[:, :-1].argmax(1))

    data, _ = images_of_run(run, "test", predictor.model)
    photographs = [open_image(data.table.root / data.table.paths[row]) for row in data.rows("test")]
    targets = data.table.labels[data.rows("test")]
    shares = shares_of(np.bincount(data.table.labels[data.rows("train")], minlength=k))
    kept = Scores(calibration.distances, calibration.validation.predicted)
    tested = scores(photographs)
    rng = np.random.default_rng(0)
    n, m = len(kept.novelty), len(tested.novelty)
    log.info("%d validation images are compared with, %d test images make the streams", n, m)

    def drawn(number: int) -> Scores:
        return tested.take(rng.integers(0, m, number))

    rows: dict[str, dict[str, Any]] = {}
    false = alarms([drawn(n) for _ in range(STREAMS)], [drawn(LENGTH) for _ in range(STREAMS)], shares)
    rows["no change, drawn anew"] = {"value": float((false >= 0).mean()), "streams": STREAMS, "photographs": LENGTH}
    false = alarms([kept] * STREAMS, [tested.take(rng.permutation(m)) for _ in range(STREAMS)], shares)
    rows["no change, validation and test as they are"] = {
        "value": float((false >= 0).mean()),
        "streams": STREAMS,
        "photographs": m,
    }
    changed = {name: scores([change(image) for image in photographs]) for name, change in CHANGES.items()}
    after = m - BEFORE

    def noticed(name: str, streams: Sequence[Scores]) -> None:
        found = alarms([kept] * REPEATED, streams, shares)
        true = found[(found < 0) | (found >= BEFORE)]
        delays = np.where(true < 0, after, true - BEFORE + 1)
        rows[name] = {
            "value": float(np.median(delays)),
            "streams": len(true),
            "noticed": float((true >= 0).mean()),
            "within 90 %": float(np.quantile(delays, 0.9)),
            "photographs": after,
        }

    orders = [rng.permutation(m) for _ in range(REPEATED)]
    for name, own in changed.items():
        noticed(name, [tested.take(order[:BEFORE]).then(own.take(order[BEFORE:])) for order in orders])
    counts = np.bincount(targets)
    common, middling = counts.argmax(), np.argsort(counts, kind="stable")[len(counts) // 2]
    for name, one, times in (
        (f"the commonest class {MORE} times as often", common, MORE),
        (f"the commonest class a {MORE}rd as often", common, 1 / MORE),
        ("a class of middling size is gone", middling, 0),
    ):
        weights = np.where(targets == one, times, 1) / 1.0
        noticed(
            name,
            [
                tested.take(order[:BEFORE]).then(tested.take(rng.choice(m, after, p=weights / weights.sum())))
                for order in orders
            ],
        )
    if others is not None:
        files = list(Collection([others]))
        taken = [files[i] for i in rng.permutation(len(files))[:after]]
        foreign = scores([open_image(file.read_bytes()) for file in taken])
        orders_of = [rng.integers(0, len(taken), after) for _ in orders]
        noticed(
            "photographs of other things",
            [tested.take(a[:BEFORE]).then(foreign.take(b)) for a, b in zip(orders, orders_of, strict=True)],
        )
        mixed = [np.where(rng.random(after) < 0.2, 1, 0) for _ in orders]
        noticed(
            "other things, one in five",
            [
                tested.take(a[:BEFORE]).then(
                    Scores(*(np.where(c, f, t) for f, t in zip(foreign.take(b), tested.take(a[BEFORE:]), strict=True)))
                )
                for a, b, c in zip(orders, orders_of, mixed, strict=True)
            ],
        )
    return rows

"""What the audit's probes make of shortcuts that are planted among real images, and of none."""

import logging
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import OmegaConf
from PIL import Image, ImageEnhance, ImageOps

from imgbench.data.read import read_table
from imgbench.data.split import SplitPlan
from imgbench.decode import open_image
from imgbench.experiment.build import build_data
from imgbench.inspection.audit import UNSEEN, group_names
from imgbench.inspection.shortcuts import LARGEST, probe
from imgbench.preprocessing import Preprocessing

log = logging.getLogger(__name__)

QUALITY, LOW_QUALITY = 92, 40  # of JPEG


def _smaller(image: Image.Image) -> Image.Image:
    return image.resize((max(1, round(0.9 * image.width)), max(1, round(0.9 * image.height))))


def _framed(image: Image.Image) -> Image.Image:
    return ImageOps.expand(image.crop((1, 1, image.width - 1, image.height - 1)), 1, "black")


SHUFFLED, RECOMPRESSED = "labels at random", "one class recompressed"
# What is done to all images of the first class.
PLANTS: dict[str, Callable[[Image.Image], Image.Image]] = {
    "as they are": lambda image: image,
    SHUFFLED: lambda image: image,
    RECOMPRESSED: lambda image: image,
    "one class in a black frame of a pixel": _framed,
    "one class brighter by 20 %": lambda image: ImageEnhance.Brightness(image).enhance(1.2),
    "one class paler by 30 %": lambda image: ImageEnhance.Color(image).enhance(0.7),
    "one class smaller by 10 %": _smaller,
}


def measure_shortcuts(settings: dict[str, Any]) -> dict[str, dict[str, float]]:
    """For each plant, of the two largest classes: the share of the errors of always answering the larger one that the
    best probe avoids, how many probes warn, and the accuracy of the best.
    """
    table = build_data(OmegaConf.create(settings)).table
    rng = np.random.default_rng(0)
    rows = np.setdiff1d(np.arange(len(table.paths)), list(table.errors))
    largest = np.argsort(-np.bincount(table.labels[rows]), kind="stable")[:2]
    chosen = np.concatenate(
        [rng.permutation(rows[table.labels[rows] == label])[: settings["planted"]] for label in largest]
    )
    first = table.labels[chosen] == largest[0]
    # Copies stay on one side.
    names = {f"{row}.jpg": group for row, group in zip(chosen, np.array(group_names(table))[chosen], strict=True)}
    results = {}
    for plant, change in PLANTS.items():
        classes = rng.permutation(first) if plant == SHUFFLED else first
        with tempfile.TemporaryDirectory() as folder:
            for name in ("a", "b"):
                (Path(folder) / name).mkdir()
            for row, one in zip(chosen, classes, strict=True):
                image = open_image(table.root / table.paths[row], table.intensity)
                quality = LOW_QUALITY if one and plant == RECOMPRESSED else QUALITY
                place = Path(folder) / ("a" if one else "b") / f"{row}.jpg"
                (change(image) if one else image).save(place, "JPEG", quality=quality)
            size = settings["data"]["image_size"]
            planted = read_table(folder, Preprocessing(size), SplitPlan(), "memory")
            groups = [names[Path(path).name] for path in planted.paths]
            probes = [found for found in probe(planted, groups) if found.name not in (LARGEST, *UNSEEN)]
        best = max(probes, key=lambda found: found.skill)
        warned = [found.name for found in probes if found.warning]
        log.info("%s: %s; warned of: %s", plant, best.sentence, ", ".join(warned) or "nothing")
        results[plant] = {"value": best.skill, "accuracy": best.accuracy.value, "warnings": len(warned)}
    return results

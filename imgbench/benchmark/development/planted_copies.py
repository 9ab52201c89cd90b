"""How many of the copies that are planted among real images the audit finds, and what else it takes for copies."""

import io
import logging
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence, Set
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import OmegaConf
from PIL import Image, ImageDraw, ImageEnhance, ImageOps

from imgbench.data.read import read_table
from imgbench.data.split import SplitPlan
from imgbench.data.table import ImageTable
from imgbench.decode import open_image
from imgbench.experiment.build import build_data
from imgbench.inspection.duplicates import Pair, find_duplicates
from imgbench.inspection.file_facts import read_headers
from imgbench.inspection.thumbnails import make_thumbnails
from imgbench.preprocessing import Preprocessing

log = logging.getLogger(__name__)


def _recompressed(image: Image.Image) -> Image.Image:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=50)
    return Image.open(file).convert("RGB")


def _cropped(image: Image.Image) -> Image.Image:
    width, height = image.size
    return image.crop((round(0.05 * width), round(0.05 * height), round(0.95 * width), round(0.95 * height)))


def _captioned(image: Image.Image) -> Image.Image:
    width, height = image.size
    page = Image.new("RGB", (width, height + max(8, height // 10)), "white")
    page.paste(image, (0, 0))
    ImageDraw.Draw(page).text((2, height), "Figure 3: a photograph", fill="black")
    return page


FAULTS: dict[str, Callable[[Image.Image], Image.Image]] = {
    "exact, another format": lambda image: image,
    "JPEG, quality 50": _recompressed,
    "half the size": lambda image: image.resize((image.width // 2, image.height // 2), Image.Resampling.LANCZOS),
    "mirrored": ImageOps.mirror,
    "turned by 90 degrees": lambda image: image.transpose(Image.Transpose.ROTATE_90),
    "brighter by 20 %": lambda image: ImageEnhance.Brightness(image).enhance(1.2),
    "centre, 90 % of each side": _cropped,
    "black border of 5 %": lambda image: ImageOps.expand(image, max(1, round(0.05 * image.width)), "black"),
    "caption below": _captioned,
    "mirrored and JPEG, quality 50": lambda image: _recompressed(ImageOps.mirror(image)),
    "centre and brighter": lambda image: ImageEnhance.Brightness(_cropped(image)).enhance(1.2),
}


def measure_audit(settings: dict[str, Any]) -> dict[str, dict[str, float]]:
    """For each kind of copy: the share found, how many were planted, and the pairs with images of other origin.

    These are false unless the original has the same relative, in which case they do not count.
    """
    table = build_data(OmegaConf.create(settings)).table
    untouched = _pairs(table)
    thousand = len(table.paths) / 1000
    across = sum(table.labels[pair.first] != table.labels[pair.second] for pair in untouched)
    # Which of them are false is for the eye to tell: the audit draws them side by side.
    log.info(
        "Untouched: %d pairs, %.1f per 1,000 images, %d across classes.",
        len(untouched),
        len(untouched) / thousand,
        across,
    )
    related = set(_rows(untouched))
    with tempfile.TemporaryDirectory() as folder:
        plant(table, Path(folder), settings["planted"])
        size = settings["data"]["image_size"]
        mixed = read_table(folder, Preprocessing(size, intensity=table.intensity), SplitPlan(), "memory")
        start = time.perf_counter()
        pairs = _pairs(mixed)
        seconds = time.perf_counter() - start
    return {name: row | {"seconds": seconds} for name, row in score(mixed.paths, _rows(pairs), related).items()}


def score(
    paths: Sequence[str], pairs: Iterable[tuple[int, int]], related: Set[tuple[int, int]]
) -> dict[str, dict[str, float]]:
    """What pairs of files that `plant` has named, found by whatever tool, are worth.

    Copies of one image are copies of each other too, so that a copy is found with its original or with another copy.

    Args:
        pairs: positions in `paths`.
        related: rows of originals, the lower one first, whose copies may be taken for each other.
    """
    sources, kinds = zip(*(_origin(path) for path in paths), strict=True)
    found, others = {kind: set() for kind in range(len(FAULTS))}, [0] * len(FAULTS)
    for first, second in pairs:
        one, other = sorted((sources[first], sources[second]))
        for kind in {kinds[first], kinds[second]} - {None}:
            found[kind] |= {one} if one == other else set()
            others[kind] += one != other and (one, other) not in related
    rows = {}
    for kind, name in enumerate(FAULTS):
        planted = kinds.count(kind)
        rows[name] = {"value": len(found[kind]) / planted, "planted": planted, "pairs with others": others[kind]}
    return rows


def plant(table: ImageTable, folder: Path, number: int) -> None:
    """Links all images into class folders below `folder`, and adds up to `number` copies of each kind of FAULTS.

    The names say the row of the original and the number of the kind.
    """
    rng = np.random.default_rng(0)
    rows = np.setdiff1d(np.arange(len(table.paths)), list(table.errors))
    for label in range(len(table.class_names)):
        (folder / f"class{label}").mkdir()
    for row in rows:
        original = (table.root / table.paths[row]).resolve()
        (folder / f"class{table.labels[row]}" / f"{row}{original.suffix}").symlink_to(original)
    for kind, change in enumerate(FAULTS.values()):
        for row in rng.permutation(rows)[:number]:
            copy = change(open_image(table.root / table.paths[row]))
            copy.save(folder / f"class{table.labels[row]}" / f"{row}_{kind}.png", compress_level=1)


def _origin(path: str) -> tuple[int, int | None]:
    """The row of the original, and the kind of copy, of a file that `plant` has named."""
    row, _, kind = Path(path).stem.partition("_")
    return int(row), int(kind) if kind else None


def _rows(pairs: Iterable[Pair]) -> list[tuple[int, int]]:
    return [(pair.first, pair.second) for pair in pairs]


def _pairs(table: ImageTable) -> list[Pair]:
    """Those that are taken for copies."""
    return [pair for pair in find_duplicates(table, make_thumbnails(table), read_headers(table)) if pair.copies]

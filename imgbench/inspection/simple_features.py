"""Simple features of images, and what a linear classifier that never saw an image makes of them."""

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from PIL import Image

from imgbench.data.table import ImageTable
from imgbench.files import cores
from imgbench.preprocessing import Preprocessing

BLOCK = 256  # images in memory at a time
STREAMED = 64  # pixels of the squares that are decoded where the table keeps none
SMALL = 32  # pixels of the squares from which edges and thumbnails are taken
FOLDS = 5

Feature = Callable[[np.ndarray], np.ndarray]  # (B, S, S, 3) uint8 -> (B, D) float32


def compute(table: ImageTable, rows: np.ndarray, features: Sequence[Feature]) -> list[np.ndarray]:
    """(len(rows), D) float32 of each feature, read a block at a time."""
    blocks = [[feature(squares) for feature in features] for squares in _squares(table, rows)]
    return [np.concatenate(parts) for parts in zip(*blocks, strict=True)]


def _squares(table: ImageTable, rows: np.ndarray) -> Iterator[np.ndarray]:
    """(B, S, S, 3) uint8 of the rows, in their order."""
    starts = range(0, len(rows), BLOCK)
    if table.pixels is not None:
        for start in starts:
            yield np.asarray(table.pixels[rows[start : start + BLOCK]])
        return
    preprocessing = Preprocessing(STREAMED, intensity=table.intensity)
    with ThreadPoolExecutor(cores()) as pool:  # Pillow lets go of the interpreter lock while it decodes
        for start in starts:
            own = rows[start : start + BLOCK].tolist()
            yield np.stack(list(pool.map(lambda row: preprocessing.decode(table.read(row)), own)))


def colours(squares: np.ndarray) -> np.ndarray:
    """How much of an image has each of 64 colours (four levels of red, green and blue) and of 16 brightnesses.

    Square roots, so that a colour that is rare in all images counts too.
    """
    step = max(1, squares.shape[1] // 64)  # every third pixel tells as much as all
    pixels = squares[:, ::step, ::step].reshape(len(squares), -1, 3).astype(np.int64)
    red, green, blue = np.moveaxis(pixels // 64, -1, 0)
    codes = np.concatenate([red * 16 + green * 4 + blue, 64 + pixels.sum(-1) // 48], 1)
    codes += 80 * np.arange(len(squares))[:, None]
    counts = np.bincount(codes.ravel(), minlength=80 * len(squares)).reshape(-1, 80)
    return np.sqrt(counts / pixels.shape[1]).astype(np.float32)


def border_pixels(squares: np.ndarray) -> np.ndarray:
    """Red, green and blue of the four corners and of the middles of the four sides."""
    last, middle = squares.shape[1] - 1, squares.shape[1] // 2
    places = [(0, 0), (0, middle), (0, last), (middle, 0), (middle, last), (last, 0), (last, middle), (last, last)]
    return np.concatenate([squares[:, row, column] for row, column in places], 1).astype(np.float32)


def thumbnails(squares: np.ndarray) -> np.ndarray:
    """The image in 16 x 16 pixels."""
    half = SMALL // 2
    return _small(squares).reshape(-1, half, 2, half, 2, 3).mean((2, 4)).reshape(len(squares), -1)


def edges(squares: np.ndarray) -> np.ndarray:
    """Histograms of the directions of edges in 6 x 6 cells, with square roots.

    A plain form of the histogram of oriented gradients (Dalal and Triggs 2005, https://doi.org/10.1109/CVPR.2005.177).
    """
    brightness = _small(squares).mean(-1)
    across = brightness[:, 1:-1, 2:] - brightness[:, 1:-1, :-2]
    down = brightness[:, 2:, 1:-1] - brightness[:, :-2, 1:-1]
    strength = np.hypot(across, down)
    direction = np.minimum(np.arctan2(down, across) % np.pi / np.pi * 8, 7).astype(np.int64)
    cell = np.arange(SMALL - 2) * 6 // (SMALL - 2)
    codes = (cell[:, None] * 6 + cell) * 8 + direction + 288 * np.arange(len(squares))[:, None, None]
    sums = np.bincount(codes.ravel(), strength.ravel(), 288 * len(squares)).reshape(-1, 288)
    return np.sqrt(sums / (sums.sum(1, keepdims=True) + 1e-6)).astype(np.float32)


def _small(squares: np.ndarray) -> np.ndarray:
    """(B, SMALL, SMALL, 3) float32 in 0 to 1."""
    if squares.shape[1] != SMALL:
        size = (SMALL, SMALL)
        small = (Image.fromarray(one).resize(size, Image.Resampling.BILINEAR) for one in squares)
        squares = np.stack([np.asarray(one) for one in small])
    return squares.astype(np.float32) / 255


def group_codes(groups: Sequence[str]) -> np.ndarray:
    """(N,) a number for each group; an image without a group is one of its own."""
    return np.unique([f"g{name}" if name else f"i{i}" for i, name in enumerate(groups)], return_inverse=True)[1]


def draw_groups(codes: np.ndarray, number: int, seed: int = 0) -> np.ndarray:
    """Positions of whole groups, drawn until there are `number` images or a few less; all, where there are no more."""
    if len(codes) <= number:
        return np.arange(len(codes))
    order = np.random.default_rng(seed).permutation(codes.max() + 1)
    taken = np.cumsum(np.bincount(codes)[order]) <= number
    taken[0] = True
    return np.flatnonzero(np.isin(codes, order[taken]))


def folds(labels: np.ndarray, codes: np.ndarray, num_classes: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Positions to learn from and to hold out, such that each image is held out once and groups stay together; none
    where too few classes have images that are independent of each other.

    Args:
        codes: (N,) the group of each image.
    """
    from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold  # takes a second to import

    pairs = np.unique(np.stack([labels, codes]), axis=1)
    number = min(FOLDS, int(np.sort(np.bincount(pairs[0], minlength=num_classes))[-2]))
    if number < 2:
        return
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The least populated class")  # its images then are never predicted rightly
        # Of images that are all independent, the first gives the same kind of folds a thousand times as fast.
        alone = len(np.unique(codes)) == len(codes)
        divide = (StratifiedKFold if alone else StratifiedGroupKFold)(number, shuffle=True, random_state=0)
        yield from list(divide.split(labels, labels, None if alone else codes))


def cross_validated(
    features: Mapping[str, np.ndarray], labels: np.ndarray, codes: np.ndarray, num_classes: int
) -> dict[str, np.ndarray] | None:
    """(N, num_classes) probabilities by logistic regression on each of the features, each image by a model that saw
    neither it nor another of its group; None where too few classes have images that are independent of each other.

    Args:
        codes: (N,) the group of each image.
    """
    # scikit-learn takes a second to import.
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from threadpoolctl import threadpool_limits

    probabilities = {name: np.zeros((len(labels), num_classes), np.float32) for name in features}
    # The problems are small: on a busy machine, threads that wait for each other take fifty times as long as one.
    with warnings.catch_warnings(), threadpool_limits(1):
        warnings.simplefilter("ignore", ConvergenceWarning)  # the last digits do not matter
        divisions = list(folds(labels, codes, num_classes))
        if not divisions:
            return None
        for train, held_out in divisions:
            known = np.unique(labels[train])
            for name, values in features.items():
                if len(known) == 1:
                    probabilities[name][held_out, known[0]] = 1
                    continue
                # The more features, the more each weight is held back.
                regression = LogisticRegression(C=10 / values.shape[1], max_iter=200, tol=1e-3)
                model = make_pipeline(StandardScaler(), regression)
                model.fit(values[train], labels[train])
                probabilities[name][np.ix_(held_out, known)] = model.predict_proba(values[held_out])
    return probabilities

"""Simple features of images, and what a linear classifier that never saw an image makes of them."""

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from PIL import Image

from imgbench.data.look import SIDE
from imgbench.data.table import ImageTable
from imgbench.files import cores
from imgbench.preprocessing import Preprocessing

BLOCK = 256  # images in memory at a time
SMALL = 32  # pixels of the squares from which edges and thumbnails are taken
FOLDS = 5

Feature = Callable[[np.ndarray], np.ndarray]  # (B, S, S, 3) -> (B, D) float32


def compute(table: ImageTable, rows: np.ndarray, features: Sequence[Feature]) -> list[np.ndarray]:
    """(len(rows), D) float32 of each feature, read a block at a time."""
    blocks = []
    for squares in _squares(table, rows):
        small = _small(squares) if {edges, thumbnails} & {*features} else squares
        blocks.append([feature(small if feature in (edges, thumbnails) else squares) for feature in features])
    return [np.concatenate(parts) for parts in zip(*blocks, strict=True)]


def _squares(table: ImageTable, rows: np.ndarray) -> Iterator[np.ndarray]:
    """(B, SIDE, SIDE, 3) uint8 of the rows, in their order: thumbnails, or decoded now if of over 8 bits."""
    decode, deep = Preprocessing(SIDE, intensity=table.intensity).decode, table.looks.facts["deep"]
    with ThreadPoolExecutor(cores()) as pool:  # Pillow lets go of the interpreter lock while it decodes
        for start in range(0, len(rows), BLOCK):
            own = rows[start : start + BLOCK]
            squares, late = table.looks.squares(own), np.flatnonzero(deep[own])
            for place, square in zip(late, pool.map(decode, map(table.read, own[late].tolist())), strict=True):
                squares[place] = square
            yield squares


def colours(squares: np.ndarray) -> np.ndarray:
    """How much of an image has each of 64 colours (four levels of red, green and blue) and of 16 brightnesses.

    Square roots, so that a colour that is rare in all images counts too.
    """
    step = max(1, squares.shape[1] // 64)  # every third pixel tells as much as all
    pixels = np.ascontiguousarray(squares[:, ::step, ::step]).reshape(len(squares), -1, 3)
    red, green, blue = np.moveaxis(pixels, -1, 0)
    colour = (red >> 6) << 4 | (green >> 6) << 2 | blue >> 6
    brightness = (red.astype(np.uint16) + green + blue) // 48
    first, number = 80 * np.arange(len(squares))[:, None], 80 * len(squares)
    counts = sum(np.bincount((first + codes).ravel(), minlength=number) for codes in (colour, 64 + brightness))
    return np.sqrt(np.reshape(counts, (-1, 80)) / pixels.shape[1]).astype(np.float32)


def border_pixels(squares: np.ndarray) -> np.ndarray:
    """Red, green and blue of the four corners and of the middles of the four sides."""
    last, middle = squares.shape[1] - 1, squares.shape[1] // 2
    places = [(0, 0), (0, middle), (0, last), (middle, 0), (middle, last), (last, 0), (last, middle), (last, last)]
    return np.concatenate([squares[:, row, column] for row, column in places], 1).astype(np.float32)


def thumbnails(small: np.ndarray) -> np.ndarray:
    """The image in 16 x 16 pixels, of what `_small` gives."""
    half = SMALL // 2
    return small.reshape(-1, half, 2, half, 2, 3).mean((2, 4)).reshape(len(small), -1)


def edges(small: np.ndarray) -> np.ndarray:
    """Histograms of the directions of edges in 6 x 6 cells, with square roots, of what `_small` gives.

    A plain form of the histogram of oriented gradients (Dalal and Triggs 2005, https://doi.org/10.1109/CVPR.2005.177).
    """
    brightness = small.mean(-1)
    across = brightness[:, 1:-1, 2:] - brightness[:, 1:-1, :-2]
    down = brightness[:, 2:, 1:-1] - brightness[:, :-2, 1:-1]
    strength = np.hypot(across, down)
    direction = np.minimum(np.arctan2(down, across) % np.pi / np.pi * 8, 7).astype(np.int64)
    cell = np.arange(SMALL - 2) * 6 // (SMALL - 2)
    codes = (cell[:, None] * 6 + cell) * 8 + direction + 288 * np.arange(len(small))[:, None, None]
    sums = np.bincount(codes.ravel(), strength.ravel(), 288 * len(small)).reshape(-1, 288)
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

    def learn(name: str, train: np.ndarray, held_out: np.ndarray) -> None:
        values, known = features[name], np.unique(labels[train])
        if len(known) == 1:
            probabilities[name][held_out, known[0]] = 1
            return
        # The more features, the more each weight is held back.
        regression = LogisticRegression(C=10 / values.shape[1], max_iter=200, tol=1e-3)
        model = make_pipeline(StandardScaler(), regression)
        model.fit(values[train], labels[train])
        probabilities[name][np.ix_(held_out, known)] = model.predict_proba(values[held_out])

    # The problems are small: one to a core is faster than several cores to one, which would wait for each other.
    with warnings.catch_warnings(), threadpool_limits(1), ThreadPoolExecutor(cores()) as pool:
        warnings.simplefilter("ignore", ConvergenceWarning)  # the last digits do not matter
        divisions = list(folds(labels, codes, num_classes))
        list(pool.map(lambda work: learn(*work), [(name, *division) for division in divisions for name in features]))
    return probabilities if divisions else None


def predicted_by_looks(
    table: ImageTable, rows: np.ndarray, labels: np.ndarray, codes: np.ndarray, num_classes: int
) -> np.ndarray | None:
    """(3, N, num_classes), as of `cross_validated`, by colours, by edges and by thumbnails of these rows."""
    names = ("colours", "edges", "thumbnails")
    found = compute(table, rows, (colours, edges, thumbnails))
    predicted = cross_validated(dict(zip(names, found, strict=True)), labels, codes, num_classes)
    return None if predicted is None else np.stack(list(predicted.values()))

"""How often the 95 % intervals hold the truth, in simulations in which the truth is known."""

import numpy as np

from imgbench.data.split import draw_folds
from imgbench.evaluation.metrics import classification_metrics
from imgbench.evaluation.prediction_sets import PredictionSets
from imgbench.evaluation.predictions import Predictions
from imgbench.progress import shown

MEASURED = ("acc", "balanced_acc", "macro_f1", "auroc", "ap", "brier", "recall/class 0", "f1/class 0")
# Images of each class, images in each group, and how alike those of a group are: 1 if they are copies.
DESIGNS = {
    "two classes": ([60, 60], 1, 0.0),
    "unequal classes": ([140, 40], 1, 0.0),
    "five classes": ([40] * 5, 1, 0.0),
    "groups of 4": ([160, 160], 4, 0.5),
    "copies in groups of 14": ([560, 560], 14, 0.9),
}
# Images and features of each; ten of the features tell two classes apart.
CROSS_VALIDATED = {"100 images": (100, 20), "100 images, many features": (100, 200), "400 images": (400, 50)}
FOLDS = 5
NEW = 4000  # images on which the truth is measured
MARGIN = 1.4  # of the right class's logit, in standard deviations: 84 % of two classes are told apart


def draw(rng: np.random.Generator, images: list[int], size: int, likeness: float) -> Predictions:
    """Predictions by normal logits; those of a group's images are alike."""
    k, targets = len(images), np.repeat(np.arange(len(images)), images)
    groups = np.concatenate([1000 * label + np.arange(n) // size for label, n in enumerate(images)])
    _, codes = np.unique(groups, return_inverse=True)
    shared = rng.normal(size=(codes.max() + 1, k))[codes]
    logits = np.sqrt(likeness) * shared + np.sqrt(1 - likeness) * rng.normal(size=(len(targets), k))
    logits[np.arange(len(targets)), targets] += MARGIN
    powers = np.exp(logits * MARGIN)
    probabilities = (powers / powers.sum(1, keepdims=True)).astype(np.float32)
    names = [str(code) if size > 1 else "" for code in codes]
    return Predictions([""] * len(targets), names, targets, probabilities, [f"class {i}" for i in range(k)])


def coverage(images: list[int], size: int, likeness: float, draws: int, seed: int = 1) -> dict[str, float]:
    """The share of so many draws in which each number's interval holds the truth."""
    truth = classification_metrics(draw(np.random.default_rng(0), [n * 200 for n in images], 1, 0), "test")
    rng = np.random.default_rng(seed)
    held = dict.fromkeys(MEASURED, 0)
    for _ in shown(range(draws), draws, "Drawing test images"):
        found = classification_metrics(draw(rng, images, size, likeness), "test")
        for name in MEASURED:
            number, true = found[f"test/{name}"], truth[f"test/{name}"].value
            held[name] += number.low <= true <= number.high
    return {name: count / draws for name, count in held.items()}


def cross_validated_coverage(images: int, features: int, draws: int, seed: int = 1) -> float:
    """The share of draws in which the interval by cross-validation holds the accuracy that all images lead to."""
    rng = np.random.default_rng(seed)

    def drawn(n: int) -> tuple[np.ndarray, np.ndarray]:
        targets = rng.integers(0, 2, n)
        values = rng.normal(size=(n, features))
        values[:, :10] += 0.35 * (2 * targets[:, None] - 1)
        return np.column_stack([values, np.ones(n)]), targets

    def scores(values: np.ndarray, targets: np.ndarray, new: np.ndarray) -> np.ndarray:
        squares = values.T @ values + 0.5 * features * np.eye(features + 1)  # ridge regression
        return new @ np.linalg.solve(squares, values.T @ (2.0 * targets - 1))

    held = 0
    for _ in shown(range(draws), draws, "Cross-validating"):
        values, targets = drawn(images)
        fold_of = draw_folds(targets, [""] * images, FOLDS, rng)
        answers = np.empty(images)
        for fold in range(FOLDS):
            own = fold_of == fold
            answers[own] = scores(values[~own], targets[~own], values[own])
        probabilities = np.column_stack([answers < 0, answers >= 0]).astype(np.float32)
        predictions = Predictions([""] * images, [""] * images, targets, probabilities, ["0", "1"], networks=FOLDS)
        found = classification_metrics(predictions, "test")["test/acc"]
        new, truth = drawn(NEW)
        held += int(found.low <= ((scores(values, targets, new) >= 0) == truth).mean() <= found.high)
    return held / draws


def set_coverage(images: list[int], size: int, likeness: float, draws: int, seed: int = 1) -> float:
    """How many new images of each class have it in their sets, made for 95 %: on average over classes and draws."""
    new = draw(np.random.default_rng(0), [NEW] * len(images), 1, 0)
    rng = np.random.default_rng(seed)
    held = []
    for _ in shown(range(draws), draws, "Drawing validation images"):
        sets = PredictionSets.of(draw(rng, images, size, likeness), 0.95)
        inside = sets.members(new.probabilities)[np.arange(len(new.targets)), new.targets]
        held.append(inside.mean())  # there are as many of each class
    return float(np.mean(held))


def measure_coverage(draws: int) -> dict[str, dict[str, float]]:
    """Of each number, the share in each design; `value` is their mean."""
    found = {design: coverage(*sizes, draws) for design, sizes in DESIGNS.items()}
    rows = {name: {design: shares[name] for design, shares in found.items()} for name in MEASURED}
    rows["acc by cross-validation"] = {
        design: cross_validated_coverage(*sizes, draws) for design, sizes in CROSS_VALIDATED.items()
    }
    rows["prediction sets"] = {design: set_coverage(*sizes, draws) for design, sizes in DESIGNS.items()}
    return {name: {"value": float(np.mean(list(row.values()))), **row} for name, row in rows.items()}

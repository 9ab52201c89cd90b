"""Whether more photographs would help: what the same training has reached with parts of the training images."""

import json

import numpy as np

from imgbench.errors import UserError
from imgbench.evaluation.predictions import Predictions
from imgbench.number import Number, group_codes, grouped_difference
from imgbench.run import LEARNING_CURVE, Run


def read_learning_curve(
    run: Run, test: Predictions, images: int, accuracy: Number
) -> tuple[list[tuple[int, Number]], Number | None]:
    """The points of the curve, the run itself last, and what it gained over the one before; ([], None): not measured.

    Raises:
        UserError: the file is damaged.
    """
    file = run.path / LEARNING_CURVE
    if not file.is_file():
        return [], None
    try:
        points = json.loads(file.read_text("utf-8"))["points"]
        found = [(int(point["images"]), Number.from_dict(point["test/acc"])) for point in points]
        wrong = set(points[-1]["wrong"]) if points else set()
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise UserError(f"{file} is damaged: {error}. Delete it.") from error
    if not found:
        return [], None
    before = np.array([path not in wrong for path in test.paths])
    gain = grouped_difference(test.predicted == test.targets, before, group_codes(test.groups))
    return [*found, (images, accuracy)], gain

"""A comparison as one self-contained page, with the photographs on which configurations differ."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup
from matplotlib.figure import Figure
from PIL import Image as Pillow

from imgbench.data.look import digest
from imgbench.data.shard_index import photographs
from imgbench.decode import open_image
from imgbench.errors import UserError
from imgbench.evaluation.photographs import SIDE
from imgbench.evaluation.plots import as_svg
from imgbench.number import Number
from imgbench.report.catalogue import Texts
from imgbench.report.page import templates_of
from imgbench.stored_config import switched_on
from imgbench.sweep.comparison import Comparison
from imgbench.sweep.configurations import Configuration, Image
from imgbench.sweep.differences import Difference, Disagreement, disagreements

SHOWN = 12  # photographs that one has right and the other wrong
PAIRS = 5  # of the best with another, whose photographs are shown
ENLARGED = 1.75  # a figure of one column, for a screen
NAMES = {"acc": "compare_acc", "balanced_acc": "compare_balanced_acc", "macro_f1": "compare_macro_f1",
         "auroc": "compare_auroc"}  # fmt: skip


def comparison_page(comparison: Comparison, figures: Sequence[Figure], language: str) -> str:
    """The page as HTML.

    Args:
        figures: accuracy against size, and against latency; none where nothing is known of costs.
    """
    t, (best, *others) = Texts(language), comparison.configurations
    shown = others[:PAIRS]
    titles = (t("compare_megabytes"), t("compare_latency"))
    return templates_of("imgbench.sweep").get_template("comparison.html.jinja").render(
        comparison=comparison,
        t=t,
        answer=list(_answer(comparison, t)),
        notes=comparison.notes_in(t),
        metrics=NAMES,
        differences=[(one, _ends(one.number, "+"), _found(one)) for one in comparison.differences],
        ends=_ends,
        pairs=[_pair(best, other, place, t) for place, other in enumerate(shown, 2)],
        further=len(others) - len(shown),
        figures=[Markup(as_svg(figure, title, ENLARGED)) for figure, title in zip(figures, titles, strict=False)],
    )  # fmt: skip


def _ends(number: Number, form: str = "") -> tuple[str, str, str]:
    """Value, low and high as they are written: in per cent without its sign, or of 1."""
    scale, digits = (100, 1) if number.percent else (1, 3)
    value, low, high = (f"{scale * each:{form}.{digits}f}" for each in (number.value, number.low, number.high))
    return value, low, high


def _answer(comparison: Comparison, t: Texts) -> Iterator[str]:
    best, *others = comparison.configurations
    number = best.metrics[comparison.metric]
    value, low, high = (f"{each} %" if number.percent else each for each in _ends(number))
    metric = t(NAMES[comparison.metric])
    if not others:
        yield t("compare_only")
        return
    yield t("compare_best", name=best.name, metric=metric, value=value, low=low, high=high)
    found: dict[bool, list[str]] = {True: [], False: []}
    for other in others:
        if difference := comparison.against_best(other):
            found[difference.distinguishable].append(f"“{other.name}”")
    for distinguishable, key in ((True, "compare_better"), (False, "compare_alike")):
        if names := found[distinguishable]:
            yield t(key, others=t("compare_and").join(filter(None, [", ".join(names[:-1]), names[-1]])))


def _found(difference: Difference) -> str:
    if not difference.distinguishable:
        return "compare_not_distinguishable"
    return "compare_higher" if difference.number.value > 0 else "compare_lower"


def _pair(best: Configuration, other: Configuration, place: int, t: Texts) -> dict[str, Any]:
    """What the page shows of the photographs on which the best and another configuration differ.

    Args:
        place: of the other one, by which it is called beside photographs; the best is 1.
    """
    found = disagreements(best, other)
    sides = []
    for right, wrong, ours in ((best, other, True), (other, best, False)):
        rows = [one for one in found if one.first_is_right == ours]
        if rows:
            sides.append((t("compare_right", n=len(rows), right=right.name, wrong=wrong.name), rows, rows[:SHOWN]))
    private = not all(switched_on(tested.run.config, "data.thumbnails") for tested in (*best.runs, *other.runs))
    listed = [one.image for _, _, rows in sides for one in rows[:SHOWN]]
    pictures = {} if private else thumbnails(best, listed)
    return {
        "names": ((1, best.name), (place, other.name)),
        "private": private,
        "gone": 0 if private else len(listed) - len(pictures),
        "sides": [
            (sentence, len(rows), [_card(one, place, pictures) for one in shown]) for sentence, rows, shown in sides
        ],
    }


def _card(one: Disagreement, place: int, pictures: Mapping[Image, np.ndarray]) -> dict[str, Any]:
    said = ((1, one.first), (place, one.second))
    answers = [(number, answer.predicted, answer.predicted == one.target) for number, answer in said]
    return {"path": one.image[0], "target": one.target, "answers": answers, "image": pictures.get(one.image)}


def thumbnails(configuration: Configuration, images: Sequence[Image]) -> dict[Image, np.ndarray]:
    """(H, W, 3) uint8 of those of the images that still lie where the runs found them, and are the same files."""
    found: dict[Image, np.ndarray] = {}
    for root in dict.fromkeys(tested.run.config["data"].get("root") for tested in configuration.runs):
        if not root:
            continue
        places: Mapping[str, Any] = {}
        with suppress(UserError, OSError):  # the shards are gone
            places = photographs(Path(root).expanduser(), [path for path, _ in images])
        for image in images:
            if image[0] not in places or image in found:
                continue
            with suppress(UserError, OSError, ValueError):  # it has been damaged since
                data = places[image[0]].read_bytes()
                if digest(data).hex() == image[1]:
                    picture = open_image(data)
                    picture.thumbnail((SIDE, SIDE), Pillow.Resampling.LANCZOS)
                    found[image] = np.asarray(picture)
    return found

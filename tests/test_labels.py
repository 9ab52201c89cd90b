import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from imgbench.data.look import Looks
from imgbench.data.shards import Folder
from imgbench.data.split import NO_SPLIT
from imgbench.data.table import ImageTable
from imgbench.evaluation.predictions import Predictions
from imgbench.inspection import labels as labels_module
from imgbench.inspection.labels import confident_learning, label_suspects, suspects_of_predictions


def striped_table(number: int, noise: float, seed: int = 0) -> ImageTable:
    """Stripes that lie, stand or slant, in `noise` grey levels of noise and any phase."""
    rng = np.random.default_rng(seed)
    labels = np.arange(number) % 3
    y, x = np.mgrid[:32, :32]
    along = np.stack([x, y, (x + y) * 0.7])[labels] / 2 + rng.uniform(0, 6, (number, 1, 1))
    pixels = 128 + 60 * np.sin(along)[..., None] + rng.normal(0, noise, (number, 32, 32, 3))
    paths = [f"{label}/{i}.png" for i, label in enumerate(labels)]
    table = ImageTable(
        Path("photos"), ["lying", "standing", "slanting"], paths, labels.astype(np.int32),
        np.full(number, NO_SPLIT, np.int8), np.zeros((number, 4), np.int64), Folder(Path("photos")),
        digests=np.zeros((number, 16), np.uint8), groups=[""] * number, splits=np.zeros(number, np.int8),
    )  # fmt: skip
    table.known = Looks.none_yet(table)
    for row, image in enumerate(np.clip(pixels, 0, 255).astype(np.uint8)):
        file = io.BytesIO()
        Image.fromarray(image).save(file, "BMP")
        table.known.look(row, file.getvalue())
    return table


def plant_errors(table: ImageTable, share: float) -> set[str]:
    """Gives a share of the images another label; returns their paths."""
    rng = np.random.default_rng(1)
    chosen = rng.choice(len(table.paths), round(share * len(table.paths)), replace=False)
    table.labels[chosen] = (table.labels[chosen] + rng.integers(1, 3, len(chosen))) % 3
    return {table.paths[row] for row in chosen}


def test_planted_errors_are_named_and_little_else():
    table = striped_table(450, 40)
    wrong = plant_errors(table, 0.05)
    review = label_suspects(table)
    found = {suspect.path for suspect in review}
    assert len(found & wrong) >= 0.75 * len(wrong)
    assert len(found - wrong) <= 0.1 * len(found)
    own = [suspect.label_probability for suspect in review]
    assert own == sorted(own)
    first = review.suspects[0]
    assert first.likelier == table.class_names[int(first.path[0])] != first.label
    assert f"labelled '{first.label}'" in first.sentence
    assert f"{len(found)} labels are suspect" in review.sentence


def test_right_labels_are_left_in_peace():
    review = label_suspects(striped_table(450, 40))
    assert review.conclusive and len(review) == 0
    assert review.sentence.startswith("No label is suspect")


def test_nothing_is_said_of_classes_that_simple_features_cannot_tell_apart():
    table = striped_table(300, 40)
    table.labels[:] = np.random.default_rng(0).permutation(table.labels)
    review = label_suspects(table)
    assert not review.conclusive and len(review) == 0
    assert "No label was judged" in review.sentence


def test_many_images_are_judged_in_parts(monkeypatch):
    monkeypatch.setattr(labels_module, "AT_ONCE", 200)
    table = striped_table(600, 40)
    wrong = plant_errors(table, 0.05)
    review = label_suspects(table)
    assert review.n == 600
    assert len({suspect.path for suspect in review} & wrong) >= 0.8 * len(wrong)


def test_the_test_images_are_not_touched():
    table = striped_table(450, 40)
    wrong = plant_errors(table, 0.05)
    table.splits[:90] = 2
    review = label_suspects(table)
    assert review.n == 360
    assert {suspect.path for suspect in review} <= wrong - set(table.paths[:90])


def test_copies_do_not_confirm_each_others_wrong_label():
    table = striped_table(450, 40)
    plant_errors(table, 0.05)
    thumbnails = table.looks.thumbnails
    copies = list(range(42, 48))  # of the first, a lying one, all labelled as standing
    thumbnails[copies], table.labels[copies] = thumbnails[42], 1
    names = {table.paths[row] for row in copies}
    groups = ["photograph" if path in names else "" for path in table.paths]
    assert names <= {suspect.path for suspect in label_suspects(table, groups)}
    assert not names & {suspect.path for suspect in label_suspects(table)}


def test_a_class_of_few_images_is_not_judged():
    table = striped_table(300, 40)
    keep = np.flatnonzero((table.labels != 2) | (np.arange(300) < 12))
    table.splits[np.setdiff1d(np.arange(300), keep)] = -1
    assert [suspect for suspect in label_suspects(table) if suspect.label == "slanting"] == []


def predictions(seed: int = 0, n: int = 600, k: int = 4, wrong: float = 0.05) -> tuple[Predictions, np.ndarray]:
    """Of a good model, and which labels are wrong."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, k, n)
    logits = rng.normal(0, 1, (n, k))
    logits[np.arange(n), truth] += 5
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    targets, changed = truth.copy(), rng.random(n) < wrong
    targets[changed] = (truth[changed] + rng.integers(1, k, changed.sum())) % k
    paths = [f"{i}.png" for i in range(n)]
    return Predictions(paths, [""] * n, targets, probabilities.astype(np.float32), list("abcd")[:k]), changed


def test_a_runs_own_predictions_name_wrong_labels():
    held_out, wrong = predictions()
    review = suspects_of_predictions(held_out)
    found = np.array([int(suspect.path.removesuffix(".png")) for suspect in review])
    assert wrong[found].mean() > 0.9 and len(found) > 0.7 * wrong.sum()


def test_one_image_or_one_class_is_no_error():
    held_out, _ = predictions(n=1)
    assert len(suspects_of_predictions(held_out)) == 0
    assert len(confident_learning(np.zeros(9, np.int64), np.tile([0.8, 0.2], (9, 1)))) == 0


@pytest.mark.parametrize("seed", range(3))
def test_cleanlab_finds_the_same(seed):
    cleanlab = pytest.importorskip("cleanlab.filter")
    held_out, _ = predictions(seed, wrong=0.1)
    arguments = held_out.targets, held_out.probabilities
    theirs = cleanlab.find_label_issues(
        *arguments, filter_by="both", return_indices_ranked_by="self_confidence", n_jobs=1
    )
    ours = confident_learning(*arguments)
    assert len(set(ours) & set(theirs)) >= 0.95 * max(len(ours), len(theirs)) > 0

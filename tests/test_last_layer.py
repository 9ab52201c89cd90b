"""The last layer that is solved for, and the run that it becomes."""

import json
import shutil

import numpy as np
import pytest
import timm
import torch
from conftest import unconcluded

import imgbench
from imgbench.errors import UserError
from imgbench.experiment.compose import override
from imgbench.experiment.last_layer import STRENGTHS, lowest, solve
from imgbench.run import Run
from imgbench.train import train

NAME = "mobilenetv3_small_050"


def draw(seed: int, n: int, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Features of which a few tell the class, on very different scales."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % classes
    features = rng.normal(size=(n, 20))
    features[:, :classes] += 3 * np.eye(classes)[labels]
    return (features * 10.0 ** rng.integers(-3, 4, 20) + 5).astype(np.float32), labels


@pytest.mark.parametrize("classes", [2, 3])
def test_solution_is_logistic_regression_on_standardised_features(classes):
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    features, labels = draw(0, 90, classes)
    weight, bias = solve(features, labels, np.arange(90), classes)
    found = (torch.from_numpy(features) @ weight.T + bias).softmax(1).numpy()
    reference = [
        make_pipeline(StandardScaler(), LogisticRegression(C=strength / 20, tol=1e-3)).fit(features, labels)
        for strength in STRENGTHS
    ]
    assert min(np.abs(found - model.predict_proba(features)).max() for model in reference) < 0.02
    assert (found.argmax(1) == labels).mean() > 0.95


def test_strength_is_chosen_with_groups_kept_together():
    # Twenty groups of copies, whose labels are chance: only who knows a copy tells a label.
    rng = np.random.default_rng(0)
    features = np.repeat(rng.normal(size=(20, 40)), 8, 0).astype(np.float32)
    labels, codes = np.repeat(rng.integers(0, 2, 20), 8), np.repeat(np.arange(20), 8)
    careful, _ = solve(features, labels, codes, 2)
    careless, _ = solve(features, labels, np.arange(160), 2)
    assert careful.norm() < careless.norm() / 3


def test_class_without_an_image_is_never_predicted():
    features, labels = draw(0, 60, 2)
    weight, bias = solve(features, labels, np.arange(60), 3)
    assert (torch.from_numpy(features) @ weight.T + bias).softmax(1)[:, 2].max() < 1e-6


def test_single_class_and_single_images_are_solved_for():
    features, _ = draw(0, 3, 2)
    for labels in (np.zeros(3, int), np.array([0, 1, 1])):
        weight, bias = solve(features, labels, np.arange(3), 2)
        assert ((torch.from_numpy(features) @ weight.T + bias).argmax(1).numpy() == labels).all()


def test_rare_class_weighs_more_where_asked_for():
    rng = np.random.default_rng(0)
    labels = np.r_[np.zeros(90, int), np.ones(10, int)]
    features = (rng.normal(size=(100, 4)) + labels[:, None]).astype(np.float32)  # the classes overlap
    numbers = []
    for importance in (None, [0.55, 5.0]):
        weight, bias = solve(features, labels, np.arange(100), 2, importance)
        numbers.append(int((torch.from_numpy(features) @ weight.T + bias).argmax(1).sum()))
    assert numbers[1] > numbers[0]


@pytest.mark.parametrize("best", range(7))
def test_lowest_of_a_valley_is_found_without_looking_everywhere(best):
    asked = []

    def height(x: float) -> float:
        asked.append(x)
        return abs(x - best)

    assert lowest(height, [float(i) for i in range(7)]) == best
    assert len(asked) == len(set(asked)) <= 7


@pytest.fixture(scope="module")
def solved(tmp_path_factory, make_folder, train_run) -> Run:
    """A finished run of a head on frozen features, whose file of weights is gone."""
    home = tmp_path_factory.mktemp("solved")
    torch.manual_seed(0)
    weights = home / "weights.pth"
    torch.save(timm.create_model(NAME).state_dict(), weights)
    words = ["model=pretrained", f"model.name={NAME}", f"model.weights={weights}", "data.image_size=32"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("IMGBENCH_CACHE", str(home / "cache"))
        run = train_run(make_folder(home / "photos", {"cat": 20, "dog": 20}), home / "run", *words)
    shutil.copy(weights, home / "kept.pth")
    weights.unlink()
    return run


def test_fine_tuning_starts_from_the_layer_solved_for_and_leaves_the_statistics_alone(
    solved, tmp_path, fit_run, monkeypatch
):
    home = solved.path.parent
    monkeypatch.setenv("IMGBENCH_CACHE", str(home / "cache"))
    words = ["model=finetuned", f"model.name={NAME}", f"model.weights={home / 'kept.pth'}", "data.image_size=32"]
    run = fit_run(home / "photos", tmp_path / "run", *words, "optimizer.lr=1e-3", "fast.precision=32-true")
    start, end = (torch.load(one.best, weights_only=True)["state_dict"] for one in (solved, run))
    moved = {name for name, value in end.items() if not torch.equal(value, start[name])}
    assert not [name for name in moved if "running" in name]
    assert len([name for name in moved if name.endswith("weight")]) > 10
    levels = {name.split(".")[3] for name in moved if name.startswith("model.backbone.blocks.")}
    assert levels == {"2", "3", "4", "5"}, "those of large feature maps, 0 and 1, stay as they are"
    # A step of 1e-3 each: the last layer is still near the solution.
    steps = 1e-3 * 7 * 1.5
    assert (end["model.classifier.weight"] - start["model.classifier.weight"]).abs().max() < steps


def test_run_is_one_like_any_other(solved):
    names = {path.name for path in solved.path.iterdir()}
    assert names >= {"config.yaml", "split.csv", "metrics.csv", "metrics.json", "predictions.csv", "report.html"}
    assert solved.info["status"] == "finished"
    assert len((solved.path / "metrics.csv").read_text().splitlines()) == 2
    metrics = json.loads((solved.path / "metrics.json").read_text())
    assert metrics["test/acc"]["value"] == 1.0  # of two colours


def test_images_are_prepared_as_the_weights_expect_unless_told_otherwise(solved):
    data = solved.config["data"]
    assert data["image_size"] == 32
    assert data["normalize"] == {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}


def test_run_is_loaded_without_the_weights_it_started_from(solved):
    classifier = imgbench.load(solved.path)
    rows = solved.split_rows("test")
    root = solved.path.parent / "photos"
    found = classifier.predict([root / row["path"] for row in rows])
    lines = (solved.path / "predictions.csv").read_text().splitlines()[1:]
    for row, prediction, line in zip(rows, found, lines, strict=True):
        assert line.startswith(f"{row['path']},")
        assert line.split(",")[3] == prediction.label
        assert float(line.split(",")[4]) == pytest.approx(prediction.probabilities["cat"], abs=1e-4)


def test_licence_is_in_the_run_and_its_report(solved):
    weights = solved.info["provenance"]["weights"]
    assert weights["network"] == NAME
    assert weights["license"] == "unknown"
    report = (solved.path / "report.html").read_text()
    assert f"{NAME} of" in report
    assert "licence of the weights that it started from is unknown" in report


def test_same_configuration_gives_the_same_head(solved, tmp_path):
    again = Run(tmp_path / "again")
    words = [f"model.weights={solved.path.parent / 'kept.pth'}", "data.audit=false"]
    train(override(solved, words), again, unconcluded)
    first, second = (torch.load(run.best, weights_only=True)["state_dict"] for run in (solved, again))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_weights_that_are_gone_are_named_when_it_is_run_again(solved, tmp_path):
    with pytest.raises(UserError, match=r"model\.weights=.*weights\.pth is no file"):
        train(override(solved), Run(tmp_path / "again"))

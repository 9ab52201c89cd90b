import json

import numpy as np
import pytest
import yaml
from scipy import stats

from imgbench.errors import UserError
from imgbench.evaluation.predictions import Predictions
from imgbench.files import write_atomically
from imgbench.run import Run
from imgbench.sweep.comparison import compare_runs, find_runs

COST = {"parameters": 1000, "multiply_adds": 2_000_000, "size_mb": 1.5, "latency_ms": 0.25, "threads": 1}


@pytest.fixture
def make_run(tmp_path):
    """Writes what a comparison reads of a run: of `n` images the numbers in `wrong` are classified wrong."""

    def make(name, wrong=(), n=40, seed=1, model="cnn", groups=None, paths=None, fold=None, info=None, lr=1e-3) -> Run:
        folder = tmp_path / name
        folder.mkdir(parents=True)
        targets = np.arange(n) % 2
        found = np.where(np.isin(np.arange(n), list(wrong)), 1 - targets, targets)
        paths, groups = paths or [f"{i}.png" for i in range(n)], groups or [""] * n
        predictions = Predictions(paths, groups, targets, np.eye(2, dtype=np.float32)[found], ["cat", "dog"])
        config = {
            "data": {"root": "photos", "split": {"val": 0.2, "fold": fold}},
            "data_name": "folder",
            "model_name": model,
            "model": {"_target_": f"imgbench.models.{model}"},
            "optimizer": {"lr": lr},
            "seed": seed,
        }
        (folder / "config.yaml").write_text(yaml.dump(config))
        write_atomically(folder / "predictions.csv", predictions.to_csv())
        lines = [f"{path},cat,{group},test,{i:032x}" for i, (path, group) in enumerate(zip(paths, groups, strict=True))]
        (folder / "split.csv").write_text("\n".join(["path,class,group,split,hash", *lines]) + "\n")
        (folder / "run.json").write_text(json.dumps({"status": "finished", "seconds": 10 * seed, **(info or {})}))
        for other in ("metrics.json", "report.html"):
            (folder / other).write_text("{}")
        return Run(folder)

    return make


def test_runs_that_differ_in_the_seed_are_one_configuration(make_run):
    runs = [
        make_run(f"{model}{seed}", range(seed + extra), seed=seed, model=model)
        for model, extra in (("cnn", 0), ("vgg", 15))
        for seed in (1, 2, 3)
    ]
    found = compare_runs(runs, cost_of=lambda run: COST)
    assert [one.name for one in found.configurations] == ["model=cnn", "model=vgg"]
    best = found.configurations[0]
    assert best.accuracies == [39 / 40, 38 / 40, 37 / 40]
    assert best.accuracy.value == pytest.approx(38 / 40)
    expected = stats.ttest_1samp(best.accuracies, 0).confidence_interval()
    assert best.spread["acc"] == pytest.approx((38 / 40, 1 / 40, expected.low, min(expected.high, 1)))
    assert (best.cost, best.seconds) == (COST, 20)
    (difference,) = found.differences
    assert difference.number.value == pytest.approx(15 / 40)
    assert difference.number.low < 15 / 40 < difference.number.high
    assert difference.distinguishable
    assert found.notes == ["40 test images; always 'cat': 50.0 %"]


def test_the_language_of_a_report_makes_no_other_configuration(make_run):
    runs = [make_run(language, seed=seed) for seed, language in enumerate(("en", "zh"), 1)]
    for language, run in zip(("en", "zh"), runs, strict=True):
        path = run.path / "config.yaml"
        config = yaml.safe_load(path.read_text())
        config |= {"report": {"language": language}, "data": {**config["data"], "thumbnails": "off", "audit": language}}
        path.write_text(yaml.dump(config))
    assert len(compare_runs([*runs, make_run("before", seed=3)]).configurations) == 1


def test_two_runs_are_compared_by_mcnemars_test(make_run):
    found = compare_runs([make_run("a", range(3)), make_run("b", range(2, 14), model="vgg")])
    (difference,) = found.differences
    assert difference.tests == ("compare_mcnemar",)
    assert difference.p == pytest.approx(stats.binomtest(2, 13).pvalue)
    assert difference.distinguishable
    assert any("with a single run" in note for note in found.notes)


def test_what_chance_explains_is_not_distinguishable(make_run):
    found = compare_runs([make_run("a", range(3)), make_run("b", range(5), model="vgg")])
    assert not found.differences[0].distinguishable


def test_images_of_one_group_count_as_one(make_run):
    groups = [str(i // 10) for i in range(40)]
    runs = [make_run("a", groups=groups), make_run("b", range(10), groups=groups, model="vgg")]
    (difference,) = compare_runs(runs).differences
    assert difference.tests == ("compare_permutation_group",)
    assert difference.p == 1  # one group, which could as well have been the other's


def test_a_difference_within_the_spread_of_seeds_is_none(make_run):
    # On the images alone p would be tiny: the networks differ, but as much between seeds.
    runs = [
        make_run(f"{model}{seed}", range(wrong), n=400, seed=seed, model=model)
        for model, counts in (("cnn", (20, 100)), ("vgg", (60, 120)))
        for seed, wrong in enumerate(counts, 1)
    ]
    (difference,) = compare_runs(runs).differences
    assert difference.tests[1] == "compare_over_seeds"
    assert not difference.distinguishable
    assert difference.number.low < 0 < difference.number.high


def test_several_pairs_are_corrected(make_run):
    runs = [make_run(name, range(wrong), model=name) for name, wrong in (("a", 0), ("b", 6), ("c", 7))]
    found = {(d.first, d.second): d for d in compare_runs(runs).differences}
    assert found["model=a", "model=b"].p == pytest.approx(2 / 2**6)
    assert found["model=a", "model=b"].adjusted == pytest.approx(2 * 2 / 2**6)
    assert not found["model=a", "model=b"].distinguishable
    assert not found["model=b", "model=c"].distinguishable


def test_other_test_images_are_refused_unless_asked_for(make_run):
    runs = [make_run("a"), make_run("b", model="vgg", paths=[f"{i}.png" for i in range(1, 41)])]
    with pytest.raises(UserError, match=r"40 and 40. They share none.(.|\n)*--any-images"):
        compare_runs(runs)
    found = compare_runs(runs, any_images=True)
    assert found.differences == []
    assert any("test images differ" in note for note in found.notes)


def test_an_image_that_changed_is_another_image(make_run):
    runs = [make_run("a"), make_run("b", model="vgg")]
    split = runs[1].path / "split.csv"
    split.write_text(split.read_text().replace(f"{7:032x}", "f" * 32))
    with pytest.raises(UserError, match=r"They share 39, but not 7\.png"):
        compare_runs(runs)


def test_folds_are_one_configuration_that_was_tested_on_all_images(make_run):
    runs = [
        make_run(f"{model}{fold}", wrong, 20, model=model, paths=[f"{fold}_{i}.png" for i in range(20)], fold=fold)
        for model, wrong in (("cnn", range(1)), ("vgg", range(4)))
        for fold in (0, 1)
    ]
    found = compare_runs(runs)
    assert [len(one.runs) for one in found.configurations] == [2, 2]
    assert found.configurations[0].accuracy.n == 40
    assert found.configurations[0].accuracy.value == pytest.approx(38 / 40)
    assert found.differences[0].tests[1] == "compare_over_folds"


def test_one_run_and_an_unfinished_run_are_refused(make_run):
    run = make_run("a")
    with pytest.raises(UserError, match="two runs or more, but there is 1"):
        compare_runs([run])
    with pytest.raises(UserError, match=r"its status is 'interrupted'.*imgbench\.train --resume"):
        compare_runs([run, make_run("b", info={"status": "interrupted"})])


@pytest.mark.parametrize("text", ["path,group,target,predicted,cat\na.png,,dog,cat,0.5\n", "path,group\na\n", ""])
def test_damaged_predictions_are_named(make_run, text):
    runs = [make_run("a"), make_run("b", model="vgg")]
    (runs[1].path / "predictions.csv").write_text(text)
    with pytest.raises(UserError, match=r"b/predictions\.csv"):
        compare_runs(runs)


def test_configurations_are_named_by_what_differs(make_run):
    runs = [make_run("a"), make_run("b", lr=0.01), make_run("c", lr=0.01, model="vgg")]
    names = {one.runs[0].run.path.name: one.name for one in compare_runs(runs).configurations}
    assert names == {
        "a": "model=cnn, optimizer.lr=0.001",
        "b": "model=cnn, optimizer.lr=0.01",
        "c": "model=vgg, optimizer.lr=0.01",
    }


def test_compressed_runs_are_not_taken_for_seeds(make_run):
    places = ("half", "quarter", "one/small", "two/small")
    runs = [make_run("a"), *(make_run(name, info={"method": "prune"}) for name in places)]
    names = {one.name for one in compare_runs(runs).configurations}
    assert names == {"cnn on folder", "half", "quarter", *(str(run.shown) for run in runs[3:])}


def test_runs_of_one_seed_are_told(make_run):
    assert any("runs of the same seed" in note for note in compare_runs([make_run("a"), make_run("b")]).notes)


def test_runs_are_found_by_directory_and_glob_each_once(make_run, tmp_path):
    for name in ("sweep/0_seed-1", "sweep/1_seed-2", "other"):
        make_run(name)
    found = find_runs([tmp_path / "sweep", f"{tmp_path}/*/1*", tmp_path / "other"])
    assert [run.path.name for run in found] == ["0_seed-1", "1_seed-2", "other"]
    with pytest.raises(UserError, match=r"nothing.* does not exist"):
        find_runs([tmp_path / "nothing*"])


@pytest.mark.parametrize("change", [{"init_from": "other/best.ckpt"}, {"data": {"split": {"val": 0.2, "folds": 10}}}])
def test_other_weights_to_start_from_and_another_number_of_folds_are_other_configurations(change, make_run):
    runs = [make_run("one"), make_run("two", seed=2)]
    assert len(compare_runs(runs).configurations) == 1
    file = runs[1].path / "config.yaml"
    file.write_text(yaml.dump({**yaml.safe_load(file.read_text()), **change}))
    assert len(compare_runs(runs).configurations) == 2

"""Runs side by side: configurations with their seeds or folds, how far they differ, and what they cost."""

import shlex
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from imgbench.data.corrections import Decisions, place_of, read_decisions
from imgbench.errors import UserError
from imgbench.evaluation.predictions import Predictions
from imgbench.evaluation.statistics import Change
from imgbench.report.catalogue import Texts
from imgbench.run import Run
from imgbench.sweep.configurations import METRICS, REPEATED, Configuration, Metric, Tested, by_number
from imgbench.sweep.differences import Difference, differences_of

# Entries that change nothing of what is learnt, beside those in which repetitions of a configuration differ.
ASIDE = (*REPEATED, "ckpt_path", "logger", "data_dir", "report", "data.audit", "data.thumbnails", "data.corrections")
Remark = tuple[str, dict[str, Any]]  # a name of the catalogue, and what stands in the text


@dataclass(frozen=True)
class Comparison:
    """The configurations, the best first, and the differences of all pairs that share their test images."""

    configurations: list[Configuration]
    differences: list[Difference]
    remarks: list[Remark]
    metric: Metric = "acc"  # the one that decides what is best, and that is tested

    def __repr__(self) -> str:
        return f"<Comparison of {', '.join(one.name for one in self.configurations)}>"

    @property
    def notes(self) -> list[str]:
        """What must be known of the numbers."""
        return self.notes_in(Texts("en"))

    def notes_in(self, texts: Texts) -> list[str]:
        return [texts(key, **values) for key, values in self.remarks]

    def against_best(self, configuration: Configuration) -> Difference | None:
        """The best one's difference to this one."""
        best = self.configurations[0].name
        pairs = {(d.first, d.second): d for d in self.differences}
        return pairs.get((best, configuration.name))


def find_runs(places: Sequence[str | Path]) -> list[Run]:
    """The runs that paths, globs and directories of runs name, each once.

    Raises:
        UserError: one of them names none.
    """
    found: dict[Path, Run] = {}
    for place in places:
        path = Path(place)
        paths = [path]
        if not path.exists() and set("*?[") & set(str(place)):
            paths = sorted(Path(path.anchor).glob(str(path.relative_to(path.anchor))))
        runs = [run for path in paths for run in (_below(path) if path.is_dir() else [Run.open(path)])]
        if not runs:
            Run.open(path)  # says what is missing
        found |= {run.path.resolve(): run for run in runs}
    return list(found.values())


def _below(folder: Path) -> Iterator[Run]:
    if (folder / "config.yaml").is_file():
        yield Run(folder)
        return
    for path in sorted(folder.iterdir(), key=by_number):
        if path.is_dir() and not path.is_symlink():
            yield from _below(path)


def compare_runs(
    runs: Sequence[Run],
    any_images: bool = False,
    cost_of: Callable[[Run], dict[str, Any] | None] = lambda _: None,
    corrected: bool = True,
    metric: Metric = "acc",
    names: Sequence[str] | None = None,
) -> Comparison:
    """Groups runs by their configuration and tests whether the configurations differ.

    Args:
        any_images: go on where test images differ; there is no test of such a pair.
        cost_of: what a run's model costs, with the keys of `Configuration.cost`.
        corrected: judge all runs by the labels that people have given to test images until now; else by those before.
        metric: the one that is tested, and decides what is best.
        names: of the configurations, in the order in which their first runs are given; None names them by what differs.

    Raises:
        UserError: fewer than two runs, one that is not finished, different test images, a damaged table of
            corrections, no such metric or one that cannot be told of these images, or other names than configurations.
    """
    if len(runs) < 2:
        raise UserError(f"A comparison needs two runs or more, but there is {len(runs)}: {_listed(runs)}")
    if metric not in METRICS:
        raise UserError(f"--metric {metric}, but it is one of {', '.join(METRICS)}.")
    decisions = _decisions(runs)
    tested = _of_same_classes([_read(run, decisions, corrected) for run in runs])
    grouped: dict[str, list[Tested]] = {}
    for one in tested:
        settings = {name: value for name, value in one.settings.items() if not _is_aside(name)}
        grouped.setdefault(repr(sorted(settings.items(), key=str)), []).append(one)
    automatic = _names([group[0].settings for group in grouped.values()])
    chosen = automatic if names is None else _own_names(names, automatic)
    configurations = [
        _configuration(name, group, cost_of) for name, group in zip(chosen, grouped.values(), strict=True)
    ]
    if without := [one.name for one in configurations if metric not in one.metrics]:
        raise UserError(f"--metric {metric} needs test images of two classes, and those of {without[0]} are of one.")
    if not any_images:
        _check_images(configurations)
    renamed = [("compare_named", {"name": own, "settings": name}) for own, name in zip(chosen, automatic, strict=True)]
    ranked = sorted(configurations, key=lambda configuration: -configuration.metrics[metric].value)
    remarks = [*_remarks(ranked), *(renamed if names is not None else [])]
    return Comparison(ranked, differences_of(ranked, metric), remarks, metric)


def _own_names(names: Sequence[str], automatic: Sequence[str]) -> list[str]:
    """Raises UserError: there are fewer or more of them than configurations, two are the same, or one is empty."""
    names = [" ".join(name.split()) for name in names]
    if len(names) != len(automatic):
        listed = "".join(f"\n  {i}  {name}" for i, name in enumerate(automatic, 1))
        raise UserError(
            f"--names has {len(names)} of them, but there are {len(automatic)} configurations, in this order:{listed}"
        )
    if twice := [name for name in names if names.count(name) > 1]:
        raise UserError(f"--names has {twice[0]!r} twice, but every configuration needs a name of its own.")
    if "" in names:
        raise UserError("--names has an empty one, but every configuration needs a name.")
    return names


def _of_same_classes(tested: Sequence[Tested]) -> list[Tested]:
    """With one list of classes for all, where runs know others or in another order."""
    names = list(dict.fromkeys(name for one in tested for name in one.predictions.class_names))
    return [
        one if one.predictions.class_names == names else replace(one, predictions=_with_classes(one.predictions, names))
        for one in tested
    ]


def _with_classes(predictions: Predictions, names: list[str]) -> Predictions:
    columns = np.array([names.index(name) for name in predictions.class_names])
    # What a network does not know is less likely than anything that it does.
    probabilities = np.full((len(predictions.paths), len(names)), -1, np.float32)
    probabilities[:, columns] = predictions.probabilities
    return replace(predictions, targets=columns[predictions.targets], probabilities=probabilities, class_names=names)


def _is_aside(name: str) -> bool:
    """Whether an entry is one of ASIDE, or lies in one: `data.split.folds` is neither that nor in `data.split.fold`."""
    return any(name == entry or name.startswith(f"{entry}.") for entry in ASIDE)


def _listed(runs: Sequence[Run]) -> str:
    return ", ".join(str(run.shown) for run in runs) or "none"


def _read(run: Run, decided: Decisions, corrected: bool) -> Tested:
    info = run.info
    if run.status != "finished" or not run.concluded:
        raise UserError(
            f"{run.shown} is not finished: its status is {run.status!r}. Leave it out, or finish it: "
            f"python -m imgbench.train --resume {shlex.quote(str(run.shown))}"
        )
    try:
        predictions = Predictions.read_csv(run.path / "predictions.csv")
        if not np.isfinite(predictions.probabilities).all():
            raise ValueError("a probability is no number")
    except (ValueError, IndexError) as error:
        raise UserError(
            f"{run.path / 'predictions.csv'} is damaged: {error}. Leave the run out, or evaluate it anew: "
            f"python -m imgbench.evaluate {shlex.quote(str(run.shown))}"
        ) from error
    if not predictions.paths:
        raise UserError(f"{run.path / 'predictions.csv'} holds no test images.")
    settings = dict(_flat(run.config))
    facts = info.get("corrections", {})
    settings["corrections"] = str(facts.get("hash", "none"))[:8]  # other labels are other data
    hashes = {row["path"]: row["hash"] for row in run.split_rows()}
    names, then = predictions.class_names, predictions.targets
    now, kept = decided.relabelled(hashes, predictions.paths, then, names)
    changed = int((now != then)[kept].sum() + (~kept).sum())
    if not corrected:
        before = {path: names.index(name) for path, name in facts.get("test_classes_before", {}).items()}
        now = np.array([before.get(path, then[row]) for row, path in enumerate(predictions.paths)], np.int64)
    predictions = replace(predictions, targets=now).subset(kept)
    if method := info.get("method"):
        # What compressed it does not stand in the configuration: each such run is one of its own.
        settings |= {"method": method, "run": str(run.shown)}
    of_images = [hashes.get(path, "") for path in predictions.paths]
    return Tested(run, settings, predictions, of_images, info.get("seconds"), changed)


def _decisions(runs: Sequence[Run]) -> Decisions:
    """What people have decided until now of the images of any of the runs: all are judged alike."""
    data = [run.config["data"] for run in runs]
    places = dict.fromkeys(place_of(one["root"], one.get("corrections")) for one in data if one.get("root"))
    return Decisions([decision for place in places for decision in read_decisions(place)])


def _flat(node: dict[str, Any], place: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in node.items():
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{place}{key}.")
        else:
            yield f"{place}{key}", value


def _names(settings: list[dict[str, Any]]) -> list[str]:
    """What each configuration is called: the entries in which they differ; a compressed run is called by its place."""
    if short := [Path(one["run"]).name for one in settings if "run" in one]:
        others = iter(_names([one for one in settings if "run" not in one]))
        places = [one.get("run", "") for one in settings]
        return [
            next(others) if not place else place if short.count(Path(place).name) > 1 else Path(place).name
            for place in places
        ]
    if len(settings) == 1:
        return [f"{settings[0].get('model_name', 'model')} on {settings[0].get('data_name', 'data')}"]
    keys = list(dict.fromkeys(key for one in settings for key in one if not _is_aside(key)))
    differing = [key for key in keys if len({repr(one.get(key)) for one in settings}) > 1]
    differing.sort(key=lambda key: not key.endswith("_name"))
    # Another model or another class has other entries, for which its name stands, unless that is not enough.
    models = tuple(f"{key.removesuffix('_name')}." for key in differing if key.endswith("_name"))
    classes = tuple(key.removesuffix("_target_") for key in differing if key.endswith("._target_"))
    short = [
        key
        for key in differing
        if not key.startswith(models) and (key.endswith("._target_") or not key.startswith(classes))
    ]
    for chosen in (short, differing):
        names = [", ".join(f"{_word(key)}={_word(one[key])}" for key in chosen if key in one) for one in settings]
        if len(set(names)) == len(names):
            return names
    return [f"{name} ({i})" for i, name in enumerate(names, 1)]


def _word(value: Any) -> str:
    text = (f"{value:.6g}" if isinstance(value, float) else str(value)).removesuffix("_name").removesuffix("._target_")
    dotted = isinstance(value, str) and text.count(".") > 1 and "/" not in text
    return text.rpartition(".")[2] if dotted and not text.startswith(("data.", "trainer.")) else text


def _configuration(name: str, runs: list[Tested], cost_of: Callable[[Run], dict[str, Any] | None]) -> Configuration:
    seconds = [tested.seconds for tested in runs if tested.seconds is not None]
    return Configuration(name, runs, cost_of(runs[0].run), float(np.mean(seconds)) if seconds else None)


def _check_images(configurations: Sequence[Configuration]) -> None:
    first = configurations[0]
    for one in configurations:
        if not one.folds and len(one.test_sets) > 1:
            raise UserError(
                f"The runs of {one.name} were tested on different images: {_listed([t.run for t in one.runs])}\n"
                "--any-images shows them side by side, without tests of whether they differ."
            )
        if one.test_sets != first.test_sets:
            ours, theirs = set(one.correct), set(first.correct)
            example = next(iter(sorted(ours ^ theirs)), ("", ""))[0] or "how they are divided into folds"
            shared = f"They share {len(ours & theirs)}, but not {example}." if ours & theirs else "They share none."
            raise UserError(
                f"{first.name} and {one.name} were tested on different images: {len(theirs)} and {len(ours)}. "
                f"{shared}\n"
                "Their accuracies cannot be compared. Train both with the same data and data.split. "
                "--any-images shows them side by side, without tests of whether they differ."
            )


def _remarks(configurations: Sequence[Configuration]) -> Iterator[Remark]:
    first = configurations[0]
    images = len(first.correct)
    groups = first.accuracy.groups
    if corrected := max(tested.corrected for one in configurations for tested in one.runs):
        yield "compare_corrected", {"n": corrected}
    predictions = first.runs[0].predictions
    counts = np.bincount(predictions.targets)
    largest = {"name": predictions.class_names[int(counts.argmax())], "share": 100 * counts.max() / counts.sum()}
    if groups == images:
        yield "compare_images", {"n": images, **largest}
    else:
        yield "compare_images_in_groups", {"n": images, "groups": groups, **largest}
    if len(configurations) > 1 and any(len(one.runs) == 1 for one in configurations):
        yield "compare_single_run", {}
    for one in configurations:
        repeated = [tested.repetition for tested in one.runs]
        if len(set(repeated)) < len(repeated):
            yield "compare_same_seed", {"name": one.name}
        if one.folds or one.runs[0].run.folds:
            yield "compare_folds", {"name": one.name}
    if any(one.test_sets != first.test_sets for one in configurations):
        yield "compare_other_images", {}
    if any(tested.run.info.get("selected_on_test") for one in configurations for tested in one.runs):
        yield "compare_selected_on_test", {}
    threads = {one.cost["threads"] for one in configurations if one.cost}
    if len(threads) > 1:
        yield "compare_threads", {"threads": ", ".join(map(str, sorted(threads)))}


def change_between(first: Run, second: Run, corrected: bool = True) -> Change | None:
    """What `compare_runs` finds of two runs, in their order; None where they are one configuration with one data set.

    Raises:
        UserError: as of `compare_runs`.
    """
    found = compare_runs([first, second], corrected=corrected)
    if not found.differences:
        return None
    [difference] = found.differences
    of = {one.runs[0].run.path: one for one in found.configurations}
    number = difference.number
    if difference.first != of[second.path].name:
        number = replace(number, value=-number.value, low=-number.high, high=-number.low)
    accuracies = of[first.path].accuracy, of[second.path].accuracy
    return Change(*accuracies, number, difference.adjusted, difference.distinguishable)

"""Runs side by side: configurations with their seeds or folds, how far they differ, and what they cost."""

import shlex
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from imgbench.data.corrections import Decisions, place_of, read_decisions
from imgbench.errors import UserError
from imgbench.evaluation.predictions import Predictions
from imgbench.evaluation.statistics import Change, holm, mcnemar, means_test, permutation_test
from imgbench.number import (
    Number,
    group_codes,
    group_sums,
    mean_of_images,
    mean_of_runs,
    paired_difference,
    share,
)
from imgbench.run import Run

LEVEL = 0.05  # adjusted p values below it count as a difference
# Entries in which repetitions of a configuration differ, and those that change nothing of what is learnt.
REPEATED = ("seed", "data.split.fold")
ASIDE = (*REPEATED, "ckpt_path", "logger", "data_dir", "report", "data.audit", "data.thumbnails", "data.corrections")
Image = tuple[str, str]  # path below the data's folder, hash of the content


@dataclass(frozen=True)
class Tested:
    """A finished run and what it answered on its test images."""

    run: Run
    settings: dict[str, Any]  # flat: `optimizer.lr`
    correct: dict[Image, bool]
    groups: dict[Image, str]
    targets: list[str]  # class of each image
    seconds: float | None
    corrected: int = 0  # how many of its test images have another label now, or are left out

    @property
    def accuracy(self) -> float:
        return float(np.mean(list(self.correct.values())))

    @property
    def repetition(self) -> tuple[Any, ...]:
        return tuple(self.settings.get(name) for name in REPEATED)


@dataclass(frozen=True)
class Configuration:
    """Runs that differ in the seed or the fold alone."""

    name: str
    runs: list[Tested]
    accuracy: Number  # the mean over the runs, with the interval over images of these very networks
    over_runs: tuple[float, float] | None  # 95 % interval over seeds or folds; None of a single run
    cost: dict[str, Any] | None  # of the first run: parameters, multiply_adds, size_mb, latency_ms, threads
    seconds: float | None  # of training, the mean

    @property
    def accuracies(self) -> list[float]:
        return [tested.accuracy for tested in self.runs]

    @property
    def folds(self) -> bool:
        return by_folds(self.runs)

    @property
    def correct(self) -> dict[Image, float]:
        return correct_of(self.runs)

    @property
    def test_sets(self) -> set[frozenset[Image]]:
        return {frozenset(tested.correct) for tested in self.runs}


@dataclass(frozen=True)
class Difference:
    """Of two configurations: accuracy of the first minus that of the second, on the same images."""

    first: str
    second: str
    accuracy: Number
    test: str
    p: float
    adjusted: float  # for the number of pairs (Holm)

    @property
    def distinguishable(self) -> bool:
        return self.adjusted < LEVEL


@dataclass(frozen=True)
class Comparison:
    """The configurations, the most accurate first, and the differences of all pairs that share their test images."""

    configurations: list[Configuration]
    differences: list[Difference]
    notes: list[str]

    def __repr__(self) -> str:
        return f"<Comparison of {', '.join(one.name for one in self.configurations)}>"

    def against_best(self, configuration: Configuration) -> Difference | None:
        """The best one's difference to this one."""
        best = self.configurations[0].name
        pairs = {(d.first, d.second): d for d in self.differences}
        return pairs.get((best, configuration.name))


def by_folds(runs: Sequence[Tested]) -> bool:
    return any(tested.settings.get("data.split.fold") is not None for tested in runs)


def correct_of(runs: Sequence[Tested]) -> dict[Image, float]:
    """The share of the runs that have each image right; of those that were tested on it."""
    answers: dict[Image, list[bool]] = {}
    for tested in runs:
        for image, right in tested.correct.items():
            answers.setdefault(image, []).append(right)
    return {image: float(np.mean(rights)) for image, rights in answers.items()}


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
    for path in sorted(folder.iterdir()):
        if path.is_dir() and not path.is_symlink():
            yield from _below(path)


def compare_runs(
    runs: Sequence[Run],
    any_images: bool = False,
    cost_of: Callable[[Run], dict[str, Any] | None] = lambda _: None,
    corrected: bool = True,
) -> Comparison:
    """Groups runs by their configuration and tests whether the configurations differ.

    Args:
        any_images: go on where test images differ; there is no test of such a pair.
        cost_of: what a run's model costs, with the keys of `Configuration.cost`.
        corrected: judge all runs by the labels that people have given to test images until now; else by those before.

    Raises:
        UserError: fewer than two runs, one that is not finished, different test images, or a damaged table of
            corrections.
    """
    if len(runs) < 2:
        raise UserError(f"A comparison needs two runs or more, but there is {len(runs)}: {_listed(runs)}")
    decisions = _decisions(runs)
    tested = [_read(run, decisions, corrected) for run in runs]
    grouped: dict[str, list[Tested]] = {}
    for one in tested:
        settings = {name: value for name, value in one.settings.items() if not _is_aside(name)}
        grouped.setdefault(repr(sorted(settings.items(), key=str)), []).append(one)
    names = _names([group[0].settings for group in grouped.values()])
    configurations = [_configuration(name, group, cost_of) for name, group in zip(names, grouped.values(), strict=True)]
    configurations.sort(key=lambda configuration: -configuration.accuracy.value)
    if not any_images:
        _check_images(configurations)
    differences = _differences(configurations)
    return Comparison(configurations, differences, [*_notes(configurations)])


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
    except (ValueError, IndexError) as error:
        raise UserError(
            f"{run.path / 'predictions.csv'} is damaged: {error}. Leave the run out, or evaluate it anew."
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
    images = [(path, hashes.get(path, "")) for path in predictions.paths]
    right = (predictions.predicted == predictions.targets).tolist()
    if method := info.get("method"):
        # What compressed it does not stand in the configuration: each such run is one of its own.
        settings |= {"method": method, "run": str(run.shown)}
    return Tested(
        run,
        settings,
        dict(zip(images, right, strict=True)),
        dict(zip(images, predictions.groups, strict=True)),
        [predictions.class_names[i] for i in predictions.targets],
        info.get("seconds"),
        changed,
    )


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
    mean, low, high = mean_of_runs([tested.accuracy for tested in runs])
    images = correct_of(runs)
    groups = {image: group for tested in runs for image, group in tested.groups.items()}
    codes, values = group_codes([groups[image] for image in images]), np.array(list(images.values()))
    if len(runs) == 1:
        accuracy = share(values == 1, np.ones(len(values), bool), codes).of_networks(runs[0].run.folds or 1)
    else:
        accuracy = mean_of_images(values, codes)
        if not by_folds(runs):
            accuracy = replace(accuracy, value=mean)
    seconds = [tested.seconds for tested in runs if tested.seconds is not None]
    return Configuration(
        name,
        runs,
        accuracy,
        (max(low, 0.0), min(high, 1.0)) if len(runs) > 1 else None,
        cost_of(runs[0].run),
        float(np.mean(seconds)) if seconds else None,
    )


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


def _differences(configurations: Sequence[Configuration]) -> list[Difference]:
    pairs = [(a, b) for a, b in combinations(configurations, 2) if a.test_sets == b.test_sets]
    found = [_difference(a, b) for a, b in pairs]
    adjusted = holm([p for _, _, p in found])
    return [
        Difference(a.name, b.name, number, test, p, float(corrected))
        for (a, b), (number, test, p), corrected in zip(pairs, found, adjusted, strict=True)
    ]


def _difference(a: Configuration, b: Configuration) -> tuple[Number, str, float]:
    """Accuracy of `a` minus that of `b` with its 95 % interval, the test, and its p value.

    Where both have several runs, the difference has to be larger than both the choice of images and that of the seeds
    explain: p is the larger one of the two tests, and the interval has the variances of both.
    """
    right, reference = a.correct, b.correct
    images = list(right)
    groups = {image: group for tested in a.runs for image, group in tested.groups.items()}
    codes = group_codes([groups[image] for image in images])
    x, y = (np.array([answers[image] for image in images]) for answers in (right, reference))
    independent = len(np.unique(codes)) == len(codes)
    value = float((x - y).mean())
    if len(a.runs) == len(b.runs) == 1 and independent:
        return paired_difference(x == 1, y == 1), "McNemar, exact", mcnemar(x == 1, y == 1)
    sums = group_sums(x - y, codes)
    count = len(sums)
    p, test = permutation_test(sums), f"permutation by {'image' if independent else 'group'}"
    centred = group_sums(x - y - value, codes)
    variance = (centred**2).sum() * count / max(count - 1, 1) / len(images) ** 2
    freedom = float(max(count - 1, 1))
    if min(len(a.runs), len(b.runs)) > 1:
        by_fold = a.folds and b.folds
        first, second = a.accuracies, b.accuracies
        if by_fold:
            order = [{tested.repetition: tested.accuracy for tested in c.runs} for c in (a, b)]
            shared = [key for key in order[0] if key in order[1]]
            first, second = ([accuracies[key] for key in shared] for accuracies in order)
        p = max(p, means_test(first, second, paired=by_fold))
        test += f", and {'t over folds' if by_fold else 'Welch over seeds'}"
        if not by_fold:
            parts = [float(np.var(c.accuracies, ddof=1)) / len(c.runs) for c in (a, b)]
            total = variance + sum(parts)
            terms = [(variance, count - 1), *((part, len(c.runs) - 1) for part, c in zip(parts, (a, b), strict=True))]
            weights = sum(term**2 / max(f, 1) for term, f in terms)
            freedom, variance = (total**2 / weights if weights else freedom), total
    half = float(stats.t.ppf(0.975, freedom) * np.sqrt(variance))
    return Number(value, max(value - half, -1.0), min(value + half, 1.0), len(images), count), test, p


def _notes(configurations: Sequence[Configuration]) -> Iterator[str]:
    first = configurations[0]
    images = len(first.correct)
    groups = first.accuracy.groups
    grouped = "" if groups == images else f" in {groups} groups"
    if corrected := max(tested.corrected for one in configurations for tested in one.runs):
        yield f"{corrected} test images were relabelled or left out since a run was trained: all are judged by that"
    classes, counts = np.unique(first.runs[0].targets, return_counts=True)
    largest = counts.max() / counts.sum()
    yield f"{images} test images{grouped}; always {str(classes[counts.argmax()])!r}: {100 * largest:.1f} %"
    if len(configurations) > 1 and any(len(one.runs) == 1 for one in configurations):
        yield "a configuration with a single run is one network: with other seeds, differences may be reversed"
    for one in configurations:
        repeated = [tested.repetition for tested in one.runs]
        if len(set(repeated)) < len(repeated):
            yield f"{one.name} has runs of the same seed: their interval does not hold for other seeds"
        if one.folds or one.runs[0].run.folds:
            yield f"the folds of {one.name} share training images: their interval is probably too narrow"
    if any(one.test_sets != first.test_sets for one in configurations):
        yield "test images differ: the accuracies cannot be compared"
    if any(tested.run.info.get("selected_on_test") for one in configurations for tested in one.runs):
        yield "a model was selected on its own test images: its accuracy is too high"
    threads = {one.cost["threads"] for one in configurations if one.cost}
    if len(threads) > 1:
        yield f"milliseconds were measured with different numbers of threads: {sorted(threads)}"


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
    number = difference.accuracy
    if difference.first != of[second.path].name:
        number = replace(number, value=-number.value, low=-number.high, high=-number.low)
    accuracies = of[first.path].accuracy, of[second.path].accuracy
    return Change(*accuracies, number, difference.adjusted, difference.distinguishable)

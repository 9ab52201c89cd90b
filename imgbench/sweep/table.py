"""What becomes of a sweep: a table of its runs, the best configuration first, and that as an experiment.

Runs that differ in the seed or the fold alone are one configuration. It has a mean and a spread, and no best run: the
seed that happened to do best promises nothing.
"""

import json
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from imgbench.errors import UserError
from imgbench.experiment.compose import ENGINES, GROUPS, LEFT_OUT, register_resolvers
from imgbench.files import write_atomically
from imgbench.number import Number, read_metrics
from imgbench.run import Run
from imgbench.sweep.configurations import REPEATED, by_number
from imgbench.sweep.search import OptunaSweeper, own_words
from imgbench.terminal import print_table


class SweptRun(NamedTuple):
    """A run of a sweep; `score` is None where it has failed, `pruned` the epoch it was ended after as hopeless."""

    overrides: list[str]
    path: Path
    score: float | None
    pruned: int | None = None

    @property
    def is_whole(self) -> bool:
        return self.score is not None and self.pruned is None

    @property
    def configuration(self) -> tuple[str, ...]:
        """The overrides but for the seed and the fold."""
        return tuple(word for word in self.overrides if word.partition("=")[0].lstrip("+") not in REPEATED)


class SweepTable(Callback):
    """Notes the overrides and the score of each run, wherever it is computed, and prints all of them at the end."""

    def __setstate__(self, state: dict[str, Any]) -> None:
        register_resolvers()  # it arrives with the runs in another process, where these are not known

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        # Hydra takes a sweeper only from a namespace of its own; conf/hydra/sweeper/search.yaml calls it so.
        Plugins.instance().class_name_to_class["hydra_plugins.imgbench.OptunaSweeper"] = OptunaSweeper
        folder = Path(config.hydra.sweep.dir)
        file = folder / "multirun.yaml"
        words = _words(config)
        if file.is_file() and (earlier := _words(OmegaConf.load(file))) != words:
            _fail(
                f"hydra.sweep.dir={folder} holds another sweep, over {' '.join(earlier)}, and this is over "
                f"{' '.join(words)}.\nName another directory, or go on with that one: --resume {folder}"
            )
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(file, OmegaConf.to_yaml(config))  # for --resume; not every sweeper does

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **_: Any) -> None:
        if job_return.hydra_cfg is None:
            return
        hydra = job_return.hydra_cfg.hydra
        score = job_return.return_value if job_return.status == JobStatus.COMPLETED else None
        place = Path(hydra.runtime.output_dir)
        if hydra.mode == RunMode.MULTIRUN and place.is_dir():
            Run(place).note(sweep={"overrides": list(hydra.overrides.task), "score": score})

    def on_multirun_end(self, config: DictConfig, **_: Any) -> None:
        folder = Path(config.hydra.sweep.dir)
        sign = -1 if config.mode == "max" else 1

        def rank(group: Sequence[SweptRun]) -> float:
            return sign * _mean(group) if any(run.is_whole for run in group) else float("inf")

        grouped: dict[tuple[str, ...], list[SweptRun]] = {}
        for run in _runs_of(folder):
            grouped.setdefault(run.configuration, []).append(run)
        groups = sorted(grouped.values(), key=rank)
        runs = [run for group in groups for run in group]
        repeated = any(len(group) > 1 for group in groups)
        rows = []
        for overrides, path, score, pruned in runs:
            shown = "failed" if score is None else f"{score:.4f}" + (f", ended after epoch {pruned}" if pruned else "")
            rows.append([" ".join(overrides), shown, *_results(path), str(path)])
        columns = ("overrides", config.monitor, "test accuracy", "95 % interval", "seconds", "run directory")
        order = f", best {config.monitor} first" if len(groups) > 1 else " of one configuration"
        print_table(columns, rows, f"{len(runs)} runs{order if len(runs) > 1 else ''}")
        if repeated:
            print_spread(groups, config.monitor)
        if len(groups) > 1 and any(run.is_whole for run in groups[0]):
            best = folder / "best.yaml"
            write_atomically(best, experiment(groups[0], len(groups) if repeated else len(runs), config.monitor))
            print(f"Best  {best}, to be copied to conf/experiment; chosen by {config.monitor}, not by the test images")
        if sum(run.score is not None for run in runs) > 1:
            print(f"Next  python -m imgbench.compare {shlex.quote(os.path.commonpath([run.path for run in runs]))}")
        if any(run.score is None for run in runs):
            sys.exit(1)


def print_spread(groups: Sequence[Sequence[SweptRun]], monitor: str) -> None:
    """Of each configuration the mean over its runs, with the standard deviation of a single one."""
    rows = []
    for group in groups:
        whole = [run for run in group if run.is_whole]
        values = [[run.score for run in whole], [number.value for run in whole if (number := _accuracy(run.path))]]
        name = " ".join(group[0].configuration) or "all runs"
        rows.append([name, str(len(whole)), *(_with_spread([v for v in of if v is not None]) for of in values)])
    print_table(("configuration", "runs", monitor, "test accuracy"), rows, "Mean ± standard deviation over runs")


def _with_spread(values: Sequence[float]) -> str:
    if len(values) < 2:
        return f"{values[0]:.4f}" if values else "-"
    return f"{np.mean(values):.4f} ± {np.std(values, ddof=1):.4f}"


def _mean(group: Sequence[SweptRun]) -> float:
    return float(np.mean([run.score for run in group if run.is_whole and run.score is not None]))


def _fail(message: str) -> None:
    """Ends the command; of an exception, Hydra would only warn where it calls."""
    print(f"\nError: {message}", file=sys.stderr)
    sys.exit(2)


def _words(config: Any) -> list[str]:
    return own_words(OmegaConf.select(config, "hydra.overrides.task") or [])


def _runs_of(folder: Path) -> list[SweptRun]:
    """The runs that lie in the directory of a sweep."""
    found = []
    for file in sorted(folder.glob("*/run.json"), key=lambda file: by_number(file.parent)):
        try:
            info = Run(file.parent).info
        except UserError:  # of a run that was killed while it was written
            continue
        if noted := info.get("sweep"):
            pruned = info.get("pruned", {}).get("epoch")
            found.append(SweptRun(noted["overrides"], file.parent, noted["score"], pruned))
    return found


def experiment(best: Sequence[SweptRun], number: int, monitor: str) -> str:
    """The overrides of the best configuration as the text of a file for `conf/experiment`.

    Args:
        best: its runs; of several, the seed is left open.
        number: of the configurations that it is the best of.
    """
    whole = [run for run in best if run.is_whole]
    words = whole[0].overrides if len(best) == 1 else list(whole[0].configuration)
    choices: list[dict[str, str]] = []
    values: Any = OmegaConf.create({})
    for override in OverridesParser.create().parse_overrides(words):
        key = override.key_or_group
        if key in ENGINES:
            continue
        if key in (*GROUPS, *LEFT_OUT):
            choices.append({f"override /{key}": str(override.value())})
        elif not key.startswith(("ckpt_path", "median_stopping")):  # of the sweep, not of the run
            OmegaConf.update(values, key, override.value(), force_add=True)
    if len(best) == 1:
        accuracy, interval, _ = _results(whole[0].path)
        chosen = f"# The best of {number} runs by {monitor} {whole[0].score:.4f}; {whole[0].path}"
        reached = f"# Test accuracy {accuracy} (95 % interval {interval}): not what it was chosen by"
    else:
        accuracies = [found.value for run in whole if (found := _accuracy(run.path))]
        chosen = f"# The best of {number} configurations by the mean {monitor} {_mean(whole):.4f} of {len(whole)} runs"
        reached = f"# Test accuracy {_with_spread(accuracies)} over these runs: not what it was chosen by"
    header = [
        "# @package _global_",
        "# python -m imgbench.train experiment=NAME, once this is conf/experiment/NAME.yaml",
        chosen,
        reached,
    ]
    content = {**({"defaults": choices} if choices else {}), **OmegaConf.to_container(values)}  # pyright: ignore
    return "\n".join(header) + "\n" + yaml.safe_dump(content, sort_keys=False, allow_unicode=True)


def _accuracy(run: Path) -> Number | None:
    try:
        return read_metrics(run / "metrics.json")["test/acc"]
    except (OSError, KeyError):
        return None


def _results(run: Path) -> tuple[str, str, str]:
    try:
        seconds = json.loads((run / "run.json").read_text("utf-8"))["seconds"]
    except (OSError, KeyError):
        return "", "", ""
    if (accuracy := _accuracy(run)) is None:
        return "", "", ""
    return f"{accuracy.value:.4f}", f"{accuracy.low:.3f} to {accuracy.high:.3f}", f"{seconds:.0f}"

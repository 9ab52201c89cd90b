"""What becomes of a sweep: a table of its runs, best first, and the best as an experiment."""

import json
import os
import shlex
import sys
from pathlib import Path
from typing import Any, NamedTuple

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
from imgbench.number import read_metrics
from imgbench.run import Run
from imgbench.sweep.search import OptunaSweeper, own_words
from imgbench.terminal import print_table


class SweptRun(NamedTuple):
    """A run of a sweep; `score` is None where it has failed, `pruned` the epoch it was ended after as hopeless."""

    overrides: list[str]
    path: Path
    score: float | None
    pruned: int | None = None


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
        highest_first = config.mode == "max"
        worst = float("-inf") if highest_first else float("inf")
        runs = sorted(
            _runs_of(folder), key=lambda run: worst if run.score is None else run.score, reverse=highest_first
        )
        rows = []
        for overrides, path, score, pruned in runs:
            shown = "failed" if score is None else f"{score:.4f}" + (f", ended after epoch {pruned}" if pruned else "")
            rows.append([" ".join(overrides), shown, *_results(path), str(path)])
        columns = ("overrides", config.monitor, "test accuracy", "95 % interval", "seconds", "run directory")
        print_table(columns, rows, f"{len(runs)} runs, best {config.monitor} first")
        whole = [run for run in runs if run.score is not None and run.pruned is None]
        if whole:
            best = folder / "best.yaml"
            write_atomically(best, experiment(whole[0], len(runs), config.monitor))
            print(f"Best  {best}, to be copied to conf/experiment; chosen by {config.monitor}, not by the test images")
        if sum(run.score is not None for run in runs) > 1:
            print(f"Next  python -m imgbench.compare {shlex.quote(os.path.commonpath([run.path for run in runs]))}")
        if any(run.score is None for run in runs):
            sys.exit(1)


def _fail(message: str) -> None:
    """Ends the command; of an exception, Hydra would only warn where it calls."""
    print(f"\nError: {message}", file=sys.stderr)
    sys.exit(2)


def _words(config: Any) -> list[str]:
    return own_words(OmegaConf.select(config, "hydra.overrides.task") or [])


def _runs_of(folder: Path) -> list[SweptRun]:
    """The runs that lie in the directory of a sweep."""
    found = []
    for file in sorted(folder.glob("*/run.json")):
        try:
            info = Run(file.parent).info
        except UserError:  # of a run that was killed while it was written
            continue
        if noted := info.get("sweep"):
            pruned = info.get("pruned", {}).get("epoch")
            found.append(SweptRun(noted["overrides"], file.parent, noted["score"], pruned))
    return found


def experiment(best: SweptRun, number: int, monitor: str) -> str:
    """The overrides of the best run as the text of a file for `conf/experiment`."""
    choices: list[dict[str, str]] = []
    values: Any = OmegaConf.create({})
    for override in OverridesParser.create().parse_overrides(best.overrides):
        key = override.key_or_group
        if key in ENGINES:
            continue
        if key in (*GROUPS, *LEFT_OUT):
            choices.append({f"override /{key}": str(override.value())})
        elif not key.startswith(("ckpt_path", "median_stopping")):  # of the sweep, not of the run
            OmegaConf.update(values, key, override.value(), force_add=True)
    accuracy, interval, _ = _results(best.path)
    header = [
        "# @package _global_",
        "# python -m imgbench.train experiment=NAME, once this is conf/experiment/NAME.yaml",
        f"# The best of {number} runs by {monitor} {best.score:.4f}; {best.path}",
        f"# Test accuracy {accuracy} (95 % interval {interval}): not what it was chosen by",
    ]
    content = {**({"defaults": choices} if choices else {}), **OmegaConf.to_container(values)}  # pyright: ignore
    return "\n".join(header) + "\n" + yaml.safe_dump(content, sort_keys=False, allow_unicode=True)


def _results(run: Path) -> tuple[str, str, str]:
    try:
        accuracy = read_metrics(run / "metrics.json")["test/acc"]
        seconds = json.loads((run / "run.json").read_text("utf-8"))["seconds"]
    except (OSError, KeyError):
        return "", "", ""
    return f"{accuracy.value:.4f}", f"{accuracy.low:.3f} to {accuracy.high:.3f}", f"{seconds:.0f}"

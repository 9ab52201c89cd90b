"""What is left of runs that are killed: whether they go on, lose an epoch, and end as if they had not been killed."""

import csv
import json
import logging
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from imgbench.data.pixels import UNFINISHED
from imgbench.run import Run

log = logging.getLogger(__name__)

SIGNALS = ("SIGKILL", "SIGTERM", "SIGHUP", "SIGINT")
# A run of seconds in which everything is random that can be.
RECIPE = ("data=digits", "model=cnn", "data.image_size=28", "augment=strong", "callbacks=ema", "data.audit=false",
          "+callbacks.last.share=1e6")  # fmt: skip
LONGEST = 600  # seconds that a run may take


@dataclass(frozen=True)
class Trial:
    """A run in a folder of its own, with a cold cache of its own."""

    folder: Path
    words: Sequence[str]
    epochs: int

    @property
    def run(self) -> Run:
        return Run(self.folder / "run")

    def start(self, *words: str) -> subprocess.Popen[str]:
        line = [sys.executable, "-m", "imgbench.train", *words]
        environment = {**os.environ, "IMGBENCH_CACHE": str(self.folder / "cache")}
        with (self.folder / "output.txt").open("a") as output:
            return subprocess.Popen(
                line,
                cwd=self.folder,
                stdout=output,
                stderr=output,
                text=True,
                env=environment,
                preexec_fn=_hear_signals,
            )

    def begin(self) -> subprocess.Popen[str]:
        return self.start(*self.words, f"trainer.max_epochs={self.epochs}", "hydra.run.dir=run")

    def go_on(self) -> subprocess.Popen[str]:
        """As a user would: killed before it had a configuration, there is nothing to resume."""
        resumable = (self.run.path / "config.yaml").is_file()
        return self.start("--resume", "run") if resumable else self.begin()

    @property
    def output(self) -> str:
        return (self.folder / "output.txt").read_text()


def _hear_signals() -> None:
    """What a shell's background jobs, and all that nohup starts, are born to ignore, kills a trial nevertheless."""
    for name in SIGNALS[1:]:  # SIGKILL cannot be ignored
        signal.signal(getattr(signal, name), signal.SIG_DFL)


def _epochs(run: Run) -> list[dict[str, str]]:
    """`metrics.csv` without what depends on the clock."""
    path = run.path / "metrics.csv"
    if not path.is_file():
        return []
    with path.open(newline="") as file:
        return [{name: row[name] for name in row if "second" not in name} for row in csv.DictReader(file)]


def epochs_kept(run: Run) -> int:
    """How many epochs `last.ckpt` holds."""
    return torch.load(run.last, mmap=True, weights_only=True)["epoch"] + 1 if run.last.is_file() else 0


def epochs_lost(kept: int, said: str) -> int:
    """Of the epochs that were kept, those that a run which says this has trained again."""
    first = re.search(r"^epoch (\d+)/", said, re.MULTILINE)
    return kept + 1 - int(first[1]) if first else 0


# When a phase has begun; to be killed somewhere in it and not always at its start, a run lives on for a moment.
PHASES: dict[str, Callable[[Trial], bool]] = {
    "start-up": lambda trial: True,
    # Not deeper than there: folders that vanish while they are searched are an error.
    "cache": lambda trial: any((trial.folder / "cache" / "images").glob(f"{UNFINISHED}*")),
    "training": lambda trial: len(_epochs(trial.run)) >= 1,
    "checkpoint": lambda trial: any((trial.run.path / "checkpoints").glob(".last.ckpt.*")),
    "evaluation": lambda trial: len(_epochs(trial.run)) == trial.epochs,
}
LIVES_ON = {"start-up": 3.0, "cache": 0.05, "training": 1.0, "checkpoint": 0.002, "evaluation": 1.0}  # seconds at most


def kill(trial: Trial, process: subprocess.Popen[str], phase: str, name: str, rng: random.Random) -> bool:
    """Kills a run in a phase; returns whether it was there to be killed."""
    wanted = rng.randint(1, trial.epochs - 1) if phase in ("training", "checkpoint") else 0
    start = time.monotonic()
    while process.poll() is None and time.monotonic() - start < LONGEST:
        if PHASES[phase](trial) and len(_epochs(trial.run)) >= wanted:
            time.sleep(rng.uniform(0, LIVES_ON[phase]))
            break
        time.sleep(0.0005)
    process.send_signal(getattr(signal, name))
    process.wait(LONGEST)
    return process.returncode != 0


def differences(trial: Trial, whole: Run) -> list[str]:
    """What of a run is not, to the bit, that of one that was not killed."""
    run = trial.run
    if run.info["status"] != "finished":
        return [f"status {run.info['status']}"]
    found = []
    for name in ("best.ckpt", "last.ckpt"):
        ours, theirs = (
            torch.load(place.path / "checkpoints" / name, weights_only=True)["state_dict"] for place in (run, whole)
        )
        if ours.keys() != theirs.keys() or not all(torch.equal(ours[key], theirs[key]) for key in theirs):
            found.append(name)
    if _epochs(run) != _epochs(whole):
        found.append("metrics.csv")
    if json.loads((run.path / "metrics.json").read_text()) != json.loads((whole.path / "metrics.json").read_text()):
        found.append("metrics.json")
    return found


def kill_and_resume(trial: Trial, whole: Run, phase: str, name: str, rng: random.Random) -> dict[str, Any]:
    """Kills a run once and lets it go on: whether it was killed, the epochs lost, and what differs at its end."""
    killed = kill(trial, trial.begin(), phase, name, rng)
    kept, said = epochs_kept(trial.run), len(trial.output)
    trial.go_on().wait(LONGEST)
    lost = epochs_lost(kept, trial.output[said:])
    differing = differences(trial, whole)
    if differing or lost:
        log.warning("%s in %s: %d epochs lost, not the same: %s\n%s", name, phase, lost, differing, trial.output)
    return {"killed": killed, "lost": lost, "differing": differing}


def measure_kills(
    number: int, epochs: int = 6, recipe: Sequence[str] = RECIPE, phases: Sequence[str] = tuple(PHASES)
) -> dict[str, dict[str, float]]:
    """For each phase in which runs were killed, by all signals in turn: the share that ended as if they had not been.

    `lost epochs` are those that `last.ckpt` held and the run trained again.
    """
    rng = random.Random(0)
    rows = {phase: {"value": 0.0, "kills": 0, "lost epochs": 0, "the same to the bit": 0} for phase in phases}
    with tempfile.TemporaryDirectory() as home:
        whole = _trial(Path(home), "whole", recipe, epochs)
        whole.begin().wait(LONGEST)
        for i in range(number):
            phase, name = phases[i % len(phases)], SIGNALS[i // len(phases) % len(SIGNALS)]
            trial = _trial(Path(home), str(i), recipe, epochs)
            found = kill_and_resume(trial, whole.run, phase, name, rng)
            row = rows[phase]
            row["kills"] += found["killed"]
            row["lost epochs"] += found["lost"]
            row["the same to the bit"] += not found["differing"]
            log.info("%d of %d: %s in %s, %s", i + 1, number, name, phase, found)
            row["value"] = row["the same to the bit"] / (i // len(phases) + 1)
    return rows


def _trial(home: Path, name: str, recipe: Sequence[str], epochs: int) -> Trial:
    folder = home / name
    (folder / "cache").mkdir(parents=True)
    return Trial(folder, recipe, epochs)

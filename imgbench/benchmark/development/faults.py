"""What commands do when a call for a file fails, as of a disk that is full, breaks or is another's, or the power goes.

A small library, preloaded, fails the n-th call that has to do with a file of the trial, or records all of them; SQLite
is tested so (https://www.sqlite.org/testing.html).
"""

import ctypes
import io
import json
import logging
import multiprocessing
import os
import re
import runpy
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image

from imgbench.benchmark.development.power import states
from imgbench.errors import UserError

log = logging.getLogger(__name__)

SOURCE = Path(__file__).with_name("faults.c")
# No space from then on; no quota from then on; one input/output error; one lack of permission or handles; one file for
# which there is no memory to map it.
KINDS = ("full", "quota", "broken", "denied", "unmapped")
POWER = "power"  # nothing fails, but the power may go at any time
# How a command may end, or what may be left of it if the power goes; all else is a fault of its own.
GOOD = ("success", "error", "whole")
LONGEST = 300  # seconds that a command may take
STARTER = multiprocessing.get_context("spawn" if os.name == "nt" else "forkserver")
PRELOADED = ["imgbench.experiment.train", "imgbench.report.conclude", "imgbench.compression.apply", "matplotlib.pyplot",
             "timm", "onnxruntime", "onnx", "hydra.main", "imgbench.benchmark.development.faults"]  # fmt: skip

TINY = ("data.image_size=20", "data.batch_size=8", "augment=none", "trainer.accelerator=cpu")
TRAIN = ("train", "data.root=photos", "model=cnn", *TINY, "trainer.max_epochs=2", "hydra.run.dir=run")
# Of a budget that suffices on a busy machine, too; a student would learn for as long as it lasts, and there is none.
STUDY = ("study", "data.root=photos", "model.candidates=[cnn,compact]", *TINY, "trainer.max_epochs=1", "budget=60",
         "target=drop<=100pt", "hydra.run.dir=study")  # fmt: skip
# Each command, and those whose results it needs.
COMMANDS: dict[str, tuple[tuple[str, ...], tuple[tuple[str, ...], ...]]] = {
    "train": (TRAIN, ()),
    "resume": (("train", "--resume", "run", "trainer.max_epochs=3"), (TRAIN,)),
    "study": (STUDY, ()),
    "evaluate": (("evaluate", "run", "--output", "evaluated"), (TRAIN,)),
    "predict": (("predict", "run", "photos", "--output", "answers.csv"), (TRAIN,)),
    "compress": (("compress", "run", "quantize", "--max-drop", "100", "--output", "int8"), (TRAIN,)),
    "export": (("export", "run"), (TRAIN,)),
    "audit": (("audit", "data.root=photos", "data.image_size=20", "hydra.run.dir=audited"), ()),
    "review": (("review", "run", "--port", "0"), (TRAIN,)),
}
DECISIONS = 4  # that are made on the page of a review


@dataclass(frozen=True)
class Ended:
    """A command that has ended: its exit status, what it said, how many calls were counted, and which one failed."""

    status: int | None  # None: it took too long
    said: str
    calls: int
    failed: str


class Trials:
    """A folder in which one command after another is tried, each time from the same start."""

    def __init__(self, home: Path, library: Path) -> None:
        self.home, self.library = home, library
        self.work, self.kept, self.reports = home / "work", home / "kept", home / "reports"
        self.record = home / "record"
        self.reports.mkdir()

    def begin(self, prepared_by: Sequence[Sequence[str]]) -> None:
        """Makes photographs, runs the commands that the trials build on, and keeps what they leave."""
        for place in (self.work, self.kept):
            shutil.rmtree(place, ignore_errors=True)
        rng = np.random.default_rng(0)
        for label, shade in (("dark", 60), ("light", 180)):
            folder = self.work / "photos" / label
            folder.mkdir(parents=True)
            for i in range(30):
                pixels = (shade + rng.integers(0, 60, (24, 24, 3))).astype(np.uint8)
                Image.fromarray(pixels).save(folder / f"{i}.png")
        for line in prepared_by:
            if (ended := self.run(line)).status != 0:
                raise UserError(f"{' '.join(line)} failed without a fault:\n{ended.said}")
        shutil.copytree(self.work, self.kept)

    def restore(self) -> None:
        shutil.rmtree(self.work)
        shutil.copytree(self.kept, self.work)

    def run(self, line: Sequence[str], kind: str = KINDS[0], call: int = 0) -> Ended:
        """Runs a command, whose `call`th call fails; 0: none. With POWER, what it does is recorded."""
        report = self.reports / "ended.json"
        report.unlink(missing_ok=True)
        (self.reports / "answers.json").unlink(missing_ok=True)
        if kind == POWER:
            shutil.rmtree(self.record, ignore_errors=True)
            self.record.mkdir()
        process = STARTER.Process(target=_run, args=(line, self.work, report, kind, call, self.record))
        process.start()
        process.join(LONGEST)
        if process.is_alive():
            process.kill()
            process.join()
            return Ended(None, "it took too long", 0, "")
        said = (self.reports / "said.txt").read_text(errors="replace")
        facts = json.loads(report.read_text()) if report.is_file() else {"calls": 0, "failed": ""}
        fine = {"audit": (1, 3), "review": (130,)}.get(line[0], ())  # there are findings; it is interrupted
        return Ended(0 if process.exitcode in fine else process.exitcode, said, facts["calls"], facts["failed"])

    def answers(self) -> list[tuple[int, int, str]]:
        """Of each decision on the page: the status of the answer, how many calls were counted then, and who made it."""
        file = self.reports / "answers.json"
        return [tuple(one) for one in json.loads(file.read_text())] if file.is_file() else []


def _run(line: Sequence[str], work: Path, report: Path, kind: str, call: int, record: Path) -> None:
    """In a process of its own, which ends as the command does."""
    preloaded = ctypes.CDLL(None)
    preloaded.faults_met.restype = ctypes.c_char_p
    file = os.open(report.with_name("said.txt"), os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(file, 1)
    os.dup2(file, 2)
    os.chdir(work)
    os.environ["IMGBENCH_CACHE"] = str(work / "cache")
    sys.path[0] = ""
    sys.argv = [f"imgbench.{line[0]}", *line[1:]]
    if line[0] == "review":
        signal.signal(signal.SIGINT, signal.default_int_handler)
        threading.Thread(target=_decide, args=(report, preloaded.faults_seen), daemon=True).start()
    if kind == POWER:
        preloaded.faults_record(os.fsencode(work), os.fsencode(record))
    else:
        preloaded.faults_arm(os.fsencode(work), KINDS.index(kind), ctypes.c_long(call))
    try:
        runpy.run_module(f"imgbench.{line[0]}", run_name="__main__", alter_sys=True)
    finally:
        preloaded.faults_disarm()
        sys.stdout.flush()
        report.write_text(json.dumps({"calls": preloaded.faults_seen(), "failed": preloaded.faults_met().decode()}))


def _decide(report: Path, count: Callable[[], int]) -> None:
    """Makes decisions on the page of a review, which then ends."""
    answers = []
    while not (found := re.search(r"(http://\S+?)(/\S+)", report.with_name("said.txt").read_text())):
        time.sleep(0.1)
    for number in range(DECISIONS):
        name = f"person{number}"
        request = urllib.request.Request(
            f"{found[0]}decide",
            json.dumps({"rows": [number], "decision": "right", "by": name}).encode(),
            {"Content-Type": "application/json", "Origin": found[1]},
        )
        try:
            with urllib.request.urlopen(request) as answer:
                status = answer.status
        except urllib.error.HTTPError as error:
            status = error.code
        answers.append((status, count(), name))
    report.with_name("answers.json").write_text(json.dumps(answers))
    os.kill(os.getpid(), signal.SIGINT)


def undecided(folder: Path, answers: Sequence[tuple[int, int, str]]) -> Iterator[str]:
    """Decisions that are not in the table though they were answered, or are there though they were refused."""
    table = folder / "photos" / "corrections.csv"
    text = table.read_text("utf-8", "replace") if table.is_file() else ""
    for status, _, name in answers:
        if status not in (200, 409):
            yield f"the page answered {status}"
        elif (name in text) != (status == 200):
            yield f"the decision of {name} was answered {status}, but is {'' if name in text else 'not '}there"


def half_written(folder: Path) -> Iterator[str]:
    """The files below it, but for hidden ones, that do not open as what their names say."""
    import onnx
    import torch

    opens: dict[str, Callable[[bytes], Any]] = {
        ".json": json.loads,
        ".yaml": lambda data: yaml.safe_load(data) or 1 / 0,
        ".ckpt": lambda data: torch.load(io.BytesIO(data), weights_only=True),
        ".onnx": onnx.load_from_string,
        ".npz": lambda data: [np.load(io.BytesIO(data))[name] for name in np.load(io.BytesIO(data))],
        ".npy": lambda data: np.load(io.BytesIO(data)),
        ".png": lambda data: Image.open(io.BytesIO(data)).load(),
        ".html": lambda data: data.rstrip().endswith(b"</html>") or 1 / 0,
        ".csv": lambda data: data.endswith(b"\n") or 1 / 0,
    }
    for path in sorted(folder.rglob("*")):
        names = path.relative_to(folder).parts
        if path.is_file() and path.suffix in opens and not any(name.startswith(".") for name in names):
            try:
                opens[path.suffix](path.read_bytes())
            except Exception as error:  # each reader has its own
                yield f"{path.relative_to(folder)} is damaged ({type(error).__name__})"


def unfinished_tables(folder: Path) -> Iterator[str]:
    """The tables that grow row by row and say beside them that they are not whole yet."""
    for path in sorted(folder.rglob("*.csv.source.json")):
        with suppress(ValueError):  # damaged, it says nothing
            if not json.loads(path.read_bytes())["rows"]:
                yield str(path.relative_to(folder)).removesuffix(".source.json")


def lost(folder: Path, before: Path) -> Iterator[str]:
    """The photographs that have changed, and the other files that are no longer there, but for those of the cache."""
    for path in sorted(before.rglob("*")):
        name = path.relative_to(before)
        if path.is_file() and name.parts[0] != "cache":
            now = folder / name
            if not now.is_file():
                yield f"{name} is lost"
            elif (name.parts[0] == "photos" or path.suffix == ".ckpt") and now.read_bytes() != path.read_bytes():
                yield f"{name} has changed"


def results(folder: Path) -> dict[str, str]:
    """What must be the same whatever happened before: predictions, and metrics without what the clock decides.

    A photograph that is classified alone has other last digits than one in a batch.
    """
    found = {}
    for path in sorted(folder.rglob("*.csv")):
        if not path.is_relative_to(folder / "cache") and path.name != "corrections.csv":  # which the answers tell
            text = re.sub(r"\d+\.\d+(e-\d+)?", lambda number: f"{float(number[0]):.5f}", path.read_text())
            rows = [line.split(",") for line in text.splitlines()]
            timed = {i for i, name in enumerate(rows[0]) if "second" in name} if rows else set()
            kept = [[cell for i, cell in enumerate(row) if i not in timed] for row in rows]
            found[str(path.relative_to(folder))] = repr(kept)
    return found


def unfinished(folder: Path, whole: Path, before: Path) -> Iterator[str]:
    """What runs lack that say that they are finished, by what the same runs have in `whole`.

    A run that was finished `before` the command promises no more than it had then.
    """
    for file in sorted(whole.rglob("run.json")):
        run = file.parent.relative_to(whole)
        with suppress(OSError, ValueError):
            if not _is_finished(folder / run):
                continue
            promised = before / run if _is_finished(before / run) else file.parent
            for path in sorted(promised.rglob("*")):
                name = path.relative_to(promised)
                hidden = any(part.startswith(".") for part in name.parts)
                if path.is_file() and not hidden and not (folder / run / name).exists():
                    yield f"{run} is finished, but lacks {name}"


def _is_finished(run: Path) -> bool:
    file = run / "run.json"
    return file.is_file() and json.loads(file.read_text())["status"] == "finished"


def judged(ended: Ended) -> Iterator[str]:
    """What is wrong with how a command ended beside a fault."""
    if ended.status is None:
        yield "it took too long"
    elif ended.status < 0:
        yield f"killed by signal {-ended.status}"
    elif "Traceback (most recent call last)" in ended.said:
        yield "a stack trace"
    elif ended.status and len(re.findall(r"^Error: |, unreadable: 1$", ended.said, re.MULTILINE)) != 1:
        yield "not one error"


def attempt(trials: Trials, line: Sequence[str], kind: str, call: int, expected: dict[str, str]) -> list[str]:
    """Fails one call of a command, and runs it again if it failed; what was wrong."""
    trials.restore()
    ended = trials.run(line, kind, call)
    found = [*judged(ended), *half_written(trials.work)]
    if line[:2] != ("train", "--resume"):
        found += lost(trials.work, trials.kept)
    found += undecided(trials.work, trials.answers())
    if ended.status == 0:  # what is there need not be made twice
        if differing := _differences(results(trials.work), expected):
            found.append(f"succeeded with other results: {differing}")
    elif (again := trials.run(line)).status != 0:
        found.append(f"the same command failed afterwards: {again.said.strip()[-300:]}")
    elif differing := _differences(results(trials.work), expected):
        found.append(f"the same command had other results afterwards: {differing}")
    outcome = GOOD[ended.status != 0]
    log.info("%s %d: %s, %s", kind, call, ended.failed, "; ".join(found) or outcome)
    if found:
        log.info("%s", ended.said.strip()[-1500:])
    return found or [outcome]


def power_cuts(trials: Trials, line: Sequence[str], number: int, again: int) -> Counter[str]:
    """Records a command, and lets the power go after one of its calls and another; what was found of what is left.

    Args:
        number: of places, spread evenly over the calls, and always the last; 0: each.
        again: of how many of the states that are left the command is run again, spread evenly too.
    """
    trials.restore()
    ended = trials.run(line, POWER)
    if ended.status != 0:
        raise UserError(f"{' '.join(line)} failed without a fault:\n{ended.said}")
    whole, answers = trials.home / "whole", trials.answers()
    shutil.rmtree(whole, ignore_errors=True)
    trials.work.rename(whole)
    expected = results(whole)
    places = sorted({*range(1, ended.calls, max(1, ended.calls // number) if number else 1), ended.calls})
    every = max(1, 4 * len(places) // again) | 1  # odd, so that each of the four outcomes has its turn
    outcomes: Counter[str] = Counter()
    made = states(trials.work, trials.kept, trials.record / "log", trials.work, places)
    for count, (place, state) in enumerate(made):
        # The cache is made anew, and of a decision that was not answered yet a part may be there, as readers say.
        damaged = [one for one in half_written(trials.work) if not one.startswith(("cache/", "photos/"))]
        found = [one for one in damaged if not one.startswith(tuple(unfinished_tables(trials.work)))]
        found += unfinished(trials.work, whole, trials.kept)
        found += undecided(trials.work, [one for one in answers if one[1] <= place])
        outcome = "whole"
        if place == ended.calls and (missing := _differences(results(trials.work), expected)):
            found.append(f"was done, but is not on disk: {missing}")
        if count % every == 0 or len(found) < len(damaged):
            after = trials.run(line)
            found += judged(after)
            if after.status == 0:
                found += [*half_written(trials.work), *undecided(trials.work, trials.answers())]
            outcome = GOOD[after.status != 0]
            if after.status == 0 and (differing := _differences(results(trials.work), expected)):
                found.append(f"other results afterwards: {differing}")
            if found or after.status:
                log.info("%s", after.said.strip()[-1500:])
        if found:
            log.info("power after %d of %d, %s: %s", place, ended.calls, state, "; ".join(found))
        outcomes[found[0] if found else outcome] += 1
        shutil.rmtree(trials.work)
    trials.work.mkdir()
    return outcomes


def _differences(found: dict[str, str], expected: dict[str, str]) -> list[str]:
    return sorted(name for name in found.keys() | expected.keys() if found.get(name) != expected.get(name))


def compiled(folder: Path) -> Path:
    """The library.

    Raises:
        UserError: there is no compiler, or no system that preloads libraries.
    """
    library = folder / "faults.so"
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None or sys.platform != "linux":
        raise UserError("what=[faults] needs Linux and a C compiler, for example: apt install gcc")
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", library, SOURCE, "-ldl"], check=True)
    return library


def measure_faults(number: int, names: Sequence[str] = tuple(COMMANDS)) -> dict[str, dict[str, float]]:
    """For each command: the share of faults that ended in one clear error or a success, with nothing lost or damaged.

    Args:
        number: of faults for each command and kind, spread evenly over its calls; 0: every call.
    """
    rows: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        # A fork has none of the threads that OpenMP counts on.
        os.environ |= {"LD_PRELOAD": str(compiled(Path(folder))), "OMP_NUM_THREADS": "1"}
        STARTER.set_forkserver_preload(PRELOADED)
        trials = Trials(Path(folder), Path(folder))
        for name in names:
            line, before = COMMANDS[name]
            trials.begin(before)
            whole = trials.run(line)
            if whole.status != 0:
                raise UserError(f"{name} failed without a fault:\n{whole.said}")
            expected = results(trials.work)
            outcomes: Counter[str] = Counter()
            for kind in KINDS:
                trials.restore()
                calls = trials.run(line, kind).calls
                step = max(1, calls // number) if number else 1
                for call in range(1 + step // 2 if number else 1, calls + 1, step):
                    outcomes[attempt(trials, line, kind, call, expected)[0]] += 1
            rows[name] = _row(outcomes)
            rows[f"{name}, power cut"] = _row(power_cuts(trials, line, 10 * number, max(1, number)))
    del os.environ["LD_PRELOAD"]
    return rows


def _row(outcomes: Counter[str]) -> dict[str, float]:
    tried = outcomes.total()
    good = {name: outcomes[name] for name in GOOD}
    return {"value": sum(good.values()) / tried, "faults": tried, **good}

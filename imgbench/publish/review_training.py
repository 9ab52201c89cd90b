"""Training again with what people have decided, while they go on deciding."""

import json
import logging
import shlex
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from imgbench.data.corrections import drawn_by_chance
from imgbench.errors import UserError
from imgbench.evaluation.predictions import Predictions
from imgbench.evaluation.statistics import Change
from imgbench.experiment.build import build_data_of
from imgbench.experiment.compose import compose, new_directory, override, slug
from imgbench.experiment.cross_validation import train_and_test
from imgbench.experiment.train import resolve, train
from imgbench.number import group_codes, share
from imgbench.publish.review_images import ReviewedImages
from imgbench.report.conclude import conclude
from imgbench.run import Run

log = logging.getLogger(__name__)


Compare = Callable[[Run, Run, bool], Change | None]  # with the labels of now, or those before


def first_training(images: ReviewedImages) -> list[str]:
    """The words of `imgbench train` that make a run of the photographs that have labels."""
    return [str(images.table.root), "model=pretrained", "data.split.folds=5"]


class Training:
    """At most one at a time; `state` is what the page shows of the last."""

    def __init__(self, images: ReviewedImages, compare: Compare) -> None:
        self.images, self.compare = images, compare
        self._lock = threading.Lock()
        self._state: dict[str, Any] = {"status": "idle"}
        self._run: Run | None = None  # that is made
        self._process: subprocess.Popen[bytes] | None = None

    def state(self) -> dict[str, Any]:
        state, run = dict(self._state), self._run
        if state["status"] == "running":
            state["seconds"] = round(time.monotonic() - state.pop("since"))
            if state["whole"] and run is not None and (run.path / "config.yaml").is_file():
                state |= {"epoch": run.epochs, "epochs": run.config["trainer"]["max_epochs"]}
        return state

    def start(self, whole: bool) -> None:
        """Begins in the background, where none is under way.

        Args:
            whole: the network, and not its last layer alone.

        Raises:
            UserError: there is nothing to train, or one is under way.
        """
        if self.images.run is None and not self.images.names_classes:
            raise UserError("A folder has no run to train again. Train one: imgbench train DIR")
        if self.images.run is not None and not whole and not self.images.frozen:
            raise UserError("The network was trained as a whole, and not its last layer alone.")
        with self._lock:
            if self._state["status"] == "running":
                raise UserError("A training is under way.")
            self._state = {"status": "running", "whole": whole, "since": time.monotonic()}
        threading.Thread(target=self._train, args=(self.images.run, whole), daemon=True).start()

    def stop(self) -> None:
        """Ends a process that is training."""
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            self._process.wait()

    def _train(self, base: Run | None, whole: bool) -> None:
        try:
            name = slug(self.images.table.root.resolve().name)
            place = (Path("outputs") / name / "pretrained" / "begun") if base is None else base.path
            place = place.with_name(time.strftime("%Y-%m-%d_%H-%M-%S"))
            self._run = run = Run(Path(new_directory(str(place))))
            if base is None:
                self._train_first(run)
                self._state = {"status": "done", "whole": whole, "run": str(run.shown), **self._accuracies(run)}
                return
            self._train_whole(base, run) if whole else self._solve(base, run)
            found = self.compare(base, run, True)
            if found is None:
                raise UserError("Nothing has changed: it was trained with these very labels.")
            state: dict[str, Any] = {"status": "done", "whole": whole, "run": str(run.shown), "after": asdict(found)}
            if run.info.get("corrections", {}).get("test_classes_before"):
                before = self.compare(base, run, False)
                state["before"] = before and asdict(before)
            self._state = state
        except UserError as error:
            self._state = {"status": "failed", "whole": whole, "message": str(error)}
        except Exception as error:
            log.exception("Training again failed.")
            self._state = {"status": "failed", "whole": whole, "message": f"{type(error).__name__}: {error}"}

    def _train_first(self, run: Run) -> None:
        """Tests every photograph, since there are few of them."""
        words = first_training(self.images)
        config = compose(words)
        config.data.corrections = self.images.data.corrections
        run.path.mkdir(parents=True)
        with run.recorded(command=shlex.join(["python", "-m", "imgbench.train", *words])):
            train_and_test(config, run, conclude)

    def _accuracies(self, run: Run) -> dict[str, Any]:
        """On all images, and on those that were drawn by chance."""
        predictions = Predictions.read_csv(run.path / "predictions.csv")
        content = {row["path"]: row["hash"] for row in run.split_rows()}
        rows = self.images.decisions().decisions.rows
        drawn = drawn_by_chance([content[path] for path in predictions.paths], rows)
        right, codes = predictions.predicted == predictions.targets, group_codes(predictions.groups)
        of_drawn = share(right, drawn, codes).of_networks(run.folds or 1) if drawn.any() else None
        whole = json.loads((run.path / "metrics.json").read_text("utf-8"))["test/acc"]
        return {"accuracy": whole, "accuracy_drawn": of_drawn and of_drawn.to_dict()}

    def _solve(self, base: Run, run: Run) -> None:
        """As `imgbench train` does with this configuration, of the images in the very splits of the run."""
        config = override(base)
        config.data.corrections = self.images.data.corrections
        config.data.audit = False  # which finds what it found before
        config.report.learning_curve = False
        experiment = resolve(config, build_data_of(base, config))
        if base.holds(experiment.fingerprint):
            raise UserError("Nothing has changed: it was trained with these very labels.")
        run.path.mkdir(parents=True)
        again = ["python", "-m", "imgbench.train", "--config-dir", str(base.shown), "--config-name", "config"]
        with run.recorded(command=shlex.join(again)):
            if base.folds:
                train_and_test(config, run, conclude)
            else:
                train(experiment, run, conclude)

    def _train_whole(self, base: Run, run: Run) -> None:
        words = ["--config-dir", str(base.path), "--config-name", "config", f"hydra.run.dir={run.path.resolve()}"]
        if self.images.frozen:
            words.append("model=finetuned")
        if self.images.data.corrections is not None:
            words.append(f"data.corrections={self.images.data.corrections}")
        with tempfile.TemporaryFile() as said:
            line = [sys.executable, "-m", "imgbench.train", *words]
            self._process = subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=said)
            if self._process.wait():
                said.seek(0)
                text = said.read().decode("utf-8", "replace").strip()
                raise UserError(text.rpartition("Error: ")[2][-1000:] or "The training was ended.")

"""The methods of compression: each a dataclass with its options, that makes a smaller run of a run.

The command line of `imgbench.compress` is made of what stands here. Torch is imported when a method is applied.
"""

import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, is_dataclass
from pathlib import Path
from typing import Any, Protocol

from imgbench.compression.target import Target
from imgbench.errors import UserError
from imgbench.experiment.compose import override
from imgbench.files import sha256
from imgbench.run import Run

MOST_CHANNELS = 0.95  # may be removed: more leaves no network
INTERMEDIATE = "intermediate"  # where the runs of the methods before the last lie, in the directory of the last
FEWEST_CALIBRATION = 32  # images; with fewer, the range of an activation is an accident


class Method(Protocol):
    """How a smaller run is made of a run; its fields are its options, made by `option`."""

    def apply(self, parent: Run, run: Run, words: Sequence[str]) -> dict[str, Any]:
        """Leaves a complete run in the directory `run`; returns what was done, for the `facts` of `run.json`.

        Args:
            words: `key=value` words that override the parent's configuration.

        Raises:
            UserError: the method cannot be applied to this parent, or a target cannot be met.
        """
        ...


def option(text: str, default: Any = None) -> Any:
    """A field that is an option of the command line as well: its help text stands in the field's metadata."""
    return field(default=default, metadata={"help": text})


@dataclass(frozen=True)
class Train:
    """Trains the model that key=value words choose on RUN's images, and else as RUN was trained."""

    def apply(self, parent: Run, run: Run, words: Sequence[str]) -> dict[str, Any]:
        from imgbench.compression.retrain import retrain

        retrain(override(parent, words), parent, run)
        return {"words": list(words)}


@dataclass(frozen=True)
class Reuse:
    """Puts another head, such as model=vgg16 head=gap, on the body that RUN trained, and trains
    both on: a fifth of RUN's epochs, at its learning rate. Where RUN has another body, all is
    trained anew."""

    def apply(self, parent: Run, run: Run, words: Sequence[str]) -> dict[str, Any]:
        from imgbench.compression.retrain import reuse

        return reuse(parent, run, words)


@dataclass(frozen=True)
class Distill:
    """Trains another model, the student, to answer as RUN does: choose it with model=compact. Its
    epochs and its learning rate are RUN's, unless RUN began with pretrained weights."""

    temperature: float | None = option("softens teacher and student (default: 4)")
    alpha: float | None = option("weight of the teacher, the labels have the rest (default: 0.9)")
    unlabelled: str | None = option("a folder of further images: what RUN says of them is learnt as well")

    def __post_init__(self) -> None:
        if self.temperature is not None and not self.temperature > 0:
            raise UserError(f"--temperature {self.temperature}, but it is above 0.")
        if self.alpha is not None and not 0 <= self.alpha <= 1:
            raise UserError(f"--alpha {self.alpha}, but it lies between 0 (labels only) and 1 (teacher only).")

    def apply(self, parent: Run, run: Run, words: Sequence[str]) -> dict[str, Any]:
        from imgbench.compression.retrain import retrain

        known = {"temperature": self.temperature, "alpha": self.alpha}
        own = [f"objective.{name}={value}" for name, value in known.items() if value is not None]
        if parent.config["model"].get("pretrained"):  # which takes few epochs, of small steps
            own += ["trainer.max_epochs=null", "optimizer.lr=null"]
        config = override(parent, ["objective=distill", *own, *words])
        if self.unlabelled is not None:
            config.data.unlabelled = str(Path(self.unlabelled).expanduser().resolve())
        config.objective.teacher = str(weights_file(parent).resolve())
        retrain(config, parent, run)
        return {name: config.objective[name] for name in ("teacher", "temperature", "alpha")}


@dataclass(frozen=True)
class Prune:
    """Removes channels in steps and fine-tunes after each: a fifth of RUN's epochs, a tenth of its
    learning rate, falling to zero. --unstructured sets single weights to zero instead, which makes
    nothing faster."""

    amount: float | None = option(
        "share of each layer's channels to remove (default: 0.5), or with --unstructured of its weights (default: 0.3)"
    )
    target: Target | None = option(  # noqa: RUF009 a field, as the others
        '"size<=2MB", "latency<=10ms" (one image on this machine), "drop<=1pt" (points of '
        "validation accuracy), or several joined by commas"
    )
    steps: int | None = option("removals, each with fine-tuning (default: 2, with a target 3 or more)")
    unstructured: bool = option("single weights instead of channels", default=False)

    def __post_init__(self) -> None:
        if self.unstructured and (self.target is not None or self.steps is not None):
            raise UserError("--unstructured takes --amount; --target and --steps are for channels.")
        if self.target is not None and self.amount is not None:
            raise UserError("--target finds the amount by itself: leave out --amount or --target.")
        if self.steps is not None and self.steps < 1:
            raise UserError(f"--steps {self.steps}, but it is 1 or more.")
        if self.amount is None:
            return
        if self.unstructured and not 0 < self.amount < 1:
            raise UserError(f"--amount {self.amount}, but weights are pruned by a share between 0 and 1.")
        if not self.unstructured and not 0 < self.amount <= MOST_CHANNELS:
            raise UserError(
                f"--amount {self.amount}, but channels are pruned by a share above 0 and at most {MOST_CHANNELS}."
            )

    def apply(self, parent: Run, run: Run, words: Sequence[str]) -> dict[str, Any]:
        from imgbench.compression.finetune import prune_channels, prune_weights

        return (prune_weights if self.unstructured else prune_channels)(self, parent, run, words)


@dataclass(frozen=True)
class Quantize:
    """Writes int8 for onnxruntime: model.onnx, calibrated on RUN's training images. It comes last."""

    max_drop: float | None = option(
        "points of validation accuracy that may be lost; layers that lose more stay in float (default: no bound)"
    )
    calibration: int = option("training images to calibrate on (default: 200)", default=200)

    def __post_init__(self) -> None:
        if self.max_drop is not None and not self.max_drop >= 0:
            raise UserError(f"--max-drop {self.max_drop}, but it is a number of percentage points, 0 or more.")
        if self.calibration < FEWEST_CALIBRATION:
            raise UserError(
                f"--calibration {self.calibration}, but calibration needs at least {FEWEST_CALIBRATION} images: with "
                "fewer, the activations' ranges are an accident."
            )

    def apply(self, parent: Run, run: Run, words: Sequence[str]) -> dict[str, Any]:
        from imgbench.compression.quantize import quantize_run

        return quantize_run(self, parent, run, words)


METHODS = {"reuse": Reuse, "distill": Distill, "prune": Prune, "quantize": Quantize}


def name_of(method: Method) -> str:
    return type(method).__name__.lower()


def weights_file(run: Run) -> Path:
    """The checkpoint that a method starts from.

    Raises:
        UserError: the run has none, or is quantised.
    """
    if run.best.is_file():
        return run.best
    if (run.path / "model.onnx").is_file():
        raise UserError(
            f"{run.shown} is quantised: it has a model.onnx, and no checkpoint whose weights could be compressed "
            f"further. Start from the run it was made of: {run.info.get('compressed_from', {}).get('path', '?')}"
        )
    raise UserError(
        f"{run.shown} has no checkpoints/best.ckpt; its status is {run.info.get('status')!r}. "
        "Train it to the end of an epoch."
    )


def make_run(method: Method, parent: Run, run: Run, words: Sequence[str] = ()) -> None:
    """Applies a method to `parent`, and leaves a complete run in the directory `run`.

    A training that was cut off there goes on from its last checkpoint; of anything else that was, what is left is
    removed.

    Args:
        words: `key=value` words that override the parent's configuration.

    Raises:
        UserError: the method cannot be applied, or a target cannot be met.
    """
    source = {"path": str(parent.path.resolve()), "sha256": sha256(weights_file(parent))}
    run.path.mkdir(parents=True, exist_ok=True)
    goes_on = isinstance(method, Train | Reuse | Distill) and was_begun(method, parent, run, words)
    asked = _asked(method, words)
    with run.recorded(seed=parent.config["seed"], method=name_of(method), asked=asked, compressed_from=source):
        if not goes_on:
            _clear(run)
        run.note(facts=method.apply(parent, run, words))


def was_begun(method: Method, parent: Run, run: Run, words: Sequence[str]) -> bool:
    """Whether `run` was begun, or is finished, by the same method with the same options on the parent as it is now."""
    info = run.info if (run.path / "run.json").is_file() else {}
    same = (info.get("method"), info.get("asked")) == (name_of(method), _asked(method, words))
    return same and info["compressed_from"].get("sha256") == sha256(weights_file(parent))


def _asked(method: Method, words: Sequence[str]) -> dict[str, Any]:
    """The options and words of a method as `run.json` keeps them."""
    options = asdict(method) if is_dataclass(method) and not isinstance(method, type) else {}
    return json.loads(json.dumps({"options": options, "words": list(words)}))


def _clear(run: Run) -> None:
    """Removes what was left by a method that was cut off, but for what it was made of."""
    for entry in run.path.iterdir():
        if entry.is_dir() and entry.name != INTERMEDIATE:
            shutil.rmtree(entry)
        elif entry.is_file() and entry.name != "run.json":
            entry.unlink()

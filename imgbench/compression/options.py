"""The methods of compression: each a dataclass, whose fields are the options of the command line.

`apply` does the work; here, torch is not needed.
"""

from dataclasses import dataclass
from pathlib import Path

from imgbench.compression.target import Target
from imgbench.errors import UserError

MOST_CHANNELS = 0.95  # may be removed: more leaves no network
FEWEST_CALIBRATION = 32  # images; with fewer, the range of an activation is an accident


@dataclass(frozen=True)
class Train:
    """Trains the model that key=value words choose on RUN's images, and else as RUN was trained."""


@dataclass(frozen=True)
class Reuse:
    """Puts another head, such as model=vgg16 head=gap, on the layers that RUN trained, and trains
    all of them for a fifth of RUN's epochs, at its learning rate. Where RUN has other layers, the
    model is trained from new weights."""


@dataclass(frozen=True)
class Distill:
    """Trains another model, the student, to predict what RUN predicts: choose it with model=compact.
    Its epochs and its learning rate are RUN's, unless RUN began with pretrained weights.

    Args:
        temperature: softens the predictions of teacher and student (default: 4).
        alpha: weight of the teacher; that of the labels is 1 - alpha (default: 0.9).
        unlabelled: a folder of further images, for which the student learns RUN's predictions as well.
    """

    temperature: float | None = None
    alpha: float | None = None
    unlabelled: str | Path | None = None

    def __post_init__(self) -> None:
        if self.temperature is not None and not self.temperature > 0:
            raise UserError(f"--temperature {self.temperature}, but it must be above 0.")
        if self.alpha is not None and not 0 <= self.alpha <= 1:
            raise UserError(f"--alpha {self.alpha}, but it must lie between 0 (labels only) and 1 (teacher only).")


@dataclass(frozen=True)
class Prune:
    """Removes channels in steps and fine-tunes after each: a fifth of RUN's epochs, a tenth of its
    learning rate, falling to zero. --unstructured sets single weights to zero instead, which makes
    nothing faster.

    Args:
        amount: share of each layer's channels to remove (default: 0.5), or with --unstructured of its weights
            (default: 0.3).
        target: "size<=2MB", "latency<=10ms" (one image on this machine), "drop<=1pt" (percentage points of validation
            accuracy), or several joined by commas.
        steps: removals, each with fine-tuning (default: 2, with a target 3 or more).
        unstructured: single weights instead of channels.
    """

    amount: float | None = None
    target: Target | None = None
    steps: int | None = None
    unstructured: bool = False

    def __post_init__(self) -> None:
        if self.unstructured and (self.target is not None or self.steps is not None):
            raise UserError("--unstructured takes --amount; --target and --steps are for channels.")
        if self.target is not None and self.amount is not None:
            raise UserError("--target finds the amount: leave out --amount or --target.")
        if self.steps is not None and self.steps < 1:
            raise UserError(f"--steps {self.steps}, but at least 1 is needed.")
        if self.amount is None:
            return
        if self.unstructured and not 0 < self.amount < 1:
            raise UserError(f"--amount {self.amount}, but weights are pruned by a share between 0 and 1.")
        if not self.unstructured and not 0 < self.amount <= MOST_CHANNELS:
            raise UserError(
                f"--amount {self.amount}, but channels are pruned by a share above 0 and at most {MOST_CHANNELS}."
            )


@dataclass(frozen=True)
class Quantize:
    """Writes int8 for onnxruntime: model.onnx, calibrated on RUN's training images. It comes last.

    Args:
        max_drop: percentage points of validation accuracy that may be lost; the layers that lose most
            stay in float, and where that does not help, nothing is written.
        calibration: number of training images to calibrate on.
    """

    max_drop: float = 1.0
    calibration: int = 200

    def __post_init__(self) -> None:
        if not self.max_drop >= 0:
            raise UserError(f"--max-drop {self.max_drop}, but it is a number of percentage points, 0 or more.")
        if self.calibration < FEWEST_CALIBRATION:
            raise UserError(
                f"--calibration {self.calibration}, but calibration needs at least {FEWEST_CALIBRATION} images: with "
                "fewer, the ranges of the activations depend on chance."
            )


Method = Train | Reuse | Distill | Prune | Quantize
METHODS = {"reuse": Reuse, "distill": Distill, "prune": Prune, "quantize": Quantize}


def name_of(method: Method) -> str:
    return type(method).__name__.lower()

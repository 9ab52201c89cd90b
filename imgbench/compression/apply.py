"""Applying a method of compression: a smaller run is made of a run."""

from collections.abc import Sequence
from typing import Any

from imgbench.compression.distill import distill, reuse, train_another
from imgbench.compression.lifecycle import asked, fingerprint, weights_file
from imgbench.compression.options import Distill, Method, Prune, Quantize, Reuse, Train, name_of
from imgbench.compression.prune import prune_channels, prune_weights
from imgbench.compression.quantize import quantize_run
from imgbench.files import sha256
from imgbench.run import Run


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
    goes_on = isinstance(method, Train | Reuse | Distill) and run.holds(fingerprint(method, parent, words))
    facts = {"method": name_of(method), "asked": asked(method, words), "compressed_from": source}
    with run.recorded(seed=parent.config["seed"], **facts):
        if not goes_on:
            run.forget_all()
        run.note(facts=_applied(method, parent, run, words))


def _applied(method: Method, parent: Run, run: Run, words: Sequence[str]) -> dict[str, Any]:
    """Leaves a complete run in the directory `run`; returns what was done, for the `facts` of `run.json`."""
    match method:
        case Train():
            return train_another(parent, run, words)
        case Reuse():
            return reuse(parent, run, words)
        case Distill():
            return distill(method, parent, run, words)
        case Prune(unstructured=True):
            return prune_weights(method, parent, run, words)
        case Prune():
            return prune_channels(method, parent, run, words)
        case Quantize():
            return quantize_run(method, parent, run, words)

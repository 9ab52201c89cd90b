"""Writes the classifier of a run as an ONNX file for use elsewhere, and compares it with the run on real images."""

import argparse
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imgbench.cli import guarded_main, run_parser
from imgbench.errors import UserError
from imgbench.run import Run, write_atomically

if TYPE_CHECKING:
    import numpy as np

EXAMPLES = """examples:
  python -m imgbench.export outputs/potato/vgg16/2026-01-31_12-00-00
  python -m imgbench.export RUN --output classifier.onnx --images 50
"""
BATCH = 16


def photographs(run: Run, number: int) -> list[Path]:
    """At most `number` images of the run's test split, evenly from the whole list, so of all classes.

    Raises:
        UserError: they are no longer there.
    """
    root = Path(run.config["data"]["root"])
    rows = run.split_rows("test")
    chosen = [rows[i * len(rows) // min(number, len(rows))] for i in range(min(number, len(rows)))]
    missing = [row["path"] for row in chosen if not (root / row["path"]).is_file()]
    if missing:
        raise UserError(
            f"{len(missing)} test images of {run.shown} are no longer in {root}, for example {missing[0]}.\n"
            "Put them back, or export without comparing: --images 0"
        )
    return [root / row["path"] for row in chosen]


def compare(exported: Callable[["np.ndarray"], "np.ndarray"], checkpoint: Path, paths: list[Path]) -> dict[str, Any]:
    """How far the exported function (uint8 (N, size, size, 3) -> probabilities) is from the checkpoint on these images.

    The file gets what a deployment would give it: the first images one by one, then all in batches.
    """
    import numpy as np

    from imgbench.inference.inputs import decode_batches
    from imgbench.inference.predictor import Predictor

    predictor = Predictor.load(checkpoint)
    expected, errors = predictor.probabilities(paths)
    if errors:
        index, reason = next(iter(errors.items()))
        raise UserError(f"{paths[index]} cannot be decoded ({reason}), so that nothing can be compared on it.")
    batches = decode_batches(paths, predictor.preprocessing)
    pixels = np.concatenate([images.permute(0, 2, 3, 1).numpy() for _, images, _ in batches])
    single = np.concatenate([exported(pixels[i : i + 1]) for i in range(min(len(pixels), BATCH))])
    batched = np.concatenate([exported(pixels[i : i + BATCH]) for i in range(0, len(pixels), BATCH)])
    difference = max(np.abs(single - expected[: len(single)]).max(), np.abs(batched - expected).max())
    return {
        "images": len(paths),
        "top1_agreement": float((batched.argmax(1) == expected.argmax(1)).mean()),
        "largest_difference": float(difference),
    }


def export(args: argparse.Namespace) -> int:
    """Writes the file beside its place and compares it there; only one that agrees is put in place. The exit code."""
    from imgbench.inference.onnx_file import OnnxModel, write_onnx
    from imgbench.training.checkpoint import load_classifier

    run = Run.open(args.run)
    checkpoint = Path(args.run) if Path(args.run).suffix == ".ckpt" else run.best
    if not checkpoint.is_file():
        found = "its model is an ONNX file already" if run.model else "it was not trained to the end of an epoch"
        raise UserError(f"{run.shown} has no checkpoints/best.ckpt to export: {found}.")
    output = Path(args.output or run.path / "model.onnx")
    if output.suffix != ".onnx":
        raise UserError(f"--output {output} should end in .onnx.")
    paths = photographs(run, args.images) if args.images else []
    classifier = load_classifier(checkpoint)
    unfinished = output.with_name(f".{os.getpid()}-{output.name}")
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        write_onnx(classifier, unfinished)
        exported = OnnxModel(unfinished).run
        facts: dict[str, Any] = {"file": str(output), "tolerance": args.tolerance}
        if paths:
            facts |= compare(exported, checkpoint, paths)
            print(describe(facts))
            if not facts["largest_difference"] <= args.tolerance:  # so that NaN fails too
                print(
                    f"\nError: the exported file disagrees with the run by more than --tolerance {args.tolerance:g}; "
                    f"it was deleted, and {output} is as it was before.",
                    file=sys.stderr,
                )
                return 1
        del exported  # which holds the file open
        facts["bytes"] = unfinished.stat().st_size
        unfinished.replace(output)
    except OSError as error:
        raise UserError(f"--output {output} cannot be written: {error.strerror}.") from error
    finally:
        unfinished.unlink(missing_ok=True)
    write_atomically(run.path / "export.json", json.dumps(facts, indent=2, ensure_ascii=False) + "\n")
    print(f"Written  {output} ({facts['bytes'] / 1e6:.1f} MB)")
    return 0


def describe(facts: dict[str, Any]) -> str:
    """What the comparison found, in a line."""
    return (
        f"Compared on {facts['images']} test images: top-1 agreement {100 * facts['top1_agreement']:.2f} %, "
        f"largest probability difference {facts['largest_difference']:.2g}"
    )


def main() -> int:
    parser = run_parser("export", __doc__, EXAMPLES)
    parser.add_argument("--output", metavar="FILE", help="where to (default: RUN/model.onnx)")
    parser.add_argument(
        "--images", type=int, default=500, metavar="N", help="compare on at most N test images (default: 500; 0: none)"
    )
    parser.add_argument(
        "--tolerance", type=float, default=1e-3, metavar="P",
        help="largest difference of a probability that is taken for rounding (default: 0.001)",
    )  # fmt: skip
    args = parser.parse_args()
    if args.images < 0:
        parser.error(f"--images {args.images}, but it should be 0 or more")
    if not args.tolerance > 0:
        parser.error(f"--tolerance {args.tolerance}, but it should be above 0")
    return export(args)


if __name__ == "__main__":
    guarded_main(main)

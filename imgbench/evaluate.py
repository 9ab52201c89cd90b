"""Evaluates a run on its own split, or on another folder of labelled images."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imgbench.cli import guarded_main, run_parser
from imgbench.errors import UserError
from imgbench.run import Run

if TYPE_CHECKING:
    from imgbench.inference.predictor import Predictor

EXAMPLES = """examples:
  python -m imgbench.evaluate outputs/digits/cnn/2026-01-31_12-00-00
  python -m imgbench.evaluate outputs/digits/cnn/2026-01-31_12-00-00 --split val
  python -m imgbench.evaluate model.ckpt --data "/photos from the field"
"""


def labelled_files(
    args: argparse.Namespace, class_names: list[str]
) -> tuple[Path, list[str], list[int], dict[str, str]]:
    """Root, relative paths, class indices, and content hashes (where known) of the images to evaluate on."""
    if args.data is not None:
        return *folder_files(args.data, args.split, class_names), {}
    run = Run.open(args.run)
    root = Path(run.config["data"]["root"])
    split = "test" if args.split == "val" and run.info.get("selected_on_test") else args.split
    rows = run.split_rows(split)
    if not root.is_dir():
        raise UserError(f"The images of {run.shown} are no longer in {root}. Name their folder: --data DIR")
    hashes = {row["path"]: row["hash"] for row in rows}
    return root, list(hashes), [class_names.index(row["class"]) for row in rows], hashes


def folder_files(folder: str, split: str, class_names: list[str]) -> tuple[Path, list[str], list[int]]:
    """All images of a folder of class folders; of one with splits, those of `split`. Classes are matched by name."""
    from imgbench.data.layout import folder_that_would_do, setting
    from imgbench.data.scan import SPLIT_FOLDERS, SPLITS, scan

    found = scan(folder, option="--data", min_classes=1)
    unknown = [name for name in found.class_names if name not in class_names]
    if unknown:
        split_folder = next((found.root / name for name in unknown if name.lower() in SPLIT_FOLDERS), None)
        inner = split_folder or folder_that_would_do(found.root)
        mend = "rename or remove the folders" + (
            f", or name the one inside: {setting('--data', inner)}" if inner else ""
        )
        raise UserError(
            f"--data {folder} has classes the model does not know: {unknown}.\nIt knows {class_names}; {mend}."
        )
    rows = [i for i in range(len(found.paths)) if found.splits[i] in (-1, SPLITS.index(split))]
    if not rows:
        raise UserError("\n".join([f"--data {folder} has no images for --split {split}.", *found.notes]))
    indices = [class_names.index(found.class_names[found.labels[i]]) for i in rows]
    return found.root, [found.paths[i] for i in rows], indices


def evaluate(predictor: "Predictor", args: argparse.Namespace) -> int:
    """Prints the numbers, and with `--output` leaves predictions, metrics and pictures there; the exit code."""
    import numpy as np

    from imgbench.data.cache import digest
    from imgbench.evaluation.metrics import classification_metrics
    from imgbench.evaluation.predictions import Predictions
    from imgbench.evaluation.results import SELECTED_ON_TEST, write_results

    root, paths, targets, hashes = labelled_files(args, predictor.class_names)
    probabilities, errors = predictor.probabilities([root / path for path in paths])
    good = [i for i in range(len(paths)) if i not in errors]
    if not good:
        raise UserError(f"None of the {len(paths)} images in {root} can be decoded.")
    for i, reason in errors.items():
        print(f"Left out: {root / paths[i]} ({reason})")
    changed = [
        path
        for path, known in hashes.items()
        if (root / path).is_file() and digest((root / path).read_bytes()).hex() != known
    ]
    if changed:
        print(f"Note: {len(changed)} image(s) have changed since training, for example {changed[0]}")
    predictions = Predictions(
        [paths[i] for i in good],
        np.array([targets[i] for i in good], np.int64),
        probabilities[good],
        predictor.class_names,
    )
    selected_on_test = args.data is None and bool(predictor.provenance.get("selected_on_test"))
    if args.output:
        folder = Path(args.output)
        folder.mkdir(parents=True, exist_ok=True)
        metrics = write_results(folder, str(args.run), {args.split: predictions}, selected_on_test)
    else:
        metrics = classification_metrics(predictions, args.split)
    print(metrics_table(metrics, args.split, predictor.class_names))
    if selected_on_test:
        print(f"Note: {SELECTED_ON_TEST}.")
    if args.output:
        print(f"Written to {args.output}")
    return 1 if errors else 0


def metrics_table(metrics: dict[str, dict[str, Any]], split: str, class_names: list[str]) -> str:
    """Accuracy, macro F1, and a line per class, each with its interval."""
    from imgbench.evaluation.metrics import describe, unmeasured_classes

    width = max(len(name) for name in [*class_names, "macro F1"])
    lines = [
        f"{split} accuracy  {describe(metrics[f'{split}/acc'])}",
        f"{split} macro F1  {describe(metrics[f'{split}/macro_f1'])}",
    ]
    for kind in ("precision", "recall"):
        lines.append(f"\n{kind}")
        lines += [f"  {name:<{width}}  {describe(metrics[f'{split}/{kind}/{name}'])}" for name in class_names]
    if missing := unmeasured_classes(metrics, split):
        lines.append(
            f"\nNot measured, for want of images: {', '.join(missing)}. Macro F1 is that of the other classes."
        )
    return "\n".join(lines)


def main() -> int:
    parser = run_parser("evaluate", __doc__, EXAMPLES)
    parser.add_argument(
        "--split", default="test", choices=["test", "val", "train"], help="which images (default: test)"
    )
    parser.add_argument("--data", metavar="DIR", help="another folder with a folder for each class, matched by name")
    parser.add_argument("--output", metavar="DIR", help="write predictions, metrics and the confusion matrix there")
    args = parser.parse_args()
    from imgbench.inference.predictor import Predictor

    return evaluate(Predictor.load(args.run), args)


if __name__ == "__main__":
    guarded_main(main)

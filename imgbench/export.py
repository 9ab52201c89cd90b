"""Writes the classifier of a run as one file for use elsewhere, and compares it with the run on real images."""

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
  python -m imgbench.export RUN --format torch_export
"""
ENDINGS = {"onnx": ".onnx", "torch_export": ".pt2"}
BATCH = 16


def decode(path: Path, preprocessing: dict[str, Any]) -> tuple["np.ndarray", bool]:
    """(1, image_size, image_size, 3) uint8, as the README's script decodes a photograph, and whether it could.

    What that script does not treat, transparency and more than 8 bits, imgbench decodes.

    Raises:
        DecodeError: not an image, or a damaged one.
    """
    import numpy as np
    from PIL import Image, ImageOps

    from imgbench.preprocessing import open_image

    with Image.open(path) as file:
        plain = file.mode in ("1", "L", "P", "RGB", "CMYK", "YCbCr") and "transparency" not in file.info
        image = ImageOps.exif_transpose(file).convert("RGB") if plain else open_image(path)
    size, short = preprocessing["image_size"], preprocessing["short_side"] or preprocessing["image_size"]
    scaled = [short * side // min(image.size) for side in image.size] if preprocessing["short_side"] else [size, size]
    image = image.resize((scaled[0], scaled[1]), Image.Resampling.BILINEAR)
    left, top = (round((side - short) / 2) + round((short - size) / 2) for side in image.size)
    return np.asarray(image.crop((left, top, left + size, top + size)))[None], plain


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


def compare(
    exported: Callable[["np.ndarray"], "np.ndarray"], checkpoint: Path, paths: list[Path], preprocessing: dict[str, Any]
) -> dict[str, Any]:
    """How far the exported function (uint8 (N, size, size, 3) -> probabilities) is from the checkpoint on these images.

    The file gets what a deployment would give it: the first images one by one, then all in batches.
    """
    import numpy as np

    from imgbench.inference.predictor import Predictor

    expected, errors = Predictor.load(checkpoint).probabilities(paths)
    if errors:
        index, reason = next(iter(errors.items()))
        raise UserError(f"{paths[index]} cannot be decoded ({reason}), so that nothing can be compared on it.")
    decoded = [decode(path, preprocessing) for path in paths]
    pixels = np.concatenate([image for image, _ in decoded])
    single = np.concatenate([exported(pixels[i : i + 1]) for i in range(min(len(pixels), BATCH))])
    batched = np.concatenate([exported(pixels[i : i + BATCH]) for i in range(0, len(pixels), BATCH)])
    difference = max(np.abs(single - expected[: len(single)]).max(), np.abs(batched - expected).max())
    return {
        "images": len(paths),
        "decoded_by_imgbench": sum(not plain for _, plain in decoded),
        "top1_agreement": float((batched.argmax(1) == expected.argmax(1)).mean()),
        "largest_difference": float(difference),
    }


def export(args: argparse.Namespace) -> int:
    """Writes the file beside its place and compares it there; only one that agrees is put in place. The exit code."""
    from imgbench.compression.torch_export import load_torch_export, write_torch_export
    from imgbench.inference.onnx_file import OnnxModel, write_onnx
    from imgbench.inference.predictor import load_classifier

    run = Run.open(args.run)
    checkpoint = Path(args.run) if Path(args.run).suffix == ".ckpt" else run.best
    if not checkpoint.is_file():
        found = "its model is an ONNX file already" if run.model else "it was not trained to the end of an epoch"
        raise UserError(f"{run.shown} has no checkpoints/best.ckpt to export: {found}.")
    output = Path(args.output or run.path / f"model{ENDINGS[args.format]}")
    if output.suffix != ENDINGS[args.format]:
        raise UserError(f"--output {output} should end in {ENDINGS[args.format]}, as --format {args.format} does.")
    paths = photographs(run, args.images) if args.images else []
    classifier = load_classifier(checkpoint)
    unfinished = output.with_name(f".{os.getpid()}-{output.name}")
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        if args.format == "onnx":
            write_onnx(classifier, unfinished)
            exported = OnnxModel(unfinished).run
        else:
            write_torch_export(classifier, unfinished)
            exported = load_torch_export(unfinished)
        facts: dict[str, Any] = {"format": args.format, "file": str(output), "tolerance": args.tolerance}
        if paths:
            facts |= compare(exported, checkpoint, paths, classifier.hparams["preprocessing"])
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
    """What the comparison found, in a line or two."""
    lines = [
        f"Compared on {facts['images']} test images: top-1 agreement {100 * facts['top1_agreement']:.2f} %, "
        f"largest probability difference {facts['largest_difference']:.2g}"
    ]
    if facts["decoded_by_imgbench"]:
        lines.append(
            f"Note: {facts['decoded_by_imgbench']} of them have transparency or more than 8 bits; "
            "decode such files as imgbench.preprocessing.to_rgb does."
        )
    return "\n".join(lines)


def main() -> int:
    parser = run_parser("export", __doc__, EXAMPLES)
    parser.add_argument("--format", default="onnx", choices=list(ENDINGS), help="kind of file (default: onnx)")
    parser.add_argument("--output", metavar="FILE", help="where to (default: RUN/model.onnx or RUN/model.pt2)")
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

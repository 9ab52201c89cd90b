"""Names the class of images: files, folders and patterns, from one photograph to whole collections."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from imgbench.cli import add_options, add_photographs, check_max_error, guarded_main, run_parser
from imgbench.data.collection import Collection
from imgbench.errors import UserError

EXAMPLES = """examples:
  python -m imgbench.predict outputs/potato/vgg16/2026-01-31_12-00-00 "leaf 1 (108).jpg"
  python -m imgbench.predict RUN photos/ more/*.png --top-k 3
  python -m imgbench.predict RUN photos/ --output predictions.csv --save-images predictions/
  python -m imgbench.predict RUN photos/ --max-error 0.02
  python -m imgbench.predict RUN photos/ --sets 0.95
  python -m imgbench.predict RUN photos/ --output predictions.parquet
  python -m imgbench.predict RUN photos/ --max-error 0.02 --sort-into sorted/
  python -m imgbench.predict RUN "photos-{000000..000999}.tar" --output predictions.csv --launcher ray

With --output or --sort-into, any number of photographs is classified in little memory, and the results are written as
they come. Interrupted at any time, the same command continues where it stopped and ends with the same file. New
photographs are added. Files that have changed since, or that could not be read, are tried again, and sorted again: an
old link is removed, and an old copy is moved to DIR/outdated. Results of different models are never mixed. A file that
cannot be read gets a row with the reason. FILE.csv grows beside FILE.csv.source.json, which says what it is of. The
other formats are made of such a file at the end.

What --max-error and --sets promise holds for photographs like those of validation: python -m imgbench.drift watches
whether they still are.

--sort-into makes symbolic links by default: a million photographs take no room, and no photograph is touched. They lead
nowhere once the photographs are moved or sent elsewhere; Windows makes them in developer mode only, USB sticks never.
--copy is for these. --move takes the photographs out of their folders; the column `placed` of the table says where
each one went. Exit status 1 says that something, named at the end, could not be read or sorted.
"""


def predict(
    run: str | Path,
    images: Sequence[str | Path],
    top_k: int = 1,
    output: Path | None = None,
    save_images: Path | None = None,
    max_error: float | None = None,
    sort_into: Path | None = None,
    how: Literal["link", "copy", "move"] = "link",
    sets: float | None = None,
    launcher: Literal["ray"] | None = None,
) -> int:
    """Prints the class of each image, or writes it to files; returns how much could not be read or sorted.

    Args:
        run: a run directory, a checkpoint or an ONNX file.
        images: files, folders (searched with sub-folders), patterns and shards.
        top_k: print this many of the most probable classes.
        output: write all probabilities to this file, which ends in .csv, .parquet, .xlsx or .json, instead of printing.
        save_images: write each image under its prediction into this directory.
        max_error: a share such as 0.02; call predictions unsure, so that of the others at most this share is wrong,
            with 95 % confidence.
        sort_into: make a link to each photograph in this directory, in a folder for its class or in unsure/; the
            table lies in predictions.csv there.
        how: what the photographs are put there as.
        sets: a share such as 0.95; name all classes that cannot be ruled out, so that of the photographs of each class
            this share has it among them.
        launcher: "ray": compute on the cluster that RAY_ADDRESS names, or else on one that is started here; the rows
            are the same.

    Raises:
        UserError: no such model or images, the results cannot be written, or the run cannot promise `max_error`.
    """
    check_max_error(max_error)
    if sets is not None and not 0 < sets < 1:
        raise UserError(f"--sets {sets:g}, but it is a share above 0 and below 1, such as 0.95 for 95 %.")
    # Repeated, a command that moves photographs finds fewer of them, or none.
    moved = sort_into is not None and how == "move" and (output or sort_into / "predictions.csv").exists()
    collection = Collection([str(image) for image in images], may_be_gone=moved)
    from imgbench.inference.classify import classify  # takes seconds, and --help needs no torch

    return classify(run, collection, top_k, output, save_images, max_error, sort_into, how, sets, launcher)


def main() -> int:
    parser = run_parser("predict", __doc__, EXAMPLES)
    add_photographs(parser, "images", "IMAGE")
    add_options(parser, predict, leave_out=["how"])
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--copy", dest="how", action="store_const", const="copy", help="copies instead of links")
    how.add_argument("--move", dest="how", action="store_const", const="move", help="move the photographs instead")
    parser.set_defaults(how="link")
    args = parser.parse_args()
    if args.how != "link" and not args.sort_into:
        parser.error(f"--{args.how} says how to sort; name the folder: --sort-into DIR")
    if args.top_k < 1:
        parser.error(f"--top-k {args.top_k}, but it should be 1 or more")
    return 1 if predict(**vars(args)) else 0


if __name__ == "__main__":
    guarded_main(main)

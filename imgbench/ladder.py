"""Makes ever smaller classifiers from a run, and measures all of them on the same images in the same runtime.

They are other architectures, pruned, quantised and distilled networks, and combinations of these. Each is a run
directory below PATH. Repeated, an interrupted command continues with the entries that are not finished.
"""

from collections.abc import Sequence
from pathlib import Path

from imgbench.cli import add_options, guarded_main, output_directory, run_parser
from imgbench.compression.lifecycle import weights_file
from imgbench.compression.plan import PLAN, select_entries
from imgbench.compression.target import Target
from imgbench.errors import UserError
from imgbench.progress import loading
from imgbench.run import Run

EXAMPLES = f"""entries:
  {", ".join(entry.name for entry in PLAN[:7])},
  {", ".join(entry.name for entry in PLAN[7:])}

examples:
  python -m imgbench.ladder outputs/potato/vgg16/2026-01-31_12-00-00
  python -m imgbench.ladder RUN --only distilled,distilled_int8 trainer.max_epochs=20
  python -m imgbench.ladder RUN --reference RUN_AT_224_PIXELS --target "size<=2MB,drop<=1pt"

key=value words override RUN's configuration in the entries that are trained; an entry that was
made with other words is refused.
"""


def ladder(
    run: Run,
    output: Path | None = None,
    only: Sequence[str] | None = None,
    reference: Run | None = None,
    target: Target | None = None,
    threads: int = 1,
    words: Sequence[str] = (),
) -> dict[str, Run]:
    """The runs of the ladder's entries; their table is written and printed.

    Args:
        output: where the runs and the table lie; otherwise RUN_ladder beside RUN.
        only: make only these entries, and what they are made of; otherwise all.
        reference: a run on the same images that stands first: sizes and times are against it.
        target: "size<=2MB", "latency<=10ms", "drop<=1pt" (of validation accuracy), or several joined by commas; the
            best entry that meets it is named.
        threads: of the runtime in which latency is measured.
        words: `key=value` words that override the run's configuration in the entries that are trained.

    Raises:
        UserError: an entry cannot be made, `output` cannot be written, or no entry meets the target.
    """
    entries = select_entries(only)
    if wrong := [word for word in words if "=" not in word]:
        raise UserError(f"{' '.join(wrong)}: expected key=value. --only chooses entries.")
    if threads < 1:
        raise UserError(f"--threads {threads}, but at least 1 is needed.")
    weights_file(run)
    folder = output_directory(output or Path(f"{run.path.resolve()}_ladder"))
    with loading():
        from imgbench.compression.ladder import (
            TEACHER,
            best_entry,
            make_ladder,
            measure_runs,
            print_ladder,
            write_ladder,
        )

    made = make_ladder(entries, run, folder, words)
    first = {"reference": reference} if reference else {}
    rows = measure_runs({**first, TEACHER: run, **made}, threads)
    write_ladder(rows, folder, threads)
    print_ladder(rows, threads)
    print(f"Written to {Run(folder).shown}: ladder.md, ladder.json, ladder.png, and a run for each entry")
    if target is not None:
        best = best_entry([row for row in rows if row.name in made], target)
        print(f"Best entry with {target}: {best.name}  {made[best.name].shown}")
    return made


def main() -> None:
    parser = run_parser("ladder", __doc__, EXAMPLES)
    parser.add_argument("words", metavar="key=value", nargs="*", help="override RUN's configuration")
    add_options(parser, ladder, leave_out=["words"])
    args = vars(parser.parse_intermixed_args())
    ladder(Run.open(args.pop("run")), **args)


if __name__ == "__main__":
    guarded_main(main)

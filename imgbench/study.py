"""The whole way in one command, `python -m imgbench.study data=folder data.root=photos`: from photographs to a report.

An audit, a split that cannot leak, the best network within a budget of minutes, one test, the smallest model that is as
good, and a page over all of it. The directory is a run like any other.
"""

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from imgbench.audit import audit
from imgbench.budget import Budget
from imgbench.compression.target import Target
from imgbench.data.columns import AUTO
from imgbench.data.layout import split_of
from imgbench.errors import UserError
from imgbench.experiment.check import check_at_once, cross_validates
from imgbench.experiment.compose import is_open, storable
from imgbench.hydra_entry import hydra_command, interruption_explained
from imgbench.progress import IMAGE_FACTS, loading, quiet
from imgbench.report.study_file import SMALL, begin_study
from imgbench.run import Run
from imgbench.split_file import SPLITS
from imgbench.sweep.resume import resumed_study
from imgbench.train import budget_of_command, is_trained, train, what_next

if TYPE_CHECKING:
    from imgbench.compression.smallest import Smallest

# Shares of the time after the audit that are for smaller models and the report.
AFTER_TRAINING = 0.25  # of a network that a smaller one may have to learn from
AFTER_COMPARING = 0.15  # of networks of which the smaller one is a part, or a candidate: it is made without a training
FILE_AND_REPORT = 15  # seconds on two idle cores, without anything that is tried to be smaller


def division(run: Run, column: str | None = None) -> str:
    """How many images each part has, and what divides otherwise: what the folders or a table of labels say stays.

    Args:
        column: of the table of labels, which says the splits.
    """
    rows = run.split_rows()
    counts = Counter(row["split"] for row in rows)
    train, val, test = (f"{counts[split]:,}" for split in SPLITS)
    stated = {row["split"] for row in rows if split_of(row["path"].split("/")[0]) == row["split"]}
    open_ones = [f"data.split.{split}=0.2" for split in ("val", "test") if split not in stated]
    options = " or ".join([*open_ones, "data.split.group=REGEX"])
    otherwise = f"{options} divides otherwise" if open_ones else "the folders say so"
    if column is not None:
        otherwise = f"the column {column!r} of the table of labels says so"
    parts = f"{train} images to learn from, {val} to choose by and {test} to test on, once"
    return f"Division       {parts}; {otherwise}."


def split_column(run: Run) -> str | None:
    """The column of a table of labels that divides the run's images; None where there is none."""
    column = (run.config["data"].get("columns") or {}).get("split")
    return None if column == AUTO else column


def study(config: DictConfig, run: Run, budget: Budget | None = None) -> None:
    """All steps. Those that are finished in the directory are not done again.

    Args:
        budget: for all of it; None: the configured minutes, from now.

    Raises:
        UserError: the data, the configuration or the target cannot be used.
        KeyboardInterrupt: it was interrupted; `--resume` goes on.
    """
    config = config.copy()
    OmegaConf.set_struct(config, False)
    target = Target.parse(str(config.pop("target")), option="target=")
    if config.trainer.devices not in (1, "auto", "1"):
        raise UserError(f"trainer.devices={config.trainer.devices}: a study trains on one device, trainer.devices=1.")
    check_at_once(config)
    if cross_validates(config):
        raise UserError(
            f"data.split.folds={config.data.split.folds} leaves no images to test the smaller model of a study on. "
            "Use imgbench.train with it, or leave it out."
        )
    budget = budget or Budget.from_now(config.budget)
    run.path.mkdir(parents=True, exist_ok=True)
    trained = is_trained(config, run)
    with run.recorded(seed=config.seed, trained=trained):  # finished is what has its page and its smaller model
        small = _steps(config, run, budget, target, trained)
    print(f"\nStudy          {run.shown}, in {budget.spent / 60:.1f} of {budget.minutes:g} minutes")
    print("\n".join(small.lines(run.shown / SMALL)))
    print(f"{what_next(run)}\nReport         {run.shown / 'report.html'}")


def _steps(config: DictConfig, run: Run, budget: Budget, target: Target, trained: bool) -> "Smallest":
    if run.model is None:
        run.write_config(storable(config))  # from which an interrupted study goes on
    begin_study(run, str(target), budget.minutes)

    def begin(step: int, name: str) -> None:
        left = max(budget.left, 0) / 60
        print(f"\n[{step}/3] {name} ({left:.1f} of {budget.minutes:g} minutes left)", flush=True)

    begin(1, "Audit")
    found = audit(config)
    print(found.summary())
    with loading():  # take seconds, and --help needs no torch
        from imgbench.compression.smallest import add_smallest, one_page
    from imgbench.inspection.record import write_audit

    with one_page(run) as conclude:
        begin(2, "Training")
        if trained:
            print(f"{run.shown} is trained already.")
        else:
            with quiet(*IMAGE_FACTS):  # as of the audit above
                share = AFTER_COMPARING if is_open(config) else AFTER_TRAINING
                train(config, run, conclude, budget.before(share, FILE_AND_REPORT))
            run.note(trained=True, seconds=round(budget.spent, 1))  # killed from here on, it is not trained again
        write_audit(found, run.path)
        print(division(run, split_column(run)))
        begin(3, f"Smaller models, target {target}, and the report")
        return add_smallest(run, target, budget.left - FILE_AND_REPORT * budget.slowdown, budget.slowdown)


@hydra_command("study", resumed_study)
def main(config: DictConfig) -> None:
    run = Run(Path(HydraConfig.get().runtime.output_dir))
    with interruption_explained("study", run):
        study(config, run, budget_of_command(config))


if __name__ == "__main__":
    main()

"""Trains a classifier on a folder of images: `python -m imgbench.train model=vgg16 data=potato`."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from imgbench.budget import Budget
from imgbench.errors import UserError
from imgbench.experiment.check import check_at_once
from imgbench.hydra_entry import hydra_command, interruption_explained
from imgbench.progress import loading
from imgbench.provenance import first_process
from imgbench.run import Run
from imgbench.sweep.resume import AUTO, own_checkpoint, resumed, score_of

if TYPE_CHECKING:
    from imgbench.experiment.train import Conclude


def train(
    config: DictConfig, run: Run, conclude: "Conclude | None" = None, budget: Budget | None = None
) -> float | None:
    """Trains as configured in a run directory; returns the monitored value of the epoch kept.

    Args:
        conclude: what is done with the trained run, if not what the report has for it.
        budget: for finding the best of several networks; None: the configured minutes, from now.

    Raises:
        UserError: the data or the configuration cannot be used.
        KeyboardInterrupt: training was interrupted; the run is complete up to there.
    """
    if config.get("quantized"):
        raise UserError(
            "This configuration is of a run that imgbench.compress quantised; training would give another, in float. "
            "The command that repeats it stands in the run.json beside it."
        )
    if config.ckpt_path == AUTO:
        config = own_checkpoint(config, run)
        if is_trained(config, run):
            print(f"{run.shown} is finished: nothing is left to do.")
            return score_of(run, config.monitor)
    run.path.mkdir(parents=True, exist_ok=True)
    with run.recorded(seed=config.seed):
        check_at_once(config)
        with loading():  # take seconds, and errors and --help need no torch
            from imgbench.experiment.cross_validation import train_and_test
            from imgbench.report.conclude import conclude as evaluate_and_report

        return train_and_test(config, run, conclude or evaluate_and_report, budget=budget)


def is_trained(config: DictConfig, run: Run) -> bool:
    """Whether a training as configured, of these images, came to its end in the run directory.

    Raises:
        UserError: the data or the configuration cannot be used.
    """
    status = run.status
    # A study, which goes on after its training, notes that it is over.
    if status is None or (status != "finished" and not run.info.get("trained")):
        return False
    check_at_once(config)
    with loading():  # takes seconds, and errors and --help need no torch
        from imgbench.experiment.choose import fingerprint

    return run.holds(fingerprint(config))


def refuse_launching_from_a_sweep(config: DictConfig) -> None:
    """Lightning starts further processes by repeating the command line, which in a sweep is the whole sweep."""
    sweeping = HydraConfig.get().mode == RunMode.MULTIRUN
    if sweeping and config.trainer.devices != 1 and "spawn" not in str(config.trainer.get("strategy")):
        raise UserError(
            f"trainer.devices={config.trainer.devices} in a sweep would start the sweep once per device. "
            "Use trainer.devices=1, or +trainer.strategy=ddp_spawn."
        )


def budget_of_command(config: DictConfig) -> Budget | None:
    """The configured minutes, from the start of the command; those of a run of a sweep begin with the run."""
    minutes = config.get("budget")
    if HydraConfig.get().mode == RunMode.MULTIRUN or isinstance(minutes, bool) or not isinstance(minutes, int | float):
        return None  # what is no number is refused where it is needed
    return Budget.of_command(minutes)


@hydra_command("train", resumed)
def main(config: DictConfig) -> float | None:
    refuse_launching_from_a_sweep(config)
    run = Run(Path(HydraConfig.get().runtime.output_dir))
    with interruption_explained("train", run):
        score = train(config, run, budget=budget_of_command(config))
    if first_process() and (run.path / "report.html").is_file():
        if HydraConfig.get().mode != RunMode.MULTIRUN:
            print(what_next(run))
        print(f"Report         {run.shown / 'report.html'}")
    return score


def what_next(run: Run) -> str:
    """The commands that most people need next, as the ends of `train` and `study` name them."""
    place = shlex.quote(str(run.shown))
    return (
        f"Next           imgbench predict {place} PHOTOGRAPHS    names further photographs\n"
        f"               imgbench review {place}    puts doubtful labels right\n"
        f"               imgbench demo {place}    a page on which to try it"
    )


if __name__ == "__main__":
    main()

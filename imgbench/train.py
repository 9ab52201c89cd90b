"""Trains a classifier on a folder of images: `python -m imgbench.train model=vgg16 data=potato`."""

import signal
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from imgbench.cli import hydra_command
from imgbench.errors import UserError
from imgbench.run import Run

if TYPE_CHECKING:
    from lightning.pytorch.callbacks import Callback

    from imgbench.data.datamodule import ImageFolderDataModule
    from imgbench.training.classifier import ImageClassifier


def train(
    config: DictConfig,
    run: Run,
    data: "ImageFolderDataModule | None" = None,
    start: "ImageClassifier | None" = None,
    callbacks: "Sequence[Callback]" = (),
    announce: bool = True,
) -> float | None:
    """Trains as configured and leaves everything in the run's directory; returns the monitored value of the epoch kept.

    Not the highest of all epochs: a sweep would choose by luck.

    Args:
        data: what `build_data` made of the configuration, where it is known already.
        start: a classifier of the configured model whose weights training starts from, narrowed as it is.
        callbacks: further ones than those of the configuration.
        announce: print how good the run is.

    Raises:
        UserError: the data or the configuration cannot be used.
        KeyboardInterrupt: training was interrupted; the run is complete up to there.
    """
    # Imported here, because torch and lightning take seconds and `--help` needs neither.
    import lightning as L

    from imgbench.experiment.build import (
        build_classifier,
        build_data,
        build_trainer,
        check_monitor,
        check_resume,
        class_weights,
        plain,
        settle,
    )
    from imgbench.experiment.outcome import write_grid, write_outcome
    from imgbench.summary import model_table
    from imgbench.training import fast
    from imgbench.training.callbacks import progress_bar

    L.seed_everything(config.seed, workers=True, verbose=False)
    settings, device = fast.apply(fast.FastSettings(**config.fast), config.trainer.accelerator)
    data = data or build_data(config)
    settle(config, len(data.rows("train")))
    run.write_config(plain(config), from_weights=start is not None)
    run.write_split(data.table.csv_lines())
    run.note(device=device, precision=settings.precision, selected_on_test=data.plan.selects_on_test)
    source = {"data": config.data_name, "split_hash": data.table.hash, "selected_on_test": data.plan.selects_on_test}
    weights = class_weights(config.objective.class_weights, data)
    widths = start.hparams["widths"] if start else None
    classifier = build_classifier(
        config, data.class_names, data.preprocessing, settings, class_weights=weights, provenance=source, widths=widths
    )
    if start:
        classifier.load_state_dict(start.state_dict())
    run.note(provenance=classifier.hparams["provenance"])
    check_monitor(config.monitor, config.mode, classifier)
    check_resume(config.ckpt_path, classifier, config.trainer.max_epochs)
    (run.path / "summary.txt").write_text(model_table(classifier), "utf-8")
    write_grid(data, classifier, run)
    fast.prepare(classifier, settings)

    trainer = build_trainer(config, settings, run.path, [*callbacks, *progress_bar()])
    interrupted = False
    try:
        trainer.fit(classifier, datamodule=data, ckpt_path=config.ckpt_path, weights_only=True)
    except SystemExit:  # how Lightning ends when it was interrupted; it leaves further Ctrl-C ignored
        interrupted = True
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if trainer.is_global_zero:
        write_outcome(run, data, config, announce)
    if interrupted:
        raise KeyboardInterrupt
    score = getattr(trainer.checkpoint_callback, "best_model_score", None)
    return None if score is None else float(score)


def refuse_launching_from_a_sweep(config: DictConfig) -> None:
    """Lightning starts further processes by repeating the command line, which in a sweep is the whole sweep."""
    sweeping = HydraConfig.get().mode == RunMode.MULTIRUN
    if sweeping and config.trainer.devices != 1 and "spawn" not in str(config.trainer.get("strategy")):
        raise UserError(
            f"trainer.devices={config.trainer.devices} in a sweep would start the sweep once per device. "
            "Use trainer.devices=1, or +trainer.strategy=ddp_spawn."
        )


def refuse_forgetting_weights(config: DictConfig) -> None:
    """The configuration of a pruned run names the whole network, and no weights to start from."""
    if config.get("from_weights") and config.ckpt_path is None:
        raise UserError(
            "This configuration is of a run that imgbench.compress made from the weights of another; train would start "
            "from nothing, and with all channels.\nThe command to repeat stands in the run.json beside it. "
            "To train from nothing nevertheless, add: ~from_weights"
        )


@hydra_command("train")
def main(config: DictConfig) -> float | None:
    refuse_launching_from_a_sweep(config)
    refuse_forgetting_weights(config)
    run = Run(Path(HydraConfig.get().runtime.output_dir))
    with run.recorded(seed=config.seed):
        return train(config, run)


if __name__ == "__main__":
    main()

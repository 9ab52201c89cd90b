"""Training another model as a run was trained: on the same images, with a configuration that follows from the run's."""

from functools import partial

from omegaconf import DictConfig

from imgbench.data.datamodule import ImageFolderDataModule
from imgbench.errors import UserError
from imgbench.experiment.build import build_data_of
from imgbench.experiment.train import resolve, train
from imgbench.report.conclude import conclude
from imgbench.run import Run

conclude_quietly = partial(conclude, announce=False)


def same_images(config: DictConfig, parent: Run) -> ImageFolderDataModule:
    """The data of a configuration, once it is sure that these are the parent's images in the parent's splits.

    Raises:
        UserError: images were added, removed or changed, or are divided otherwise.
    """
    data = build_data_of(parent, config)
    table = data.table
    now = {path: (split, digest) for path, _, _, split, digest in table.split_rows()}
    then = {row["path"]: (row["split"], row["hash"]) for row in parent.split_rows()}
    if now == then:
        return data
    missing, new = then.keys() - now.keys(), now.keys() - then.keys()
    changed = {path for path in then.keys() & now.keys() if then[path] != now[path]}
    raise UserError(
        f"The images in {table.root} are not those of {parent.shown}/split.csv: {len(missing)} are missing, {len(new)} "
        f"are new, {len(changed)} are changed or in another split, for example {min(missing | new | changed)}.\n"
        "A compressed model is trained and tested on the images of its parent, so that the two can be compared. "
        "Restore them, or train the parent again."
    )


def retrain(config: DictConfig, parent: Run, run: Run) -> None:
    """Trains as configured on the parent's images; from the last checkpoint where a training was cut off in `run`.

    Raises:
        UserError: the images or the configuration cannot be used.
    """
    if run.last.is_file():
        run.forget_results()  # it may have been cut off after them: they are made again
        config.ckpt_path = str(run.last.resolve())
    train(resolve(config, same_images(config, parent)), run, conclude_quietly)


def fewer_epochs(parent: Run) -> int:
    """A fifth of the parent's, which is enough to mend what is trained already."""
    return max(2, round((parent.config["trainer"]["max_epochs"] or 0) / 5))

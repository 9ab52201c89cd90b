"""Prints a model's layers, parameters and multiply-adds: `python -m imgbench.summary model=vgg16 data=potato`."""

from typing import TYPE_CHECKING

from omegaconf import DictConfig

from imgbench.cli import hydra_command
from imgbench.errors import UserError

if TYPE_CHECKING:
    from imgbench.training.classifier import ImageClassifier


def model_table(classifier: "ImageClassifier", batch_size: int = 1) -> str:
    """The torchinfo table of the classifier's model."""
    from torchinfo import summary

    size = classifier.hparams["preprocessing"]["image_size"]
    columns = ("input_size", "output_size", "num_params", "mult_adds")
    table = summary(classifier.model, (batch_size, 3, size, size), col_names=columns, depth=4, device="cpu", verbose=0)
    return f"{table}\n"


@hydra_command("summary")
def main(config: DictConfig) -> None:
    from imgbench.experiment.build import build_classifier, build_data
    from imgbench.preprocessing import Preprocessing
    from imgbench.training.fast import FastSettings

    if config.data.num_classes is None:
        try:
            build_data(config)
        except UserError as error:
            raise UserError(f"{error}\nOr state data.num_classes=N, and no data is needed.") from error
    names = [str(i) for i in range(int(config.data.num_classes or 0))]
    preprocessing = Preprocessing(config.data.image_size, config.data.short_side)
    print(model_table(build_classifier(config, names, preprocessing, FastSettings(), class_weights=None)))


if __name__ == "__main__":
    main()

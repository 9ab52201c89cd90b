"""Prints a model's layers, parameters and multiply-adds: `python -m imgbench.summary model=vgg16 data=potato`."""

from omegaconf import DictConfig

from imgbench.experiment.compose import with_one_model
from imgbench.hydra_entry import hydra_command


@hydra_command("summary")
def main(config: DictConfig) -> None:
    from imgbench.experiment.build import model_summary  # takes seconds, and --help needs no torch

    print(model_summary(with_one_model(config)))


if __name__ == "__main__":
    main()

"""Prints a model's layers, parameters and multiply-adds: `python -m imgbench.summary model=vgg16 data=potato`."""

from omegaconf import DictConfig

from imgbench.experiment.compose import with_one_model
from imgbench.hydra_entry import hydra_command
from imgbench.progress import loading


@hydra_command("summary")
def main(config: DictConfig) -> None:
    with loading():  # takes seconds, and --help needs no torch
        from imgbench.experiment.build import model_summary

    print(model_summary(with_one_model(config)))


if __name__ == "__main__":
    main()

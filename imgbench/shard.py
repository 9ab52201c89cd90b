"""Writes a folder of photographs into WebDataset shards: `python -m imgbench.shard data=folder data.root=photos`."""

from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from imgbench.data.shard_index import index_shards
from imgbench.data.shard_writer import require_free, write_shards
from imgbench.data.shards import is_shards
from imgbench.errors import UserError
from imgbench.experiment.check import check_at_once
from imgbench.hydra_entry import hydra_command
from imgbench.progress import loading

OPTION = "--output"


def shard(config: DictConfig) -> str:
    """Writes the configured images to `config.output`; returns the `data.root` that reads the shards.

    Shards that have no index get one, where they lie.

    Raises:
        UserError: the images or the output cannot be used.
    """
    if config.output is None:
        root = None if OmegaConf.is_missing(config.data, "root") else config.data.root
        if root is None or not is_shards(root):
            raise UserError("output is not set: where are the shards to lie? Name a new folder: output=DIR")
        index_shards(root)
        return root
    if not isinstance(config.images_per_shard, int) or config.images_per_shard < 1:
        raise UserError(f"images_per_shard={config.images_per_shard}, but it is a number of images, 1 or more.")
    require_free(Path(config.output))
    check_at_once(config)
    with loading():  # takes seconds, and errors and --help need no torch
        from imgbench.experiment.build import build_data

    return write_shards(build_data(config).table, Path(config.output), config.images_per_shard, config.seed)


def as_words(words: list[str]) -> list[str]:
    """The command line with `--output DIR`, as commands that read runs have it, as `output=DIR`."""
    rest, result = iter(words), []
    for word in rest:
        if word == OPTION:
            result.append(f"output={next(rest, '')}")
        else:
            result.append(word.replace(f"{OPTION}=", "output=", 1) if word.startswith(f"{OPTION}=") else word)
    return result


@hydra_command("shard", as_words)
def main(config: DictConfig) -> None:
    root = shard(config)
    print(f'Train on the shards: python -m imgbench.train data=shards data.root="{root}"')


if __name__ == "__main__":
    main()

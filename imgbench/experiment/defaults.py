"""What the configuration leaves open, decided by what is known of the data and the model; a set value always counts."""

import math

IMAGE_SIZE = 112  # `data.image_size` of networks that were not trained before


def default_model(data: str) -> str:
    """`model` by the name of the data set: of 8 x 8 digits no network for photographs knows anything."""
    return "compact" if data == "digits" else "auto"


def default_epochs(images: int, tuned: bool = False) -> int:
    """`trainer.max_epochs` by the number of training images: 1000 by its root, between 40 and 200.

    Few images need to be seen more often; below 40 epochs, what is learnt from many is cut short. A network that is
    fine-tuned knows most of it already: 120 by the root, between 2 and 10.
    """
    share, least, most = (120, 2, 10) if tuned else (1000, 40, 200)
    return min(max(round(share / math.sqrt(images)), least), most)


def default_learning_rate(normalises_batches: bool, pretrained: bool, tuned: bool = False) -> float:
    """`optimizer.lr` of AdamW.

    Large steps need batch normalisation to keep the activations in range, and spoil what a pretrained network knows;
    most of all where its last layer fits already.
    """
    if tuned:
        return 1e-4
    return 3e-3 if normalises_batches and not pretrained else 3e-4

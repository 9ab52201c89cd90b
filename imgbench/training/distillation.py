"""Knowledge distillation: a student learns the probabilities of a trained teacher (https://arxiv.org/abs/1503.02531)."""

import hashlib
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from imgbench.errors import UserError
from imgbench.files import sha256
from imgbench.run import Run
from imgbench.training.checkpoint import load_classifier
from imgbench.training.classifier import ImageClassifier


class Teacher:
    """A trained classifier that answers in evaluation mode and learns nothing.

    No nn.Module: one that holds it neither saves nor optimises its weights.
    """

    def __init__(self, classifier: ImageClassifier, path: Path) -> None:
        self.classifier = classifier.eval().requires_grad_(False)
        self.classifier.model.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        self.class_names: list[str] = classifier.class_names
        self.image_size = int(classifier.hparams["preprocessing"]["image_size"])
        self.provenance = {"path": str(path.resolve()), "sha256": sha256(path)}

    def to(self, device: torch.device | str) -> None:
        self.classifier.to(device)

    @torch.no_grad()
    def logits(self, images: Tensor) -> Tensor:
        """Float images (N, 3, H, W) in 0 to 1, of any size -> (N, num_classes)."""
        images = images.float()
        size = (self.image_size, self.image_size)
        if images.shape[-2:] != size:
            images = F.interpolate(images, size, mode="bilinear", antialias=True)
        return self.classifier(images).float()


def load_teacher(path: str | Path) -> Teacher:
    """The teacher of a run directory (its best checkpoint) or a checkpoint file.

    Raises:
        UserError: there is none.
    """
    path = Path(path)
    checkpoint = path if path.is_file() else Run.open(path).best
    return Teacher(load_classifier(checkpoint), checkpoint)


def soft_loss(student_logits: Tensor, teacher_logits: Tensor, temperature: float) -> Tensor:
    """Kullback-Leibler divergence of the student's softened probabilities from the teacher's, times temperature²."""
    student = F.log_softmax(student_logits / temperature, 1)
    teacher = F.log_softmax(teacher_logits / temperature, 1)
    # T^2 keeps the soft gradient on the scale of the hard one (Hinton et al. 2015, sec. 2).
    return temperature**2 * F.kl_div(student, teacher, reduction="batchmean", log_target=True)


class DistilledClassifier(ImageClassifier):
    """Learns `alpha` parts of a teacher's softened probabilities, and `1 - alpha` of the labels.

    Its checkpoint is that of an ImageClassifier: neither the teacher's weights nor its path are needed to use it.

    Args:
        teacher: path of a run or a checkpoint with the same classes in the same order.
        temperature: divides both logits before the softmax of the soft loss.
        views: so many epochs are augmented differently, and then return; the teacher, which is larger, sees each of
            these views once. Null: each epoch is augmented anew.
        arguments: those of ImageClassifier.

    Raises:
        UserError: no teacher, one of other classes, or a weight or temperature out of range.
    """

    def __init__(
        self,
        teacher: str | None,
        class_names: list[str],
        temperature: float = 4.0,
        alpha: float = 0.9,
        views: int | None = 8,
        **arguments: Any,
    ) -> None:
        super().__init__(class_names=class_names, **arguments)
        for name in ("teacher", "temperature", "alpha", "views"):
            self.hparams.pop(name, None)
        if teacher is None:
            raise UserError("objective.teacher is not set. Name a run to learn from: objective.teacher=RUN")
        if not 0 <= alpha <= 1:
            raise UserError(f"objective.alpha={alpha}, but a weight lies between 0 (labels only) and 1 (teacher only).")
        if temperature <= 0:
            raise UserError(f"objective.temperature={temperature}, but it is above 0.")
        if views is not None and views < 1:
            raise UserError(f"objective.views={views}, but it is a number of epochs, or null for a new view in each.")
        self.temperature, self.alpha, self.views = temperature, alpha, views
        self.teacher = load_teacher(teacher)
        if self.teacher.class_names != class_names:
            raise UserError(
                f"objective.teacher={teacher} knows the classes {self.teacher.class_names}, but the data has "
                f"{class_names}. A teacher needs the same classes in the same order."
            )
        provenance = {**(self.hparams["provenance"] or {}), "teacher": self.teacher.provenance}
        self.hparams["provenance"] = provenance
        self._images_return = False  # in later epochs, unchanged
        self._known: dict[bytes, Tensor] = {}  # the teacher's logits of each of them

    def on_fit_start(self) -> None:
        self.teacher.to(self.device)
        augment = getattr(getattr(self.trainer, "datamodule", None), "augment", None)
        self._images_return = self.views is not None or getattr(augment, "is_identity", False)

    def training_loss(self, images: Tensor, logits: Tensor, targets: Tensor) -> Tensor:
        labelled = targets.dim() == 2 or bool((targets != self.loss.ignore_index).any())
        hard = super().training_loss(images, logits, targets) if labelled else logits.sum() * 0
        if self.alpha == 0:
            return hard
        return (
            self.alpha * soft_loss(logits.float(), self.teacher_logits(images), self.temperature)
            + (1 - self.alpha) * hard
        )

    def teacher_logits(self, images: Tensor) -> Tensor:
        """The teacher's logits (N, num_classes); where images return, each is shown to it only once."""
        if not self._images_return:
            return self.teacher.logits(images)
        pixels = images.mul(255).round_().byte().cpu()
        keys = [hashlib.blake2b(image.numpy().tobytes(), digest_size=16).digest() for image in pixels]
        new = [i for i, key in enumerate(keys) if key not in self._known]
        if new:
            for i, logits in zip(new, self.teacher.logits(images[new]), strict=True):
                self._known[keys[i]] = logits
        return torch.stack([self._known[key] for key in keys])

"""The LightningModule: a model, its loss and its optimizer, and all that is needed to use it again."""

from inspect import signature
from typing import Any, Self

import lightning as L
import torch.nn.functional as F
from hydra.utils import instantiate
from lightning.pytorch.plugins.precision import Precision
from lightning.pytorch.utilities import GradClipAlgorithmType
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import ReduceLROnPlateau
from torchmetrics import MeanMetric
from torchmetrics.classification import MulticlassAccuracy

from imgbench.errors import UserError
from imgbench.models.layers import evaluate_frozen
from imgbench.training.network import Network, without_fetching


class ImageClassifier(Network, L.LightningModule):  # pyright: ignore
    """Cross-entropy on the images of a folder.

    All arguments are plain dicts, lists, strings and numbers, and go into the checkpoint: from it alone,
    `imgbench.training.checkpoint.load_classifier` gives a classifier that preprocesses as it was evaluated.

    Args:
        model: configuration with a `_target_`.
        class_names: in the order of the model's outputs.
        preprocessing: see `imgbench.preprocessing.Preprocessing`.
        optimizer: configuration of a torch optimizer; None for a classifier that is only used.
        scheduler: configuration of a function of `imgbench.training.schedules`.
        class_weights: weight of each class in the loss.
        provenance: where the classifier comes from, for example the hash of its `split.csv`.
        monitor: the metric that a plateau schedule watches, and `mode` whether it should be `max` or `min`.
        widths: shapes of the weights of layers that were pruned; see `imgbench.models.narrow`.
    """

    METRICS = ("train/loss", "train/acc", "val/loss", "val/acc")

    def __init__(
        self,
        model: dict[str, Any],
        class_names: list[str],
        preprocessing: dict[str, Any],
        optimizer: dict[str, Any] | None = None,
        scheduler: dict[str, Any] | None = None,
        label_smoothing: float = 0.0,
        class_weights: list[float] | None = None,
        provenance: dict[str, Any] | None = None,
        monitor: str = "val/acc",
        mode: str = "max",
        widths: dict[str, list[int]] | None = None,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.assemble(model, class_names, preprocessing, label_smoothing, class_weights, widths)
        self.train_acc = MulticlassAccuracy(
            len(class_names), average="micro", ignore_index=self.loss.ignore_index, validate_args=False
        )
        # Lightning's own mean over processes takes an integer for the number of images of each.
        self.train_loss, self.val_loss = (MeanMetric(nan_strategy="disable") for _ in range(2))
        self.val_acc = MulticlassAccuracy(len(class_names), average="micro", validate_args=False)

    @staticmethod
    def argument_names() -> list[str]:
        """The hyper-parameters of a checkpoint."""
        return list(signature(ImageClassifier).parameters)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        images, targets = batch  # targets are (N, num_classes) probabilities where images were mixed
        logits = self(images)
        loss = self.training_loss(images, logits, targets)
        labels = targets.argmax(1) if targets.dim() == 2 else targets
        self.train_acc.update(logits.detach(), labels)
        self.train_loss.update(loss.detach(), len(images))
        self.log("train/loss", self.train_loss, on_step=False, on_epoch=True, batch_size=len(images))
        self.log("train/acc", self.train_acc, on_step=False, on_epoch=True, batch_size=len(images))
        return loss

    def training_loss(self, images: Tensor, logits: Tensor, targets: Tensor) -> Tensor:
        return self.loss(logits, targets)

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        images, targets = batch
        logits = self(images)
        self.val_acc.update(logits, targets)
        loss = F.cross_entropy(logits, targets)  # unsmoothed and unweighted: comparable between runs
        self.val_loss.update(loss, len(images))
        self.log("val/loss", self.val_loss, batch_size=len(images))
        self.log("val/acc", self.val_acc, batch_size=len(images))

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        evaluate_frozen(self.model)
        return self

    def on_train_start(self) -> None:
        self.train()  # Lightning takes the modes as it finds them, and a new module is in training mode

    def parameter_groups(self) -> list[dict[str, Any]]:
        """What the optimizer trains; norms and biases without weight decay, and what the network names as such, as
        `no_weight_decay()` of timm's do.

        Decay keeps weights from growing, and these do not make a function steeper (https://arxiv.org/abs/1812.01187,
        sec. 3.1).
        """
        decay = self.hparams["optimizer"].get("weight_decay")
        if not decay:
            return [{"params": [p for p in self.parameters() if p.requires_grad]}]
        from timm.optim._param_groups import param_groups_weight_decay  # half a second, which only training needs

        network: Any = self.model
        exempt = network.no_weight_decay() if hasattr(network, "no_weight_decay") else ()
        groups = param_groups_weight_decay(network, decay, no_weight_decay_list=exempt)
        # Those that decay come first, as in the checkpoints that are resumed: an optimizer's state goes by this order.
        return sorted(groups, key=lambda group: -group["weight_decay"])

    def configure_optimizers(self) -> Any:
        optimizer_config, scheduler_config = self.hparams["optimizer"], self.hparams["scheduler"]
        assert optimizer_config is not None, "a classifier without optimizer cannot be trained"
        create = instantiate(optimizer_config, _partial_=True, _convert_="all")
        try:
            optimizer = create(self.parameter_groups())
        except (TypeError, ValueError) as error:
            raise UserError(f"{optimizer_config['_target_']} cannot be used as it is: {error}") from error
        if scheduler_config is None:
            return optimizer
        steps = int(self.trainer.estimated_stepping_batches)
        epochs = self.trainer.max_epochs or 1
        schedule = instantiate(
            scheduler_config,
            optimizer=optimizer,
            total_steps=steps,
            total_epochs=epochs,
            mode=self.hparams["mode"],
            _convert_="all",
        )
        return {"optimizer": optimizer, "lr_scheduler": {**schedule, "monitor": self.hparams["monitor"]}}

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        # Lightning refuses to clip before a fused optimizer in mixed precision, since that unscales the gradients
        # itself. In bf16 they are not scaled.
        plugin = self.trainer.precision_plugin
        if plugin.precision != "bf16-mixed":
            super().configure_gradient_clipping(optimizer, gradient_clip_val, gradient_clip_algorithm)
        elif gradient_clip_val:
            algorithm = GradClipAlgorithmType(gradient_clip_algorithm or "norm")
            Precision.clip_gradients(plugin, optimizer, gradient_clip_val, algorithm)

    def on_train_epoch_end(self) -> None:
        # Lightning steps a plateau schedule after the checkpoint is written, so that a resumed run would miss an epoch.
        scheduler = self.lr_schedulers()
        if isinstance(scheduler, ReduceLROnPlateau):
            scheduler.step(self.trainer.callback_metrics[self.hparams["monitor"]])

    def lr_scheduler_step(self, scheduler: Any, metric: Any) -> None:
        if not isinstance(scheduler, ReduceLROnPlateau):
            super().lr_scheduler_step(scheduler, metric)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        hparams = checkpoint["hyper_parameters"]
        hparams["model"] = without_fetching(hparams["model"])
        # Lightning keeps averaged weights out of checkpoints that hold weights only, although it validated with them.
        for callback in self.trainer.callbacks:  # pyright: ignore[reportAttributeAccessIssue]
            average = getattr(callback, "_average_model", None)
            if average is not None and "averaging_state" not in checkpoint:
                checkpoint["state_dict"] = average.module.state_dict()

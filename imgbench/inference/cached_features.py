"""What a frozen network sees in each image, computed once and kept in the user's cache."""

import hashlib
import json
import logging
import math
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from imgbench.data.datamodule import ImageFolderDataModule
from imgbench.data.pixels import cache_dir
from imgbench.errors import UserError
from imgbench.files import cores, replacing
from imgbench.inference.onnx_file import Deployed, exported, in_evaluation
from imgbench.progress import Step
from imgbench.training.fast import full_precision
from imgbench.training.network import Network

log = logging.getLogger(__name__)

FORMAT = 1  # raise it when features are computed otherwise, so that old ones are not read
BATCH = 8  # what a core computes at a time; larger ones are no faster
GPU_BATCH = 64
# Writing the network as an ONNX file takes as long as PyTorch needs for this many images.
WORTH_EXPORTING = 300

Embed = Callable[[Tensor], np.ndarray]  # uint8 (N, 3, image_size, image_size) -> (N, D) float32


def image_features(
    classifier: Network, data: ImageFolderDataModule, rows: np.ndarray, end: float = math.inf, least: int = 0
) -> np.ndarray:
    """(len(rows), D) float32: the inputs of the classifier's last layer for these rows of the table.

    Only for classifiers in which nothing but the last layer learns. Those of an image are known again by the content of
    its file, the weights and the preprocessing, wherever below the table's root the file lies.

    Args:
        end: moment of `time.monotonic()` after which nothing more is begun but the `least` first of the rows. The
            result is then of so many first rows as were done.
    """
    table = data.table
    folder = cache_dir() / "features" / _key(classifier)
    file = folder / f"{hashlib.blake2b(str(table.root.resolve()).encode(), digest_size=8).hexdigest()}.npz"
    known = _read(file)
    keys = [digest.tobytes() for digest in table.digests[rows]]
    new = list({key: int(row) for key, row in zip(keys, rows, strict=True) if key not in known}.items())
    if new:
        with in_evaluation(classifier):
            embed, threads = _embedding(classifier, len(new))
            batch = BATCH if classifier.offset.device.type == "cpu" else GPU_BATCH
            computed = _compute(embed, data, np.array([row for _, row in new]), threads, batch, end, least)
        known |= {key: values for (key, _), values in zip(new, computed, strict=False)}
        _write(file, known)
    done = next((place for place, key in enumerate(keys) if key not in known), len(keys))
    return np.stack([known[key] for key in keys[:done]])


def _key(classifier: Network) -> str:
    found = hashlib.blake2b(digest_size=16)
    model = classifier.hparams["model"]
    # Networks of other names may have the same weights, and pad otherwise.
    facts = (FORMAT, classifier.hparams["preprocessing"], model["_target_"], model.get("name"))
    found.update(json.dumps(facts).encode())
    network: Any = classifier.model
    learnt = {id(parameter) for parameter in network.get_classifier().parameters()}
    for name, value in network.state_dict(keep_vars=True).items():
        if id(value) not in learnt:
            found.update(name.encode())
            found.update(value.detach().cpu().contiguous().numpy().tobytes())
    return found.hexdigest()


def _read(file: Path) -> dict[bytes, np.ndarray]:
    if not file.is_file():
        return {}
    try:
        with file.open("rb") as stream, np.load(stream) as content:
            digests, features = content["digests"], content["features"]
        return {digest.tobytes(): values for digest, values in zip(digests, features, strict=True)}
    except Exception as error:  # zip, numpy and the disk have each their own
        log.warning("The cached features %s are damaged (%s) and are made anew.", file, error)
        return {}


def _write(file: Path, known: dict[bytes, np.ndarray]) -> None:
    digests = np.frombuffer(b"".join(known), np.uint8).reshape(-1, 16)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with replacing(file, "wb") as unfinished:
            np.savez(unfinished, digests=digests, features=np.stack(list(known.values())))
    except OSError as error:
        log.warning("The features cannot be kept in %s (%s). IMGBENCH_CACHE=DIR moves it.", file, error.strerror)


class _Features(Deployed):
    """uint8 (N, image_size, image_size, 3) -> (N, D)."""

    @property
    def outputs(self) -> tuple[str, ...]:
        return ("features",)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        return (embedded(self.classifier, images.permute(0, 3, 1, 2)),)


def embedded(classifier: Network, images: Tensor) -> Tensor:
    """The inputs of the last layer, (N, D), of uint8 images (N, 3, image_size, image_size)."""
    model: Any = classifier.model
    return model.forward_head(model.forward_features(classifier.normalized(images)), pre_logits=True)


@torch.inference_mode()
def features_of_pixels(classifier: Network, images: Tensor) -> np.ndarray:
    """(N, D) float32, `embedded` of these images on the classifier's device, whatever else is in their batch."""
    device = classifier.offset.device
    with full_precision(device.type):
        return embedded(classifier, images.to(device)).float().cpu().numpy()


def _embedding(classifier: Network, images: int) -> tuple[Embed, int]:
    """What computes features, and in how many threads at once.

    onnxruntime on the CPU, where it is three times as fast as PyTorch, and nearly twice as fast as PyTorch in bf16 on
    processors that multiply it; else the classifier's device.
    """
    if classifier.offset.device.type == "cpu" and images >= WORTH_EXPORTING:
        try:
            return _onnx_embedding(classifier), cores()
        except UserError as error:
            log.warning("Computing features with PyTorch, which is slower. %s", error)

    return partial(features_of_pixels, classifier), 1


def _onnx_embedding(classifier: Network) -> Embed:
    """Raises UserError: the network cannot be expressed."""
    graph = exported(_Features(classifier)).SerializeToString()
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors
    options.intra_op_num_threads = 1  # each core has images of its own, so that none waits for another
    session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])

    def embed(pixels: Tensor) -> np.ndarray:
        return np.asarray(session.run(None, {"pixels": pixels.permute(0, 2, 3, 1).contiguous().numpy()})[0])

    return embed


def _compute(
    embed: Embed,
    data: ImageFolderDataModule,
    rows: np.ndarray,
    threads: int,
    batch: int,
    end: float,
    least: int,
) -> np.ndarray:
    """Features of the first rows, as many as there is time for."""
    images = data.images(rows)

    def chunk(start: int) -> np.ndarray | None:
        if start >= least and time.monotonic() > end:
            return None
        pixels, _ = images.__getitems__(list(range(start, min(start + batch, len(rows)))))
        return embed(data.preprocessing.center_crop(pixels))

    found = []
    with Step("Computing features", len(rows)) as progress, ThreadPoolExecutor(threads) as pool:
        for features in pool.map(chunk, range(0, len(rows), batch)):
            if features is None:
                break
            found.append(features)
            progress.advance(len(features))
    return np.concatenate(found)

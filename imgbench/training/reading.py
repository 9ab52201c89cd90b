"""Reading checkpoints without trust in where they are from; Lightning, which takes seconds to import, is not needed."""

import errno
import math
import pickle
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules.module import register_module_parameter_registration_hook
from torch.overrides import TorchFunctionMode

from imgbench.errors import UserError
from imgbench.preprocessing import LARGEST_IMAGE, Preprocessing
from imgbench.stored_config import with_resize
from imgbench.training.network import Network
from imgbench.trust import check_target, is_trusted_by_user

T = TypeVar("T", bound=Network)
DRAWING = ("normal_", "uniform_")  # methods of a tensor

# Elements of a network, 800 MB: pruned, its file can be a hundred times smaller than what it is cut from.
ALWAYS_ALLOWED = 200_000_000


def load(path: Path, kind: type[T]) -> T:
    """The classifier in a checkpoint, on the CPU, as an ImageClassifier or a LoadedNetwork.

    The file may be of unknown origin: no code in it is executed, no module is imported but those of `check_target`,
    nothing is downloaded, and no more memory is taken than the file's own weights need.

    Raises:
        UserError: the file is none of imgbench's checkpoints, or it names a model that is not trusted.
    """
    content = read_checkpoint(path)
    try:
        hparams, weights = content["hyper_parameters"], content["state_dict"]
        _check_hyper_parameters(hparams)
        with _limited(2 * len(weights) + 100, max(path.stat().st_size, ALWAYS_ALLOWED)), _Undrawn():
            _check_weights(_outline(kind, hparams), weights)
            classifier = kind(**hparams)
        classifier.load_state_dict(weights)
        return classifier
    except UserError as error:
        raise UserError(f"{path} cannot be used: {error}") from error
    except Exception as error:  # whatever a forged or damaged file makes of the code that reads it
        raise UserError(f"{path} is no checkpoint of imgbench, or a damaged one ({type(error).__name__}).") from error


def read_checkpoint(path: Path) -> dict[str, Any]:
    """What is in a checkpoint, in today's format; the tensors stay on disk until they are used.

    Raises:
        UserError: the file is none of imgbench's checkpoints.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of tensors that no checkpoint of imgbench has
            return upgrade(mapped_or_read(path))
    except FileNotFoundError as error:
        raise UserError(f"{path} does not exist.") from error
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.") from error
    except pickle.UnpicklingError as error:
        raise UserError(
            f"{path} is no checkpoint of imgbench: it is damaged, or it holds pickled code, which was not executed."
        ) from error
    except Exception as error:
        raise UserError(f"{path} is no checkpoint of imgbench, or a damaged one ({type(error).__name__}).") from error


def mapped_or_read(path: Path) -> dict[str, Any]:
    """What a file of torch holds, without code; read where it cannot be mapped, as in want of memory or on some disks.

    Raises:
        Exception: whichever torch has for a damaged file.
        OSError: the file cannot be opened or read.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except RuntimeError as error:
        if not re.match("unable to (mmap|open)", str(error)):  # a damaged file
            raise
    except OSError as error:
        if error.errno == errno.EINVAL:  # torch seeks before the beginning of a file that was cut short
            raise EOFError("the file was cut short") from error
        raise
    return torch.load(path, map_location="cpu", weights_only=True)


def upgrade(content: dict[str, Any]) -> dict[str, Any]:
    """A checkpoint of any earlier version as today's would have written it; one of today's stays as it is."""
    hparams = dict(content["hyper_parameters"])
    model = hparams["model"] = dict(hparams["model"])
    if _is_dict(hparams.get("preprocessing")):
        hparams["preprocessing"] = with_resize(hparams["preprocessing"])
    upgraded = {**content, "hyper_parameters": hparams}
    if "pretrained" in model:
        model["pretrained"] = False  # the weights are here: nothing is to be downloaded
    if model.get("_target_") == "imgbench.models.student.SmallStudent":
        model["_target_"] = "imgbench.models.compact.CompactCNN"
    if model.get("_target_") == "imgbench.models.cnn.CNN":
        # A layer before the dense ones was counted, and dropout that was left out was not.
        found = [re.match(r"model\.classifier\.(\d+)\.", name) for name in content.get("state_dict", {})]
        old = sorted({int(match[1]) for match in found if match})
        new = {str(number): str(3 * index) for index, number in enumerate(old)}

        def renamed(values: dict[str, Any]) -> dict[str, Any]:
            number = re.compile(r"(?<=classifier\.)\d+")
            return {number.sub(lambda match: new[match[0]], name): value for name, value in values.items()}

        for name in ("state_dict", "current_model_state"):  # the latter where weights are averaged
            if name in content:
                upgraded[name] = renamed(content[name])
        if hparams.get("widths"):
            hparams["widths"] = renamed(hparams["widths"])
    return upgraded


def _check_hyper_parameters(hparams: dict[str, Any]) -> None:
    """Whether they are of the types that ImageClassifier takes, and name nothing that is not trusted."""
    unknown = hparams.keys() - HYPER_PARAMETERS.keys()
    if unknown:
        raise UserError(f"its hyper-parameters have {sorted(map(str, unknown))}, which no classifier has.")
    for name, (is_valid, expected) in HYPER_PARAMETERS.items():
        if name in hparams and not is_valid(hparams[name]):
            raise UserError(f"its {name} is {_short(hparams[name])}, but {expected}.")
    preprocessing = hparams["preprocessing"]
    size = preprocessing.get("image_size")
    if type(size) is not int or not 0 < size <= LARGEST_IMAGE:
        raise UserError(f"its image_size is {_short(size)}, but a number of pixels from 1 to {LARGEST_IMAGE}.")
    for name in ("mean", "std"):
        values = preprocessing.get(name)
        positive = name == "mean" or (_are_numbers(values) and min(values) > 0)
        if not (_are_numbers(values) and len(values) == 3 and positive):
            raise UserError(f"its {name} is {_short(values)}, but has three numbers, one per colour.")
    _ = Preprocessing.from_dict(preprocessing)  # the rest is said there
    if hparams.get("class_weights") and len(hparams["class_weights"]) != len(hparams["class_names"]):
        raise UserError(f"it has {len(hparams['class_names'])} classes, and {len(hparams['class_weights'])} weights.")
    for name in ("model", "optimizer", "scheduler"):
        if hparams.get(name):
            check_target(hparams[name].get("_target_"), f"{name}._target_")


def _are_numbers(value: Any) -> bool:
    return isinstance(value, list | tuple) and bool(value) and all(map(_is_number, value))


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def _are_names(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(type(name) is str for name in value)


def _are_widths(value: Any) -> bool:
    shapes = value.values() if isinstance(value, dict) else [None]
    return all(isinstance(shape, list) and all(type(size) is int for size in shape) for shape in shapes)


def _is_dict(value: Any) -> bool:
    return isinstance(value, dict) and all(type(name) is str for name in value)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


# For each hyper-parameter of a classifier, whether a value can be one, and what is expected.
HYPER_PARAMETERS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "model": (_is_dict, "a configuration with a _target_"),
    "class_names": (lambda value: _are_names(value) and len(set(value)) == len(value), "a list of different names"),
    "preprocessing": (_is_dict, "a dictionary with image_size, mean and std"),
    "optimizer": (lambda value: value is None or _is_dict(value), "a configuration with a _target_, or null"),
    "scheduler": (lambda value: value is None or _is_dict(value), "a configuration with a _target_, or null"),
    "label_smoothing": (lambda value: _is_number(value) and 0 <= value <= 1, "a number from 0 to 1"),
    "class_weights": (lambda value: value is None or _are_numbers(value), "one number per class, or null"),
    "provenance": (lambda value: value is None or _is_dict(value), "a dictionary, or null"),
    "monitor": (lambda value: type(value) is str, "the name of a metric"),
    "mode": (lambda value: value in ("max", "min"), "max or min"),
    "widths": (lambda value: value is None or _are_widths(value), "the shapes of pruned layers' weights, or null"),
}


class _Undrawn(TorchFunctionMode):
    """Draws no initial values for parameters, which get those of the checkpoint.

    For those of a large network that takes a second, and for those of one without memory, torch imports its compiler,
    which takes more than one.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func.__name__ in DRAWING or getattr(func, "__module__", None) == "torch.nn.init":
            target = args[0] if args else kwargs.get("tensor")
            if isinstance(target, nn.Parameter):
                return target
        return func(*args, **kwargs)


class _TooLarge(UserError):
    pass


@contextmanager
def _limited(parameters: int, elements: int) -> Iterator[None]:
    """Stops the building of networks inside that would have more parameters, or more elements of them in all."""
    count = size = 0

    def add(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        nonlocal count, size
        if parameter is not None:
            count, size = count + 1, size + parameter.numel()
            if count > parameters or size > elements:
                raise _TooLarge("its hyper-parameters describe a network that is far larger than the weights in it.")

    hook = register_module_parameter_registration_hook(add)
    try:
        yield
    finally:
        hook.remove()


def _outline(kind: type[T], hparams: dict[str, Any]) -> T:
    """The classifier without numbers, which takes no memory; of networks that need some to be built, with them."""
    try:
        with torch.device("meta"):
            return kind(**hparams)
    except _TooLarge:
        raise
    except UserError:
        return kind(**hparams)


def _check_weights(outline: Network, weights: dict[str, Any]) -> None:
    """Whether the weights are those of this classifier, and it takes its own images and tells its own classes apart."""
    expected = outline.state_dict()
    if differing := sorted(map(str, expected.keys() ^ weights.keys())):
        which = "lacks" if differing[0] in expected else "has, beyond those of its network,"
        raise UserError(f"it {which} the weights {differing[0]}.")
    for name, value in expected.items():
        found = weights[name]
        is_dense = isinstance(found, Tensor) and found.layout == torch.strided and found.device.type == "cpu"
        if not is_dense or found.is_floating_point() != value.is_floating_point() or found.shape != value.shape:
            kind = f"{found.dtype} {list(found.shape)}" if is_dense else "no ordinary tensor"
            raise UserError(f"its weights {name} are {kind}, but its network has {value.dtype} {list(value.shape)}.")
    device = next((value.device for value in expected.values()), torch.device("cpu"))
    if device.type != "meta" or is_trusted_by_user(outline.hparams["model"]["_target_"]):
        return  # a user's own network may need numbers to be computed
    size, number = outline.hparams["preprocessing"]["image_size"], len(outline.class_names)
    model = outline.eval().model
    try:
        # A batch of none takes no memory either, and torch imports its compiler, more than a second, for the other way.
        own = {name.removeprefix("model."): value for name, value in weights.items() if name.startswith("model.")}
        shape = list(functional_call(model, own, torch.empty(0, 3, size, size)).shape)
    except Exception:  # not all networks take that, nor do weights of other types
        shape = []
    if shape == [0, number]:
        return
    try:
        shape = list(model(torch.empty(2, 3, size, size, device="meta")).shape)
    except Exception as error:
        raise UserError(f"its network does not take its images of {size} x {size} pixels: {error}") from error
    if shape != [2, number]:
        raise UserError(f"its network has outputs of shape {shape} for two images, but {number} classes.")

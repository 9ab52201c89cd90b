"""LightningModules, schedules, callbacks, and the device's fast settings."""

import logging
import warnings

import lightning.pytorch  # noqa: F401 sets its own log level when imported, so ours comes after

# What Lightning has to say of devices, tips and cloud services would bury what a user needs to read.
logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
logging.getLogger("lightning.fabric").setLevel(logging.WARNING)
# Lightning's own use of PyTorch, which only Lightning can mend.
warnings.filterwarnings("ignore", message=".*LeafSpec.*is deprecated")
# The cache hands out batches in a millisecond without workers; see ImageFolderDataModule.
warnings.filterwarnings("ignore", message=".*does not have many workers which may be a bottleneck")
# Tiny data sets have fewer batches than Lightning's logging interval, which only concerns its own loggers.
warnings.filterwarnings("ignore", message=".*smaller than the logging interval")

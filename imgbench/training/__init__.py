"""LightningModules, schedules, callbacks, and the device's fast settings."""

"""Plain nn.Modules: they know nothing of Lightning, Hydra, or data."""

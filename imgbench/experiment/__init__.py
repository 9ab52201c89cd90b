"""A composed configuration -> a finished run."""

"""Files on disk -> batches. Knows nothing of models."""

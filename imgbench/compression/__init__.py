"""From a trained classifier to a smaller one, or to a file."""

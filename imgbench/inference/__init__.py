"""A finished run -> a function of images."""

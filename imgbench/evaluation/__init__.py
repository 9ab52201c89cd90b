"""Predictions -> numbers, statistics and pictures."""

"""Measures of imgbench itself, which the wheel leaves out: its audit, intervals, growth, kills and damaged files."""

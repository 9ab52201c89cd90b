"""Predictions -> numbers, statistics and pictures."""

import logging

# Drawn with for the first time, matplotlib reports that it "generated new fontManager", which tells a user nothing.
logging.getLogger("matplotlib.font_manager").setLevel(logging.WARNING)

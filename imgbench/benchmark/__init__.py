"""How fast this machine trains, against the ways people write it by hand: `python -m imgbench.benchmark`."""

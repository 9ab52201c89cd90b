"""A page on which anybody can try a run: served from this machine, or as a folder for any web space."""

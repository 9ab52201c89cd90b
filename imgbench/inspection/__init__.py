"""Files on disk -> findings: what a data set should be asked before it is trained on."""

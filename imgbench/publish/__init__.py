"""A run -> others: a model card, a hub, a page with a server and one without."""

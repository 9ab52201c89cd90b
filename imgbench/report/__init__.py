"""A run -> what it is worth: its evaluation, its page and its advice."""

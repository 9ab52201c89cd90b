"""Files made to do harm: how they are made, what reads them, and what is seen of it."""

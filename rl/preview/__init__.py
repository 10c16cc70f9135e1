"""A look before a run: what it will ask, and what it will take."""

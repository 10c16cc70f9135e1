"""A run: its folder and what it keeps there, and what it shows while it goes."""

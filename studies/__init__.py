"""Experiments with a protocol written before they were run; they use the project and are not installed with it."""

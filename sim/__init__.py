"""Simulation of prompt populations under a weighting: empty so far, kept so that its doors are checked."""

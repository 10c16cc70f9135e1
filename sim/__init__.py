"""Simulation of prompt populations under a weighting. Nothing is here yet; the room is kept so that its doors are checked."""

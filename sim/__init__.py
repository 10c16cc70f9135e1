"""Simulation of prompt populations under weightings and weight tables: engines, worlds, measures, sweeps."""

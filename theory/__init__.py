"""Formulas of prompt weighting: weightings, surrogates, clocks, dynamics and their closed forms."""

"""Figures: each draws one thing and writes the plotted numbers beside the picture."""

"""Many prompts under one budget a step: the problem, lower bounds, and the best shared weighting."""

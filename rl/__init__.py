"""A lean reinforcement-learning loop that trains language models from weight tables."""

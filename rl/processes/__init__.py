"""Several processes as one run: who leads, what they share out, how they fail together."""

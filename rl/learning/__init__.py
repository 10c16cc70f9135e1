"""Learning from a batch: its loss, the gradient of that, the update of the weights."""

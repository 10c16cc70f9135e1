"""Trackers: TensorBoard, trackio and wandb, each by an extra, fed with the records of the run."""

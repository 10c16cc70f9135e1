"""Samplers: one module per backend, each implementing `rl.rollout.Sampler`."""

"""Samplers: one module per backend, each implementing `rl.samplers.rollout.Sampler`."""

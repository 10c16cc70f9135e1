"""The pages of the catalogue: one keyword record per weighting, its formulas beside the text that people read."""

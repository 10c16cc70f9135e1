"""A ladder of experiments, each predicted before it is run, to see where the theory stops holding; see protocol.md."""

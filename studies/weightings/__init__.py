"""Which prompt weighting trains a small model fastest: nine of them, two tasks, two starts; see protocol.md."""

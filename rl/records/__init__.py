"""What a run writes down, read without torch."""

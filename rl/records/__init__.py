"""What a run leaves behind, besides its models."""

"""Language models: read, computed, adapted, saved."""

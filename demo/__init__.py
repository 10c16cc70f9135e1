"""The demonstration behind ``make demo`` and ``weightopt demo``; it uses the project through its command line."""

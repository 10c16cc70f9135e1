"""The demonstration behind ``make demo``; it uses the project through its command line and is not installed with it."""

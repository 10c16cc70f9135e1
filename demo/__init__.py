"""The demonstration behind ``make demo`` and ``weightopt demo``; it uses the project through its command line."""

ADVISED, REFERENCE = "advised", "grpo"  # tables of the demonstration: the one advised, and what it is compared with

"""Names of the demonstration's tables: the one that is advised, and the one that ratios are to."""

ADVISED, REFERENCE = "advised", "grpo"

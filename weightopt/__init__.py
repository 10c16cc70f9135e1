"""Time-optimal prompt weights: problems, solvers, certificates, tables and the command line."""

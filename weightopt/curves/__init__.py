"""Weight curves: the problem, its direct solvers by constraint, and the certificate."""

"""Tables of advantages for groups of M responses: for one start, and for a range of starts."""

"""A weight table inside the trainers of others.

`GroupWeigher` is what all hosts share; it needs numpy and `weightopt.table` alone. A module here that has the name of a
host is the only one that imports it.
"""

from weightopt.adapters.weigher import AdapterError, GroupWeigher

__all__ = ["AdapterError", "GroupWeigher"]

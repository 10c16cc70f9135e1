"""What an engine in this process may not change: random generators, and the number of threads.

vLLM seeds the global generators of Python, numpy and torch when it is built and draws from torch's while it samples; on
a CPU it also puts a function that does nothing in the place of ``torch.set_num_threads``.
"""

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


@contextmanager
def undisturbed() -> Iterator[None]:
    """Put back, at the end of a ``with`` block, the global random state and how many threads torch uses."""
    python_state = random.getstate()
    numpy_state = np.random.get_state()  # noqa: NPY002 - the global generator is the one that is in danger
    set_num_threads, threads = torch.set_num_threads, torch.get_num_threads()
    try:
        with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
            yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)  # noqa: NPY002
        torch.set_num_threads = set_num_threads
        if torch.get_num_threads() != threads:
            torch.set_num_threads(threads)

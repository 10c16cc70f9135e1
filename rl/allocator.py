"""Memory that stays with the process.

A step allocates the same large buffers again and again: logits, attention weights, gradients, the key/value cache. The
allocator of glibc asks the system for each of them and gives it back, and the system clears every page that it hands
out: on SmolLM2 that took as long as the computing. Here the allocator is told to keep what it has. No result changes;
after its largest step a process holds what that step needed, as it would with an allocator that knows tensors.
"""

import ctypes
import os

# From malloc.h.
M_TRIM_THRESHOLD = -1
M_MMAP_THRESHOLD = -3

LARGEST = 2**30  # the limit of what old versions of glibc take is lower, and they leave theirs as it is
VARIABLES = ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_")


def keep_memory() -> bool:
    """Let this process keep the memory that it frees, for its next allocations.

    Where the C library is not glibc nothing is done, and neither is where the environment sets
    ``MALLOC_MMAP_THRESHOLD_`` or ``MALLOC_TRIM_THRESHOLD_``: then somebody has decided.

    Returns
    -------
    bool
        Whether it does now.
    """
    if any(variable in os.environ for variable in VARIABLES):
        return False
    try:
        library = ctypes.CDLL(None)
        library.gnu_get_libc_version  # noqa: B018 - other C libraries have no such symbol
        mallopt = library.mallopt
    except (OSError, AttributeError, TypeError):
        return False
    mallopt.argtypes, mallopt.restype = (ctypes.c_int, ctypes.c_int), ctypes.c_int
    return bool(mallopt(M_MMAP_THRESHOLD, LARGEST)) and bool(mallopt(M_TRIM_THRESHOLD, LARGEST * 2 - 1))

"""Random seeds derived from the run's seed.

Every draw of a run (the prompts of step 7, their responses, an evaluation) has its own seed, computed from the run's
seed and the name of the draw. No generator state is carried from step to step, so a resumed run needs none, and two
runs with the same seed and different weight tables see the same prompts.
"""

from hashlib import sha256


def derive_seed(seed: int, *name: str | int) -> int:
    """Seed of the draw called ``name`` in a run with seed ``seed``.

    The name says what the draw is for, from general to particular, e.g. ``"prompts", 7``. The seed is in [0, 2**63),
    which ``random.Random``, numpy and torch accept alike.
    """
    text = "/".join(str(part) for part in (seed, *name))
    return int.from_bytes(sha256(text.encode()).digest()[:8], "big") >> 1

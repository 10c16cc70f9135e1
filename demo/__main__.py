"""``python -m demo`` is ``weightopt demo``."""

import sys

from weightopt.cli import main

if __name__ == "__main__":
    sys.argv[1:1] = ["demo"]
    main()

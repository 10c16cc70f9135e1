"""The command line, as ``weightopt`` and as ``python -m weightopt``."""

import sys


def main() -> None:
    """Load the command line, which takes a moment in which Ctrl-C has its sentence too, and run it."""
    try:
        from weightopt.cli import main as run
    except KeyboardInterrupt:
        print("weightopt: interrupted.", file=sys.stderr)
        sys.exit(130)
    run()


if __name__ == "__main__":
    main()

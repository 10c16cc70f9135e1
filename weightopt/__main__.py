"""``python -m weightopt``: the command line."""

from weightopt.cli import main

if __name__ == "__main__":
    main()

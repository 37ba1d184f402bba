"""Entry point of ``python -m ignite_launch``."""

import sys

from .cli import main

if __name__ == "__main__":
    sys.exit(main())

"""`python -m policysearch` is the command line."""

import sys

from policysearch.cli.main import main

if __name__ == "__main__":
    sys.exit(main())

"""`python -m manyview.cli`: the same as the `manyview` command."""

import sys

from manyview.cli import main

if __name__ == "__main__":
    sys.exit(main())

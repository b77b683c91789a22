"""`python -m blemish.cli`."""

import sys

from blemish.cli.main import main

sys.exit(main())

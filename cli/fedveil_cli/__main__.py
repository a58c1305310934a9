"""`python -m fedveil_cli` is the command `fedveil`."""

import sys

from fedveil_cli.main import main

sys.exit(main())

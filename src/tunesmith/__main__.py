"""`python -m tunesmith`, and what `torchrun -m tunesmith` starts."""

import sys

from tunesmith.cli import main

sys.exit(main())

"""`python -m core.cli` is the same as `dfm`."""

from __future__ import annotations

import sys

from core.cli import main

sys.exit(main())

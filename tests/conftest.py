"""Makes what tests of several rooms use importable: the modules in `shared`."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent / "shared"))
pytest.register_assert_rewrite("scoring_cases")

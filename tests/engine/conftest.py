"""Makes the contract and the test workers importable, here and in the worker processes (they get this sys.path)."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
pytest.register_assert_rewrite("contract")

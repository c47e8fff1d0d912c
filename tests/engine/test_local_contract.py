"""The local engine under the contract, with workers on the loop and in processes."""

import pytest
from contract import *  # noqa: F403
from contract import EngineCase

from fairtrial.engine.local import LocalEngine


@pytest.fixture(params=["async", "process"])
def engine(request):
    return EngineCase(LocalEngine, request.param)

"""One parent of processes for all tests of a worker."""

import pytest

from tests.processes import launching


@pytest.fixture(scope='session')
def zygote():
  """Starts commands without their imports; see `launching.Zygote`."""
  with launching.zygote() as parent:
    yield parent

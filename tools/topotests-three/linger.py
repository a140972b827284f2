"""For pytest (tools/topotests, the mode `three`): the routers stay a while after the last test.

By then all three voters have said what they say, also where a test needs only two of them.
"""

import time

import pytest


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_teardown(nextitem):
    if nextitem is None:
        time.sleep(10)

"""The suite's own rules: what shares a machine, a run or a chain stays in one worker of pytest-xdist."""

from __future__ import annotations

import os

import pytest


@pytest.mark.skipif("PYTEST_XDIST_WORKER" not in os.environ, reason="pytest runs without -n: there are no workers")
def test_pytest_xdist_sees_the_groups_of_tests(request: pytest.FixtureRequest) -> None:
    assert request.node.nodeid.endswith("@unit/test_suite.py")  # the scheduler reads the group there

"""Settings shared by all tests."""

import hypothesis
import pytest

from tests.libraries import LIBRARIES, Library

# Deterministic, so that a failure anywhere can be repeated everywhere; `--hypothesis-profile=search`
# looks for new examples, and those it finds become `@example`s.
hypothesis.settings.register_profile("repeatable", deadline=None, max_examples=60, derandomize=True)
hypothesis.settings.register_profile("search", deadline=None, max_examples=2000)
hypothesis.settings.load_profile("repeatable")


@pytest.fixture(
    scope="session",
    params=[
        pytest.param(x, id=x.name, marks=[pytest.mark.nn] if x.name == "torch" else []) for x in LIBRARIES
    ],
)
def library(request: pytest.FixtureRequest) -> Library:
    """Each array library in turn: NumPy, array-api-strict, and torch where it is installed."""
    chosen: Library = request.param
    return chosen

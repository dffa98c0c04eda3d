"""Settings shared by all tests."""

import signal
import sys
from collections import Counter
from collections.abc import Iterator

import hypothesis
import pytest

from tests.libraries import LIBRARIES, Library

# Deterministic, so that a failure anywhere can be repeated everywhere; `--hypothesis-profile=search`
# looks for new examples, and those it finds become `@example`s.
hypothesis.settings.register_profile("repeatable", deadline=None, max_examples=60, derandomize=True)
hypothesis.settings.register_profile("brief", deadline=None, max_examples=12, derandomize=True)
hypothesis.settings.register_profile("search", deadline=None, max_examples=2000)
hypothesis.settings.load_profile("repeatable")


@pytest.fixture(autouse=True)
def _figures_forget_what_others_read() -> Iterator[None]:
    """Empty the list of files read for a figure, which scripts keep for their process."""
    yield
    if "style" in sys.modules:
        sys.modules["style"]._sources.clear()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--brief", action="store_true", help="a fifth of cases and examples, nothing slow")


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--brief"):
        hypothesis.settings.load_profile("brief")
    # Studies are sent signals, and inherit those that nohup or a shell in the background has ignored.
    for number, handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, handler)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """With --brief, keep the first of every five cases of a test, and no slow one."""
    if not config.getoption("--brief"):
        return
    seen: Counter[str] = Counter()
    kept: list[pytest.Item] = []
    left_out: list[pytest.Item] = []
    for item in items:
        test = item.nodeid.partition("[")[0]
        (left_out if seen[test] % 5 or "slow" in item.keywords else kept).append(item)
        seen[test] += 1
    config.hook.pytest_deselected(items=left_out)
    items[:] = kept


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

"""The core stands alone."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytestmark = pytest.mark.nn


def test_evodyn_imports_no_torch_and_the_bridge_does() -> None:
    code = "import sys, {}; print('torch' in sys.modules)"
    out = [
        subprocess.run(
            [sys.executable, "-c", code.format(name)], capture_output=True, text=True, check=True
        ).stdout.strip()
        for name in ("evodyn", "nn_bridge")
    ]
    assert out == ["False", "True"]

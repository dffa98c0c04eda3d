"""What a run is asked for beside its trajectory: rest, progress, interruption, dense output, thresholds."""

from __future__ import annotations

import os
import pickle
import signal
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import evodyn as ed
from evodyn import landscapes
from evodyn.core import progress
from evodyn.core.arrays import FloatArray
from evodyn.simulate.method import MethodName
from tests.libraries import COMPILED_OR_NOT

REPLICATOR = ed.Replicator()
METHODS: tuple[MethodName, ...] = ("RK45", "DOP853", "LSODA", "BDF")
C, DECAY = np.array([1.0, 0.9, 0.2]), 0.3
REGULATED = landscapes.LinearDecay(C, DECAY)

"""Studies: `python studies/NAME.py` in a clone, `evodyn NAME` where they are installed."""

import importlib
import sys

# A script finds what all studies share beside itself, as `_shared`; so does a study of this package.
sys.modules.setdefault("_shared", importlib.import_module("._shared", __name__))

"""MuJoCo's warnings: once a kind on stderr, instead of at every rollout and in a file MUJOCO_LOG.TXT.

A divergence is known without: it makes its trial failed. MuJoCo is imported only where an environment needs it anyway.
"""

from __future__ import annotations

import re
import sys
from typing import Any

_told: set[str] = set()


def tell_once() -> None:
    """Take MuJoCo's warnings in this process, unless it is not in use here or somebody else takes them."""
    mujoco: Any = sys.modules.get("mujoco")
    # not every version has this hook
    if hasattr(mujoco, "set_mju_user_warning") and mujoco.get_mju_user_warning() is None:
        mujoco.set_mju_user_warning(_tell)


def _tell(text: str) -> None:
    kind = re.sub(r"[-+]?\d[\d.e+-]*", "#", text)  # the same at another time or joint
    # a user can do nothing about what the model of somebody else's environment declares
    if "deprecated" not in text and kind not in _told:
        _told.add(kind)
        print(f"MuJoCo warns: {text}", file=sys.stderr, flush=True)

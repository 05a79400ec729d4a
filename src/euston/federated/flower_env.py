"""Environment of everything Flower and Ray start: no telemetry, no update checks, nothing installed at
run time.
"""

from __future__ import annotations

import os
import sys

__all__ = ["QUIET", "quiet_environment", "silence"]

QUIET = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_DEDUP_LOGS": "0",
}
"""Flower posts usage to its vendor and asks for updates, Ray posts usage, unless told otherwise."""


def silence() -> None:
    """Set `QUIET` in this process; must run before flwr is imported, which reads it then."""
    os.environ.update(QUIET)


def quiet_environment(home: str) -> dict[str, str]:
    """Environment for a child: quiet, and with Flower's files under `home` instead of the user's."""
    tools = os.path.dirname(sys.executable)  # Flower starts its own tools by name
    path = os.pathsep.join(part for part in (tools, os.environ.get("PATH", "")) if part)
    return {**os.environ, **QUIET, "PATH": path, "FLWR_HOME": home, "PYTHONUNBUFFERED": "1"}

"""The demo's simulation, and the whole command as a person starts it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from _harness import Outcome, case, main

DEMO = Path(__file__).resolve().parents[1] / "examples" / "llama3-405b-16k.yaml"
ACCELERATORS = 16_384


@case("simulate llama3-405b on 16,384 accelerators")
def simulate() -> Outcome:
    import euston

    result = euston.simulate(DEMO)
    return Outcome(work={"accelerators": ACCELERATORS}, check=result.scalars["step_time"])


@case("the command `euston simulate --json`, process and all")
def command() -> Outcome:
    import json

    arguments = [str(Path(sys.executable).parent / "euston"), "simulate", str(DEMO), "--json", "--quiet"]
    done = subprocess.run(arguments, check=True, capture_output=True, text=True)
    return Outcome(
        work={"accelerators": ACCELERATORS}, check=float(json.loads(done.stdout)["scalars"]["step_time"])
    )


if __name__ == "__main__":
    main()

"""Runs an exported folder in SimGrid and prints ends of flows; `write_simgrid` puts a copy into the folder.

    python3 run.py > ends.json

Needs SimGrid's Python package only (Debian: python3-simgrid). Ends are those of the transfers: a flow's path
latency (last argument of its actor before its predecessors) is not in them, but dependants wait for it.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree


def settings(folder: Path) -> list[str]:
    """Lines of ``settings.txt``."""
    return (folder / "settings.txt").read_text(encoding="utf-8").split()


def actors(folder: Path) -> list[dict[str, Any]]:
    """The flows of ``deployment.xml``, in order."""
    found = []
    for actor in ElementTree.parse(folder / "deployment.xml").getroot():
        _, to, size, start, delay, latency, *after = [a.attrib["value"] for a in actor]
        times = {"start": float(start), "delay": float(delay), "latency": float(latency)}
        found.append({"from": actor.get("host"), "to": to, "bytes": int(size), **times, "after": after})
    return found


def main() -> None:
    """One actor sends all flows that start at once; each of the others is an actor of its own."""
    import simgrid  # type: ignore[import-not-found]

    folder = Path(sys.argv[1] if len(sys.argv) > 1 else __file__).resolve()
    folder = folder if folder.is_dir() else folder.parent
    options = [f"--cfg={option}" for option in settings(folder)]
    engine = simgrid.Engine(["euston", "--log=root.thres:error", *options])
    begun = time.process_time()
    engine.load_platform(str(folder / "platform.xml"))
    loaded = time.process_time()
    flows = actors(folder)
    ends = [float("nan")] * len(flows)
    waiting: list[list[int]] = [[] for _ in flows]
    for f, flow in enumerate(flows):
        for before in flow["after"]:
            waiting[int(before)].append(f)
    gate = [simgrid.Semaphore(0) for _ in flows]

    def send(flow: dict[str, Any]) -> Any:
        ends_of = simgrid.Host.by_name(flow["from"]), simgrid.Host.by_name(flow["to"])
        return simgrid.Comm.sendto_async(*ends_of, flow["bytes"])

    def at_once(those: list[int]) -> Callable[[], None]:
        def act() -> None:
            comms = [send(flows[f]) for f in those]
            simgrid.Comm.wait_all(comms)
            for f, comm in zip(those, comms, strict=True):
                ends[f] = comm.finish_time

        return act

    def alone(f: int) -> Callable[[], None]:
        flow = flows[f]

        def act() -> None:
            for _ in flow["after"]:
                gate[f].acquire()
            if flow["after"]:
                simgrid.this_actor.sleep_for(flow["delay"])
            simgrid.this_actor.sleep_until(flow["start"])
            send(flow).wait()
            ends[f] = simgrid.Engine.clock
            if waiting[f]:
                simgrid.this_actor.sleep_for(flow["latency"])
            for g in waiting[f]:
                gate[g].release()

        return act

    free = [f for f, w in enumerate(flows) if not (w["after"] or w["start"] or w["delay"] or waiting[f])]
    if free:
        simgrid.Actor.create("all", simgrid.Host.by_name(flows[free[0]]["from"]), at_once(free))
    for f in sorted(set(range(len(flows))) - set(free)):
        simgrid.Actor.create(f"flow {f}", simgrid.Host.by_name(flows[f]["from"]), alone(f))
    engine.run()
    used = {"load_cpu_s": loaded - begun, "run_cpu_s": time.process_time() - loaded}
    sys.stdout.write(json.dumps({"ends": ends, "clock": simgrid.Engine.clock, **used}) + "\n")


if __name__ == "__main__":
    main()

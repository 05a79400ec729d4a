"""Weeks of training with failures: a simulated week on 16,384 accelerators, and a year of events alone."""

from __future__ import annotations

from pathlib import Path

from _harness import Outcome, case, main

EXAMPLE = Path(__file__).parent.parent / "examples" / "faulty-week.yaml"


@case("a week of 405B on 16,384 accelerators, every cluster state simulated")
def week() -> Outcome:
    from euston.runs.campaign import simulate_campaign

    result = simulate_campaign(str(EXAMPLE), seed=0)
    work = {
        "accelerators": result.scalars["accelerators"],
        "steps": result.scalars["steps"],
        "events": float(result.tables["events"].height),
        "states": float(result.tables["states"].height),
    }
    return Outcome(work=work, check=result.scalars["ettr"])


@case("a year of 131,072 accelerators at RSC-1's rate, steps of one length")
def year() -> Outcome:
    from euston.training.reliability import (
        Campaign,
        Checkpoint,
        FixedSteps,
        Recovery,
        modes,
        named_laws,
        population_of_hosts,
        run_campaign,
    )

    hosts = 131_072 // 8
    plan = Campaign(
        FixedSteps(6.0, 1e8, hosts_per_replica=16, replicas=hosts // 16),
        modes(named_laws("rsc-1"), repair=43_200.0),
        population_of_hosts(hosts),
        Checkpoint("async", "daly", stall=0.1, write=20.0, load=20.0),
        Recovery(detection=120.0, spares=128),
        parameters=1e12,
        ranks=131_072,
        duration=365 * 86_400.0,
    )
    found = run_campaign(plan)
    return Outcome(work={"events": float(len(found.events)), "steps": found.steps}, check=found.ettr)


if __name__ == "__main__":
    main()

"""What a round asks for before anything runs: who takes part, what goes down to whom, which moments come up.

The aggregator and the simulator both ask here, so that they cannot disagree.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np

from euston.federated.config import FederationConfig
from euston.federated.layout import Flat

__all__ = ["Down", "client_bytes", "down_parts", "moments_down", "moments_up", "sample"]


@dataclass(frozen=True)
class Down:
    """One fragment on its way to a client: whole (`full`), or as the change since the last round."""

    fragment: int
    full: bool
    at_step: int = 0


@dataclass(frozen=True)
class ClientBytes:
    """Payload of one client in one round.

    Attributes
    ----------
    down, up : int
        From and to the aggregator; under ``ar`` and ``rar`` an update that goes to peers counts as `up`.
    catch_up : bool
        Whether what goes down is a first model, or one for a client that has missed rounds.
    """

    down: int
    up: int
    catch_up: bool


def sample(config: FederationConfig, round_: int, failed: int, there: Collection[int]) -> list[int]:
    """K of the clients that are `there`, ascending. A client that is away changes nobody else's turn.

    Parameters
    ----------
    round_, failed : int
        Committed exchanges, and attempts at this one that have failed.
    """
    key = np.random.SeedSequence((config.seed, 0x5A3B, round_, failed))
    turn = np.random.Generator(np.random.Philox(key)).permutation(config.clients)
    here = set(there)
    return sorted([int(k) for k in turn if int(k) in here][: config.sampled])


def streams(config: FederationConfig) -> bool:
    """Whether sites keep parameters of their own between exchanges (Streaming DiLoCo)."""
    sync = config.sync
    return sync.fragments > 1 or sync.overlap_steps > 0 or sync.mix > 0


def down_parts(config: FederationConfig, round_: int, accepted: int) -> list[Down]:
    """Fragments that a client needs at the beginning of a round.

    Parameters
    ----------
    round_ : int
        Committed exchanges.
    accepted : int
        Last round whose update of it was taken; -1: none, or it has lost what it had.
    """
    sync, last = config.sync, round_ - 1
    followed = accepted >= 0
    if not followed or not (streams(config) or sync.down_codec != "none"):
        stale = set(range(sync.fragments))
    else:
        stale = {r % sync.fragments for r in range(accepted, round_)}
    found = []
    for fragment in sorted(stale):
        just_now = followed and fragment == last % sync.fragments
        change = just_now and accepted == last and sync.down_codec != "none"
        found.append(Down(fragment, not change, sync.overlap_steps if just_now else 0))
    return found


def moments_up(config: FederationConfig, round_: int) -> tuple[str, ...]:
    """Moments that clients send with their updates of this round, to be averaged."""
    local, after = config.local, round_ + 1
    if local.inner_state != "averaged":
        return ()
    periods = {"first": local.average_first_every, "second": local.average_second_every}
    return tuple(name for name, every in periods.items() if after % every == 0)


def moments_down(config: FederationConfig, round_: int, accepted: int) -> tuple[str, ...]:
    """Averaged moments that a client needs: the newest, or for one that is new all there are."""
    local = config.local
    if local.inner_state != "averaged":
        return ()
    periods = {"first": local.average_first_every, "second": local.average_second_every}
    return tuple(
        name for name, every in periods.items()
        if round_ >= every and (accepted < 0 or round_ % every == 0)
    )  # fmt: skip


def client_bytes(config: FederationConfig, round_: int, accepted: int) -> ClientBytes:
    """Payload of one client in round `round_`, exact to the byte; headers apart."""
    layout, sync = Flat.of(config.model, config.sync.fragments, config.sync.pattern), config.sync
    whole = 4 * layout.size
    parts = down_parts(config, round_, accepted)
    catch_up = accepted < 0 or (sync.down_codec != "none" and any(part.full for part in parts))
    down = sum(layout.payload_bytes(p.fragment, "none" if p.full else sync.down_codec) for p in parts)
    down += whole * len(moments_down(config, round_, accepted))
    if config.topology != "ps":
        # peers hand on what is new; only who was not among them last time needs the aggregator's copy
        catch_up = accepted < round_ - 1 or accepted < 0
        down = down if catch_up else 0
    up = layout.payload_bytes(round_ % sync.fragments, sync.codec) + whole * len(moments_up(config, round_))
    return ClientBytes(down, up, catch_up)

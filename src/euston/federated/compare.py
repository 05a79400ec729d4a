"""The methods that a comparison at equal tokens runs: one federation in several ways."""

from __future__ import annotations

from euston.federated.config import FederationConfig, OuterConfig, SyncConfig

__all__ = ["arms"]


def arms(config: FederationConfig) -> dict[str, FederationConfig]:
    """Configurations by name, all with the tokens and serial steps of `config`.

    ``centralised`` (one machine, the batch of all sites), ``local_sgd`` (plain averages), ``diloco``
    (Nesterov 0.7, 0.9), ``streaming`` (as many fragments as divide H and fit the layers, up to 3; one step
    of overlap, alpha 0.5, 4 bits), and ``own``: the configuration itself where it is none of these.
    """
    h, steps = config.local.steps, config.serial_steps
    whole = config.with_(sync=SyncConfig(), token_budget=0, rounds=-(-steps // h))
    found = {"centralised": config.centralised(), "local_sgd": whole.with_(outer=OuterConfig())}
    nesterov = OuterConfig("nesterov", 0.7, 0.9)
    found["diloco"] = whole.with_(outer=nesterov)
    fragments = max((f for f in (2, 3) if f <= config.model.layers and h % f == 0 and h // f > 1), default=1)
    if fragments > 1 and config.local.inner_state != "averaged":
        found["streaming"] = config.with_(
            outer=nesterov, token_budget=0, rounds=-(-steps * fragments // h),
            sync=SyncConfig(fragments, overlap_steps=1, mix=0.5, codec="fp4"),
        )  # fmt: skip
    digests = {arm.digest() for arm in found.values()}
    return found if config.digest() in digests else {**found, "own": config}

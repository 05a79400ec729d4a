"""A federation on Flower's simulation: sites run in Ray actors of this machine, the aggregator here."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from euston.errors import MissingExtra, SimulationError
from euston.federated.config import FederationConfig
from euston.federated.flower_env import silence
from euston.federated.run import Tell, _alone, run_over
from euston.result import Result

if TYPE_CHECKING:
    from euston.federated.dataset import DataSet

__all__ = ["train_on_ray"]


def train_on_ray(
    config: FederationConfig,
    data: DataSet,
    data_folder: str | Path,
    run_dir: str | Path,
    *,
    cpus_per_site: float = 1.0,
    cpus: int = 0,
    progress: Tell = lambda _: None,
    say: Callable[[str], None] = lambda _: None,
) -> Result:
    """As `euston.federated.train`, with the sites of a round in parallel.

    Parameters
    ----------
    data_folder : path
        Where `data` lies: actors open it themselves.
    cpus_per_site : float
        Of Ray's CPUs, for one site at work.
    cpus : int
        CPUs Ray may use; 0: all.

    Raises
    ------
    MissingExtra
        flwr or ray is not installed.
    SimulationError
        The simulation ended before the run did.
    """
    silence()
    try:
        import ray  # noqa: F401
    except ModuleNotFoundError:
        raise MissingExtra("ray", "scale") from None
    try:
        from flwr.serverapp import ServerApp
        from flwr.simulation import run_simulation
    except ModuleNotFoundError:
        raise MissingExtra("flwr", "train") from None
    from euston.federated.flower_messages import GridBackend
    from euston.federated.flower_site import client_app

    if config.topology != "ps":
        from euston.errors import ConfigError

        raise ConfigError(
            f"`topology`: {config.topology} needs sites that reach each other; Flower's grid offers ps"
        )
    data.check(config)
    folder = Path(run_dir).absolute()
    found: list[Any] = []
    server = ServerApp()

    @server.main()
    def main(grid: Any, context: Any) -> None:
        try:
            found.append(run_over(config, GridBackend(grid, config), folder, data.tokenizer.digest(), data,
                                  progress=progress, say=say))  # fmt: skip
        except BaseException as error:
            found.append(error)

    init: dict[str, Any] = {"include_dashboard": False, "log_to_driver": False, "logging_level": "ERROR"}
    if cpus:
        init["num_cpus"] = cpus
    with _alone(folder):
        run_simulation(
            server, client_app(str(Path(data_folder).absolute()), str(folder / "sites")), config.clients,
            backend_config={"init_args": init,
                            "client_resources": {"num_cpus": cpus_per_site, "num_gpus": 0.0}},
        )  # fmt: skip
    if not found:
        raise SimulationError("Flower's simulation ended before the run did; its log says why")
    if isinstance(found[0], BaseException):
        raise found[0]
    result: Result = found[0]
    return result

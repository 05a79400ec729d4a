"""The aggregator's end of Flower in a deployment: a server app that runs our loop over the SuperLink's
grid.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from euston.errors import EustonError

__all__ = ["server_app"]


def server_app() -> ServerApp:
    """Reads ``federation.json`` of the run's folder; says how it ended in ``outcome.json`` there."""
    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        folder = Path(str(context.run_config["run-dir"]))
        outcome: dict[str, object] = {"pid": os.getpid(), "state": "running"}
        _say(folder, outcome)
        try:
            _run(grid, folder, str(context.run_config["data"]))
            outcome["state"] = "done"
        except EustonError as error:
            outcome |= {"state": "failed", "error": str(error), "exit_code": error.exit_code}
        except BaseException as error:
            outcome |= {"state": "failed", "error": f"{type(error).__name__}: {error}", "exit_code": 1}
            raise
        finally:
            _say(folder, outcome)

    return app


def _say(folder: Path, outcome: dict[str, object]) -> None:
    aside = folder / "outcome.tmp"
    aside.write_text(json.dumps(outcome), encoding="utf-8")
    os.replace(aside, folder / "outcome.json")


def _run(grid: Grid, folder: Path, data_folder: str) -> None:
    from euston.federated.config import FederationConfig
    from euston.federated.dataset import DataSet
    from euston.federated.flower_messages import GridBackend
    from euston.federated.run import _alone, run_over
    from euston.federated.tokenizer import Bytes

    config = FederationConfig.from_values(
        json.loads((folder / "federation.json").read_text(encoding="utf-8"))
    )
    data = DataSet.load(data_folder) if data_folder else None
    tokenizer = Bytes().digest() if data is None else data.tokenizer.digest()

    def note(message: str) -> None:
        with (folder / "messages.log").open("a", encoding="utf-8") as file:
            file.write(message + "\n")

    with _alone(folder):
        run_over(config, GridBackend(grid, config), folder, tokenizer, data, say=note)

"""Starts Flower's SuperLink, SuperNodes and runs with safe flags: everything that depends on Flower's
command lines.

Written for flwr 1.41, where the SuperLink serves all its APIs on one port. Nothing calls home and nothing is
installed at run time (see `euston.federated.flower_env`).
"""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from euston.errors import ConfigError, EustonError, MissingExtra, SimulationError
from euston.federated.aggregator import Round
from euston.federated.config import FederationConfig
from euston.federated.flower_env import quiet_environment
from euston.federated.run import Tell
from euston.federated.tls import make_certificates
from euston.federated.trainer_process import make_key

__all__ = ["Address", "join_command", "running_site", "serve"]

_APP = """[project]
name = "euston-photon"
version = "1.0.0"
license = "Apache-2.0"
dependencies = []

[tool.flwr.app]
publisher = "euston"

[tool.flwr.app.components]
serverapp = "photon_app.server:app"
clientapp = "photon_app.client:app"

[tool.flwr.app.config]
run-dir = ""
data = ""
"""
_SERVER = "from euston.federated.flower_server import server_app\n\napp = server_app()\n"
_CLIENT = "from euston.federated.flower_site import forwarding_app\n\napp = forwarding_app()\n"


@dataclass(frozen=True)
class Address:
    """Where an aggregator listens.

    Attributes
    ----------
    host : str
    port : int
    tls : Path or None
        Folder with ``ca.pem`` (and at the aggregator ``server.pem``, ``server.key``); None: plain text, for
        one machine or a private tunnel only.
    names : tuple of str
        Names and addresses by which sites reach it, for the certificate; the first is what they are told.
    """

    host: str
    port: int
    tls: Path | None = None
    names: tuple[str, ...] = ()

    @property
    def reached_by(self) -> tuple[str, ...]:
        """Names for sites: those given, or the host; of one that listens everywhere, this machine's name."""
        everywhere = self.host in ("0.0.0.0", "::")
        return self.names or ((socket.gethostname(),) if everywhere else (self.host,))

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


def _tool(name: str) -> str:
    beside = Path(sys.executable).parent / name
    found = str(beside) if beside.exists() else shutil.which(name)
    if found is None:
        raise MissingExtra("flwr", "train")
    return found


def join_command(address: Address, client: int, authenticate: bool) -> str:
    """What to type at a site."""
    tls = " --ca ca.pem" if address.tls else " --insecure"
    key = " --key KEY" if authenticate else ""
    where = f"{address.reached_by[0]}:{address.port}"
    return f"euston photon join {where} --client {client} --data DATA{tls}{key}"


@contextmanager
def _process(command: Sequence[str], home: Path, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("ab") as out:
        process = subprocess.Popen(command, env=quiet_environment(str(home)), stdout=out, stderr=out,
                                   stdin=subprocess.DEVNULL, start_new_session=True)  # fmt: skip
    try:
        yield process
    finally:
        _stop(process)


def _stop(process: subprocess.Popen[bytes]) -> None:
    """End a process and what it has started."""
    import os
    import signal

    for how, patience in ((signal.SIGTERM, 10.0), (signal.SIGKILL, 5.0)):
        try:
            os.killpg(process.pid, how)
        except ProcessLookupError:
            return
        try:
            process.wait(patience)
        except subprocess.TimeoutExpired:
            continue


def _listening(address: Address, process: subprocess.Popen[bytes], log: Path, seconds: float = 60.0) -> None:
    until = time.monotonic() + seconds
    host = "127.0.0.1" if address.host in ("0.0.0.0", "::") else address.host
    while time.monotonic() < until:
        if process.poll() is not None:
            break
        with socket.socket() as probe:
            probe.settimeout(1.0)
            if probe.connect_ex((host, address.port)) == 0:
                return
        time.sleep(0.2)
    raise SimulationError(f"`{address}`: the SuperLink does not listen; see {log}: {_last(log)}")


def _last(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines() if log.exists() else []
    return lines[-1] if lines else "it said nothing"


def serve(
    config: FederationConfig,
    run_dir: str | Path,
    address: Address,
    *,
    data_folder: str | Path | None = None,
    node_keys: Sequence[Path] = (),
    progress: Tell = lambda _: None,
    say: Callable[[str], None] = lambda _: None,
) -> None:
    """Run an aggregator until its federation is done. Run again after a crash, it goes on where it was.

    Parameters
    ----------
    config : FederationConfig
    run_dir : path
        Checkpoints, rounds, result and logs.
    address : Address
    data_folder : path, optional
        Text to evaluate on. Without one nothing is evaluated, and the tokenizer is bytes.
    node_keys : sequence of Path
        Public keys of sites; when given nobody else may join (needs TLS).

    Raises
    ------
    ConfigError
        A topology that Flower cannot carry, keys without TLS, a port in use.
    SimulationError
        Flower failed; its last words are quoted.
    """
    if config.topology != "ps":
        raise ConfigError(
            f"`topology`: {config.topology} needs sites that reach each other; Flower's grid offers ps"
        )
    if node_keys and address.tls is None:
        raise ConfigError("`node_keys`: authentication needs TLS; give a folder for certificates")
    folder = Path(run_dir).absolute()
    home, log = folder / "flower", folder / "superlink.log"
    home.mkdir(parents=True, exist_ok=True)
    with socket.socket() as probe:
        if probe.connect_ex(("127.0.0.1" if address.host == "0.0.0.0" else address.host, address.port)) == 0:
            raise ConfigError(f"`port`: something listens on {address} already; choose another")
    (folder / "federation.json").write_text(json.dumps(config.values()), encoding="utf-8")
    app = _write_app(folder / "app")
    command = [_tool("flower-superlink"), "--host", address.host, "--port", str(address.port),
               "--disable-runtime-dependency-installation"]  # fmt: skip
    local = "localhost" if address.host in ("0.0.0.0", "::") else address.host
    connection = (
        f'[superlink]\ndefault = "photon"\n\n[superlink.photon]\naddress = "{local}:{address.port}"\n'
    )
    if address.tls is None:
        command.append("--insecure")
        connection += "insecure = true\n"
    else:
        ca, certificate, key = make_certificates(address.tls.absolute(), address.reached_by)
        command += [
            "--ssl-ca-certfile",
            str(ca),
            "--ssl-certfile",
            str(certificate),
            "--ssl-keyfile",
            str(key),
        ]
        connection += f'root-certificates = "{ca}"\n'
    if node_keys:
        command.append("--enable-supernode-auth")
    (home / "config.toml").write_text(connection, encoding="utf-8")
    for name in ("outcome.json", "messages.log"):
        (folder / name).unlink(missing_ok=True)
    # rounds that an aggregator before this one has made are not told again
    before = max((row["epoch"] for row in _rows(folder / "rounds.jsonl")), default=-1)
    with _process(command, home, log) as superlink:
        _listening(address, superlink, log)
        for public in node_keys:
            _flwr(["supernode", "register", str(public.absolute()), "photon"], home)
        values = f'run-dir="{folder}" data="{Path(data_folder).absolute() if data_folder else ""}"'
        _flwr(["run", str(app), "photon", "--run-config", values], home)
        say(f"aggregator at {address}; at site 0 of {config.clients}: "
            f"{join_command(address, 0, bool(node_keys))}")  # fmt: skip
        _watch(before, folder, superlink, log, progress, say)


def _write_app(folder: Path) -> Path:
    package = folder / "photon_app"
    package.mkdir(parents=True, exist_ok=True)
    (folder / "pyproject.toml").write_text(_APP, encoding="utf-8")
    for name, text in (("__init__", ""), ("server", _SERVER), ("client", _CLIENT)):
        (package / f"{name}.py").write_text(text, encoding="utf-8")
    return folder


def _flwr(words: Sequence[str], home: Path) -> str:
    done = subprocess.run([_tool("flwr"), *words], env=quiet_environment(str(home)), capture_output=True,
                          text=True, check=False, timeout=120)  # fmt: skip
    if done.returncode:
        said = " ".join((done.stderr or done.stdout).split())[-400:]
        raise SimulationError(f"flwr {words[0]} failed: {said}")
    return done.stdout


def _rows(rounds: Path) -> list[Round]:
    """Whole lines of the rounds' log."""
    lines = rounds.read_text(encoding="utf-8").splitlines(keepends=True) if rounds.exists() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]


def _watch(
    before: int,
    folder: Path,
    superlink: subprocess.Popen[bytes],
    log: Path,
    progress: Tell,
    say: Callable[[str], None],
) -> None:
    heard, shown = 0, 0
    rounds, outcome, messages = folder / "rounds.jsonl", folder / "outcome.json", folder / "messages.log"
    while True:
        ended = outcome.exists() and json.loads(outcome.read_text(encoding="utf-8"))
        for row in _rows(rounds):
            if row["epoch"] > before and row["round"] > shown:
                progress(row)
                shown = row["round"]
        notes = messages.read_text(encoding="utf-8").splitlines() if messages.exists() else []
        for note in notes[heard:]:
            say(note)
        heard = len(notes)
        if ended and ended["state"] == "done":
            return
        if ended and ended["state"] == "failed":
            error = EustonError(str(ended["error"]))
            error.exit_code = int(ended["exit_code"])
            raise error
        if superlink.poll() is not None:
            raise SimulationError(f"the SuperLink ended; see {log}: {_last(log)}")
        time.sleep(0.3)


@contextmanager
def running_site(
    superlink: str,
    client: int,
    data_folder: str | Path,
    folder: str | Path,
    *,
    ca: Path | None = None,
    key: Path | None = None,
    whole: bool = True,
    port: int = 0,
) -> Iterator[Callable[[], None]]:
    """A site at work: its trainer and its SuperNode. Yields what must be called now and then to keep them
    alive.

    Parameters
    ----------
    superlink : str
        ``host:port`` of the aggregator.
    client : int
        Its number in the federation.
    data_folder, folder : path
        Its text, and where it keeps its state.
    ca : Path, optional
        Certificate of the authority that signed the aggregator's; without it the connection is plain text.
    key : Path, optional
        Its private key, where the aggregator asks for one.
    whole : bool
        The folder is its own text; False: it holds everybody's, and this site takes its share.
    port : int
        Of its SuperNode's local API; 0: any that is free.
    """
    root = Path(folder).absolute()
    root.mkdir(parents=True, exist_ok=True)
    if len(str(root / "socket")) > 100:
        raise ConfigError(f"`{root}`: is too long a path for a socket (100 characters); choose a shorter one")
    make_key(root)
    trainer = [sys.executable, "-m", "euston.federated.trainer_process", str(root),
               str(Path(data_folder).absolute()), str(client), "whole" if whole else "dealt"]  # fmt: skip
    node = [_tool("flower-supernode"), "--superlink", superlink, "--port", str(port or _free_port()),
            "--node-config", f'partition-id={client} trainer="{root}"']  # fmt: skip
    node += ["--root-certificates", str(ca.absolute())] if ca else ["--insecure"]
    if key:
        node += ["--auth-supernode-private-key", str(key.absolute())]
    kept = [_Kept(trainer, root, "trainer"), _Kept(node, root, "supernode")]
    try:
        for process in kept:
            process.start()

        def keep() -> None:
            for process in kept:
                process.keep()

        yield keep
    finally:
        for process in reversed(kept):
            process.stop()


_BRIEF, _TRIES = 20.0, 4


class _Kept:
    """A process that is started again when it ends: a trainer that died, a SuperNode whose SuperLink is new.

    One that ends soon after each of several starts is given up.
    """

    def __init__(self, command: Sequence[str], root: Path, name: str) -> None:
        self.command, self.root, self.name = command, root, name
        self.log = root / f"{name}.log"
        self.process: subprocess.Popen[bytes] | None = None
        self.since, self.brief = 0.0, 0

    def start(self) -> None:
        """Start it; its number is in ``NAME.pid``."""
        with self.log.open("ab") as out:
            self.process = subprocess.Popen(
                self.command, env=quiet_environment(str(self.root / "flower")), stdout=out, stderr=out,
                stdin=subprocess.DEVNULL, start_new_session=True,
            )  # fmt: skip
        self.since = time.monotonic()
        (self.root / f"{self.name}.pid").write_text(str(self.process.pid), encoding="utf-8")

    def keep(self) -> None:
        """Start it again if it has ended."""
        if self.process is None or self.process.poll() is None:
            return
        self.brief = self.brief + 1 if time.monotonic() - self.since < _BRIEF else 0
        if self.brief >= _TRIES:
            raise SimulationError(
                f"the {self.name} ended {self.brief} times; see {self.log}: {_last(self.log)}"
            )
        self.start()

    def stop(self) -> None:
        """End it."""
        if self.process is not None:
            _stop(self.process)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])

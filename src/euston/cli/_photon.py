"""`euston photon`: federated pre-training, from data to a trained model, on one machine or across sites."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from euston.cli._out import Json, Quiet, Seed, console, put_json, say, table
from euston.cli._photon_file import defaults, read_federation
from euston.errors import BadInput, ConfigError

if TYPE_CHECKING:
    from euston.federated import DataSet, FederationConfig
    from euston.result import Result

app = typer.Typer(
    help="Train one language model across sites that keep their text: Photon, DiLoCo, Streaming DiLoCo.",
    no_args_is_help=True,
)
data_app = typer.Typer(help="Data sets: text to tokens, with a licence manifest.", no_args_is_help=True)
app.add_typer(data_app, name="data")

File = Annotated[
    Path | None,
    typer.Argument(
        metavar="[FILE]", help="A federation (.yaml); without one a small default.", show_default=False
    ),
]
Run = Annotated[
    Path, typer.Option("--run", metavar="DIR", help="Folder of the run: checkpoints, rounds, result.")
]
Data = Annotated[
    Path | None,
    typer.Option(
        "--data", metavar="DIR", help="Data of `photon data build`; default: this Python's own texts."
    ),
]
Report = Annotated[
    list[Path] | None, typer.Option("--report", metavar="PATH", help="Write a report: .html or .json.")
]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE", help="Change a key: --set local.steps=32; may be given twice."
    ),
]
RUN = Path("photon-run")
INTERRUPTED = 130
"""Exit status after Ctrl-C, as shells have it."""


class Where(StrEnum):
    """Backends."""

    inprocess = "inprocess"
    ray = "ray"


def _load(
    file: Path | None, changes: list[str] | None, seed: int | None, data: DataSet | None
) -> FederationConfig:
    vocab = None if data is None else data.tokenizer.vocab
    return read_federation(file, changes or [], seed, vocab) if file else defaults(changes or [], seed, vocab)


def _data(folder: Path | None, run: Path, quiet: bool) -> tuple[DataSet, Path]:
    from euston.federated import DataSet, builtin

    if folder is not None:
        return DataSet.load(folder), folder
    own = run.parent / f"{run.name}-data"
    if not own.exists():
        say(f"building the built-in data set in {own}", quiet=quiet)
    return builtin(own), own


def _teller(config: FederationConfig, quiet: bool) -> Callable[[dict[str, Any]], None]:
    began = time.perf_counter()
    done = 0

    def tell(row: dict[str, Any]) -> None:
        nonlocal done
        done += int(row["round_tokens"])
        rate = done / max(1e-9, time.perf_counter() - began)
        moved = row["bytes_up"] + row["bytes_down"] + row["bytes_peers"]
        quality = f"  held-out {row['bits_per_byte']:.4f} bits/byte" if row.get("bits_per_byte") else ""
        say(
            f"round {row['round']}/{config.total_rounds}  loss {row['loss']:.4f}{quality}  "
            f"{rate:,.0f} tokens/s  {moved / 1e6:.3g} MB  clients {len(row['participants'])}",
            quiet=quiet,
        )
        for client, why in row.get("refused", {}).items():
            say(f"  client {client} left out: {why}", quiet=quiet)

    return tell


def _show(result: Result, report: list[Path] | None, json_: bool, quiet: bool) -> None:
    if report:
        from euston.report import write

        for path in report:
            write(result, path)
    if json_:
        put_json({"version": 1, "scalars": result.scalars, "rounds": result.tables["rounds"].to_dicts()})
    elif not quiet:
        rows = [[name.replace("_", " "), result.text(name)] for name in result.scalars]
        table(["", ""], rows, right=(1,))


def _check(report: list[Path] | None) -> None:
    if report:
        from euston.report import check_path

        for path in report:
            check_path(path)


@app.command()
def train(
    file: File = None,
    run: Run = RUN,
    data: Data = None,
    backend: Annotated[Where, typer.Option("--backend", help="Where sites run.")] = Where.inprocess,
    set_: Set = None,
    report: Report = None,
    json_: Json = False,
    quiet: Quiet = False,
    seed: Seed = None,
) -> None:
    """Train. The same folder again goes on where it stopped; Ctrl-C loses at most `checkpoint_every`
    rounds.
    """
    _check(report)
    _train(file, run, data, backend, set_, report, json_, quiet, seed)


def _train(
    file: Path | None, run: Path, data: Path | None, backend: Where, set_: list[str] | None,
    report: list[Path] | None, json_: bool, quiet: bool, seed: int | None,
) -> None:  # fmt: skip
    from euston import federated

    texts, folder = _data(data, run, quiet)
    config = _load(file, set_, seed, texts)
    tell = _teller(config, quiet)
    if backend is Where.ray:
        from euston.federated.simulation import train_on_ray

        with _interruptible():
            result = train_on_ray(config, texts, folder, run, progress=tell, say=_words(quiet))
    else:
        with _interruptible():
            result = federated.train(config, texts, run, progress=tell, say=_words(quiet))
    _show(result, report, json_, quiet)


@contextmanager
def _interruptible(
    words: str = "interrupted; the same line goes on from the last checkpoint",
) -> Iterator[None]:
    """Ctrl-C loses nothing that is saved, and says so."""
    try:
        yield
    except KeyboardInterrupt:
        say(words)
        raise typer.Exit(INTERRUPTED) from None


def _words(quiet: bool) -> Callable[[str], None]:
    last = [""]

    def words(message: str) -> None:
        if message != last[0]:  # waiting says the same thing again and again
            last[0] = message
            say(message, quiet=quiet)

    return words


@app.command()
def resume(
    run: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of the run.")],
    data: Data = None,
    report: Report = None,
    json_: Json = False,
    quiet: Quiet = False,
) -> None:
    """Go on with a run in this process, from its newest whole checkpoint."""
    from euston import federated

    _check(report)
    config = federated.load_config(run)
    texts, _ = _data(data, run, quiet)
    with _interruptible():
        result = federated.train(config, texts, run, progress=_teller(config, quiet), say=_words(quiet))
    _show(result, report, json_, quiet)


@app.command("eval")
def evaluate(
    run: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of the run.")],
    data: Data = None,
    tokens: Annotated[int, typer.Option("--tokens", min=1, help="About how many tokens to score.")] = 262_144,
    json_: Json = False,
    quiet: Quiet = False,
) -> None:
    """Score a run's model on held-out text: bits per byte and perplexity, by source."""
    from euston import federated

    config, flat, counters = federated.load_parameters(run)
    texts, _ = _data(data, run, quiet)
    score = federated.Evaluator(config, texts, tokens).score(flat)
    if json_:
        put_json({"version": 1, **counters, "bits_per_byte": score.bits_per_byte, "macro": score.macro,
                  "perplexity": score.perplexity, "bytes": score.bytes})  # fmt: skip
    elif not quiet:
        rows = [[name, f"{bits:.4f}", f"{2**bits:.3f}"] for name, bits in score.bits_per_byte.items()]
        rows.append(["mean of sources", f"{score.macro:.4f}", f"{score.perplexity:.3f}"])
        table(["source", "bits/byte", "perplexity per byte"], rows, right=(1, 2))
        console().print(f"{score.bytes:,} bytes scored after {counters['tokens']:,} tokens")


@app.command()
def compare(
    file: File = None,
    run: Run = RUN,
    data: Data = None,
    set_: Set = None,
    json_: Json = False,
    quiet: Quiet = False,
    seed: Seed = None,
) -> None:
    """Train by several methods on the same tokens: centralised, LocalSGD, DiLoCo, Streaming, the file's."""
    from euston import federated
    from euston.federated.compare import arms

    texts, _ = _data(data, run, quiet)
    config = _load(file, set_, seed, texts)
    rows, plain = [], []
    for name, arm in arms(config).items():
        say(f"{name}: {arm.total_rounds} rounds of {arm.steps_per_round} steps", quiet=quiet)
        with _interruptible():
            result = federated.train(arm, texts, run / name, progress=_teller(arm, quiet), say=_words(quiet))
        s = result.scalars
        moved = s["payload_bytes"] / max(1, arm.sampled) if name != "centralised" else 0.0
        plain.append({"arm": name, **s})
        rows.append(
            [
                name,
                f"{int(s['tokens']):,}",
                f"{int(s['server_steps']):,}",
                f"{s['bits_per_byte']:.4f}",
                f"{s['perplexity']:.3f}",
                f"{moved / 1e6:.3g}",
                f"{s['seconds']:.0f}",
            ]
        )
    if json_:
        put_json({"version": 1, "arms": plain})
    elif not quiet:
        heads = ["method", "tokens", "serial steps", "bits/byte", "perplexity", "MB per site", "s"]
        table(heads, rows, right=tuple(range(1, len(heads))))


@app.command()
def walltime(
    file: File = None,
    rate: Annotated[float, typer.Option("--steps-per-second", min=1e-9, help="Of the slowest site.")] = 1.0,
    bandwidth: Annotated[
        list[str] | None,
        typer.Option("--bandwidth", metavar="B", help='A link, "1 Gb/s"; may be given twice.'),
    ] = None,
    latency: Annotated[str, typer.Option("--latency", help='One way, "40 ms".')] = "0 s",
    set_: Set = None,
    json_: Json = False,
    quiet: Quiet = False,
) -> None:
    """Hours, utilisation and bytes by topology and bandwidth, by formula; data-parallel training beside."""
    from euston.federated import Flat, wall_time
    from euston.federated.walltime import data_parallel_time

    config = _load(file, set_, None, None)
    links = bandwidth or ["100 Mb/s", "1 Gb/s", "10 Gb/s", "100 Gb/s"]
    from euston.units import parse

    late = parse(latency, "duration")
    layout = Flat.of(config.model, config.sync.fragments, config.sync.pattern)
    update = max(layout.payload_bytes(f, config.sync.codec) for f in range(config.sync.fragments))
    rows, plain = [], []
    for link in links:
        speed = parse(link, "bandwidth")
        for topology in ("ps", "ar", "rar"):
            t = wall_time(update, config.sampled, config.steps_per_round, config.total_rounds, rate, speed,
                          topology, latency=late, overlap_steps=config.sync.overlap_steps)  # fmt: skip
            plain.append(
                {
                    "bandwidth": link,
                    "method": topology,
                    "seconds": t.total,
                    "utilisation": t.utilisation,
                    "bytes_per_client_and_round": t.bytes_per_client,
                }
            )
            rows.append(
                [link, topology, f"{t.total / 3600:.3g}", f"{t.utilisation:.1%}", f"{t.bytes_per_client:.3g}"]
            )
        t = data_parallel_time(4.0 * layout.size, config.sampled, config.serial_steps, rate, speed, late)
        plain.append(
            {
                "bandwidth": link,
                "method": "data parallel",
                "seconds": t.total,
                "utilisation": t.utilisation,
                "bytes_per_client_and_round": t.bytes_per_client,
            }
        )
        rows.append([link, "data parallel", f"{t.total / 3600:.3g}", f"{t.utilisation:.1%}",
                     f"{t.bytes_per_client:.3g}"])  # fmt: skip
    if json_:
        put_json({"version": 1, "rows": plain})
    elif not quiet:
        table(
            ["link", "method", "hours", "utilisation", "bytes per site and exchange"], rows, right=(2, 3, 4)
        )


@data_app.command("build")
def build(
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="A new folder.")],
    source: Annotated[
        list[str] | None,
        typer.Option(
            "--source",
            metavar="S",
            help="text:PATH, jsonl:PATH[:FIELD], debian:PACKAGE, deb:FILE, "
            "hf:NAME, python:code; may be given twice. Default: this Python's own texts.",
        ),
    ] = None,
    tokenizer: Annotated[
        str, typer.Option("--tokenizer", help="bytes, bpe:VOCAB or a tokenizer.json.")
    ] = "bytes",
    most: Annotated[int, typer.Option("--most", min=0, help="Bytes to take of each source; 0: all.")] = 0,
    validation: Annotated[float, typer.Option("--validation", help="Share of documents held out.")] = 0.05,
    json_: Json = False,
    quiet: Quiet = False,
) -> None:
    """Text to tokens: split by document, without shared paragraphs, with versions, licences and hashes."""
    from euston import federated
    from euston.federated.corpus import BUILTIN

    made = federated.build(
        source or list(BUILTIN), out, tokenizer=tokenizer, most=most, validation=validation,
        progress=lambda message: say(message, quiet=quiet),
    )  # fmt: skip
    if json_:
        put_json(made.manifest)
    elif not quiet:
        rows = [[e["name"], e["version"], e["licence"][:60], f"{e['train_tokens']:,}", f"{e['val_tokens']:,}"]
                for e in made.manifest["sources"]]  # fmt: skip
        table(["source", "version", "licence", "tokens", "held out"], rows, right=(3, 4))


@app.command()
def serve(
    file: File = None,
    run: Run = RUN,
    address: Annotated[str, typer.Option("--address", metavar="HOST:PORT")] = "127.0.0.1:8000",
    tls: Annotated[
        Path | None, typer.Option("--tls", metavar="DIR", help="Certificates; made there if missing.")
    ] = None,
    insecure: Annotated[
        bool, typer.Option("--insecure", help="Plain text: one machine or a private tunnel.")
    ] = False,
    name: Annotated[
        list[str] | None,
        typer.Option("--name", metavar="HOST", help="How sites reach this machine, for its certificate."),
    ] = None,
    key: Annotated[
        list[Path] | None,
        typer.Option("--key", metavar="PUB", help="A site's public key; only these may join."),
    ] = None,
    data: Annotated[Path | None, typer.Option("--data", metavar="DIR", help="Text to evaluate on.")] = None,
    set_: Set = None,
    quiet: Quiet = False,
    seed: Seed = None,
) -> None:
    """Run the aggregator of a federation; sites join it over the network. Run it again after a crash: it
    goes on.
    """
    from euston.federated import DataSet
    from euston.federated.launcher import Address, serve

    if (tls is None) != insecure:
        raise BadInput("give --tls DIR, or --insecure for one machine or a private tunnel (one of the two)")
    config = _load(file, set_, seed, None if data is None else DataSet.load(data))
    host, port = _address(address)
    _end_in_order()
    where = Address(host, port, tls, tuple(name or ()))
    with _interruptible():
        serve(config, run, where, data_folder=data, node_keys=key or [],
              progress=_teller(config, quiet), say=_words(quiet))  # fmt: skip


def _end_in_order() -> None:
    """Being told to end (kill, a service manager) is as good as Ctrl-C: children end too."""
    import signal

    def end(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, end)


def _address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 65536:
        raise ConfigError(f"`address`: {text!r}; write HOST:PORT, 127.0.0.1:8000")
    return host, int(port)


@app.command()
def join(
    address: Annotated[str, typer.Argument(metavar="HOST:PORT", help="The aggregator.")],
    client: Annotated[int, typer.Option("--client", min=0, help="Number of this site in the federation.")],
    data: Annotated[
        Path, typer.Option("--data", metavar="DIR", help="This site's text (`photon data build`).")
    ],
    state: Annotated[
        Path | None, typer.Option("--state", metavar="DIR", help="Where the site keeps its state.")
    ] = None,
    ca: Annotated[Path | None, typer.Option("--ca", metavar="PEM", help="The aggregator's ca.pem.")] = None,
    insecure: Annotated[bool, typer.Option("--insecure", help="Plain text.")] = False,
    key: Annotated[
        Path | None,
        typer.Option(
            "--key", metavar="FILE", help="This site's private key; made, with FILE.pub, if missing."
        ),
    ] = None,
    dealt: Annotated[
        bool, typer.Option("--dealt", help="The folder holds everybody's text: take this site's share.")
    ] = False,
    quiet: Quiet = False,
) -> None:
    """Take part in a federation until interrupted. Needs only outbound connections."""
    from euston.federated import DataSet
    from euston.federated.launcher import running_site
    from euston.federated.tls import make_node_key

    _address(address)
    if (ca is None) != insecure:
        raise BadInput("give --ca ca.pem, or --insecure for one machine or a private tunnel (one of the two)")
    DataSet.load(data)
    if key is not None and not key.exists():
        _, public = make_node_key(key.parent, key.name)
        say(
            f"made {key} and {public}: give the latter to the aggregator (--key), then join again",
            quiet=quiet,
        )
        return
    folder = state or Path(f"photon-site-{client}")
    _end_in_order()
    with (
        _interruptible("left the federation; the same line joins it again"),
        running_site(address, client, data, folder, ca=ca, key=key, whole=not dealt) as keep,
    ):
        say(f"site {client} takes part; its log is {folder / 'supernode.log'}; Ctrl-C leaves", quiet=quiet)
        while True:
            keep()
            time.sleep(1.0)

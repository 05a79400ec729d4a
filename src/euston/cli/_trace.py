"""`euston trace`: a training step as Chakra or Perfetto traces; Chakra traces checked, shown and replayed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from euston.cli._out import CatalogDir, Json, Quiet, Seed, progress, put, put_json, say, table, use_catalog

if TYPE_CHECKING:
    from euston.training.chakra import Trace

app = typer.Typer(
    help="Write a training step as traces; check, show and replay Chakra traces.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Folder = Annotated[
    Path, typer.Argument(metavar="DIR|FILE", help="A folder of Chakra traces, or one.", show_default=False)
]
DropMissing = Annotated[
    bool,
    typer.Option("--drop-missing", help="Leave out dependencies on nodes that are not there; else refused."),
]
_MOST_GROUPS_BYTES = 256 * 1024 * 1024


@app.command("export")
def export(
    file: Annotated[
        Path,
        typer.Argument(metavar="SCENARIO", help="A scenario (.yaml) with training jobs.", show_default=False),
    ],
    output: Annotated[Path, typer.Option("-o", "--output", metavar="DIR", help="Folder for the traces.")],
    format_: Annotated[str, typer.Option("--format", help="chakra or perfetto.")] = "chakra",
    ranks: Annotated[
        str | None, typer.Option("--ranks", help="Of Chakra: some ranks only, e.g. 0-7,64.")
    ] = None,
    job: Annotated[int, typer.Option("--job", min=0, help="Number of the job.")] = 0,
    catalog: CatalogDir = None,
    json_: Json = False,
    quiet: Quiet = False,
    seed: Seed = None,
) -> None:
    """Run one step and write its traces."""
    from euston import scenario as scenarios
    from euston.errors import ConfigError, EustonError, unknown

    use_catalog(catalog)
    if format_ not in ("chakra", "perfetto"):
        raise ConfigError(f"--format: {unknown('format', format_, ['chakra', 'perfetto'])}")
    wanted = None if ranks is None else _numbers(ranks)
    with progress(quiet) as tell:
        tell(f"reading {file}")
        s = scenarios.load(file)
        if seed is not None:
            changed = s.model_copy(update={"run": s.run.model_copy(update={"seed": seed})})
            changed._source, changed._document = s._source, s._document
            s = changed
        try:
            files, step = _written(s, output, format_, job, wanted, tell)
        except EustonError as error:
            raise scenarios.with_place(s, error) from error
    if json_:
        put_json({"version": 1, "format": format_, "files": [str(f) for f in files], "step_time": step})
    else:
        from euston.units import format_seconds

        size = sum(f.stat().st_size for f in files)
        say(
            f"written: {len(files)} files, {size / 1e6:.3g} MB, in {output}; "
            f"a step of {format_seconds(step, 4)}",
            quiet=quiet,
        )


def _written(
    s: Any, output: Path, format_: str, job: int, ranks: list[int] | None, tell: Any
) -> tuple[list[Path], float]:
    from euston.errors import ConfigError

    if format_ == "chakra":
        from euston.runs.traces import export_chakra

        return export_chakra(s, output, job=job, ranks=ranks, progress=tell)
    from euston.report import write
    from euston.simulate import simulate

    if ranks is not None or job:
        raise ConfigError("--ranks and --job choose among Chakra traces; Perfetto's has all of the first job")
    result = simulate(s, progress=tell)
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{output}: cannot be written ({error.strerror or error})") from None
    return [write(result, output / f"{s.name}.perfetto.json.gz")], result.scalars.get("step_time", 0.0)


def _numbers(text: str) -> list[int]:
    """``0-7,64`` as numbers."""
    from euston.errors import ConfigError

    found: list[int] = []
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()) or len(part) > 24:
            raise ConfigError(f"--ranks: {part!r} is no number and no range; write e.g. 0-7,64")
        begin, end = int(first), int(last) if dash else int(first)
        if end < begin:
            raise ConfigError(f"--ranks: {part!r} ends before it begins; write {last}-{first}")
        if end - begin >= 65_536 or len(found) > 65_536:
            raise ConfigError(f"--ranks: {part!r} is no range of at most 65,536 ranks")
        found += range(begin, end + 1)
    return found


@app.command("check")
def check(
    folder: Folder, drop_missing: DropMissing = False, json_: Json = False, quiet: Quiet = False
) -> None:
    """Check that traces can be read: lengths, ids, dependencies, no cycles; and that ranks fit together."""
    from euston.training.chakra import Limits, read_folder, replay

    traces = read_folder(folder, Limits(drop_missing=drop_missing))
    found = replay(traces, _groups(folder))
    nodes = sum(len(trace.nodes) for trace in traces)
    if json_:
        put_json(
            {
                "version": 1,
                "valid": True,
                "ranks": [trace.rank for trace in traces],
                "schema": sorted({trace.version for trace in traces}),
                "nodes": nodes,
                "alone": found.alone,
                "dropped": sum(trace.dropped for trace in traces),
            }
        )
    elif not quiet:
        put(f"{folder}: valid; {len(traces)} ranks, {nodes:,} nodes")
        if dropped := sum(trace.dropped for trace in traces):
            put(f"{dropped:,} dependencies on nodes that are not there were left out")
        if found.alone:
            put(f"{found.alone:,} collectives and sends have members without a trace here")


@app.command("show")
def show(
    folder: Folder,
    top: Annotated[int, typer.Option("--top", min=1, help="Nodes to print of one file.")] = 20,
    drop_missing: DropMissing = False,
    json_: Json = False,
    quiet: Quiet = False,
) -> None:
    """What traces hold: kinds of nodes, collectives and their bytes, and the first nodes of a single file."""
    from euston.training.chakra import Limits, read_folder, replay

    traces = read_folder(folder, Limits(drop_missing=drop_missing))
    kinds = _kinds(traces)
    collectives = replay(traces, _groups(folder)).collectives.to_dicts()
    if json_:
        put_json({"version": 1, "kinds": kinds, "collectives": collectives})
        return
    if quiet:
        return
    table(
        ["kind", "nodes", "seconds"],
        [[row["kind"], f"{row['nodes']:,}", f"{row['seconds']:.6g}"] for row in kinds],
        right=(1, 2),
    )
    if collectives:
        put("")
        table(
            ["collective", "ranks", "nodes", "bytes"],
            [
                [r["collective"], str(r["ranks"] or "?"), f"{r['nodes']:,}", f"{r['bytes']:.6g}"]
                for r in collectives
            ],
            right=(1, 2, 3),
        )
    if len(traces) == 1:
        put("")
        table(
            ["id", "name", "kind", "start", "seconds", "waits for"],
            [
                [str(n.id), n.name[:40], n.kind, f"{n.start:.6g}", f"{n.seconds:.6g}", _some(n.deps)]
                for n in traces[0].nodes[:top]
            ],
            right=(0, 3, 4),
        )


def _some(deps: tuple[int, ...]) -> str:
    return ", ".join(map(str, deps[:4])) + (" ..." if len(deps) > 4 else "")


def _kinds(traces: list[Trace]) -> list[dict[str, Any]]:
    found: dict[str, list[float]] = {}
    for trace in traces:
        for node in trace.nodes:
            row = found.setdefault(node.kind, [0, 0.0])
            row[0] += 1
            row[1] += node.seconds
    return [{"kind": k, "nodes": int(n), "seconds": s} for k, (n, s) in sorted(found.items())]


@app.command("replay")
def replay_(
    folder: Folder,
    on: Annotated[
        Path | None,
        typer.Option("--on", metavar="SCENARIO", help="Simulate what ranks exchange on its first site."),
    ] = None,
    drop_missing: DropMissing = False,
    catalog: CatalogDir = None,
    json_: Json = False,
    quiet: Quiet = False,
) -> None:
    """Replay traces of a step: every node waits for its dependencies, a collective for all its members."""
    from euston.training.chakra import Limits, read_folder, replay
    from euston.units import format_seconds

    use_catalog(catalog)
    with progress(quiet) as tell:
        tell(f"reading {folder}")
        traces = read_folder(folder, Limits(drop_missing=drop_missing))
        groups = _groups(folder)
        found = replay(traces, groups)
        makespan = found.makespan
        if on is not None:
            from euston.runs.traces import replay_chakra

            makespan = replay_chakra(traces, groups, on, progress=tell)
    if json_:
        put_json(
            {
                "version": 1,
                "makespan": makespan,
                "recorded": found.makespan,
                "alone": found.alone,
                "ranks": found.table.to_dicts(),
                "collectives": found.collectives.to_dicts(),
            }
        )
    elif not quiet:
        put(f"{len(traces)} ranks end after {format_seconds(makespan, 6)}")
        if on is not None:
            put(f"with the recorded times of what they exchange: {format_seconds(found.makespan, 6)}")
        if found.alone:
            put(f"{found.alone:,} collectives and sends have members without a trace here")


def _groups(folder: Path) -> dict[str, list[int]]:
    """Process groups beside the traces: the one ``*.groups.json`` of the folder, if there is one."""
    from euston.errors import TraceError

    place = folder if folder.is_dir() else folder.parent
    files = sorted(place.glob("*.groups.json")) + sorted(place.glob("comm_group.json"))
    if len(files) != 1:
        return {}
    if files[0].stat().st_size > _MOST_GROUPS_BYTES:
        raise TraceError(f"{files[0]}: is larger than 256 MiB; groups are small")
    try:
        data = json.loads(files[0].read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        raise TraceError(f"{files[0]}: is not readable JSON") from None
    plain = isinstance(data, dict) and all(
        isinstance(ranks, list) and all(type(rank) is int and rank >= 0 for rank in ranks)
        for ranks in data.values()
    )
    if not plain:
        raise TraceError(f'{files[0]}: does not map groups to ranks, as in {{"0": [0, 1]}}')
    return data

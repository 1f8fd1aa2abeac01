"""The verb audit: what a study's figures could be made of, besides the feeling."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from milmer import console
from milmer.commands.app import ROAD, SAID, app
from milmer.errors import UserError
from milmer.options import (
    ConfigFile,
    EEGBand,
    Folds,
    Modalities,
    Montage,
    Out,
    Preset,
    Sets,
    Step,
    Target,
    Threshold,
    Ties,
    Window,
    resolve,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_TABLES = "Another toolkit's work"
_COLOURS = {"leaky": "red", "confounded": "yellow", "clean": "green"}


@app.command(rich_help_panel=ROAD)
def audit(
    out: Out,
    store: Annotated[Path | None, typer.Argument(help="A store; or give --metadata and --splits.")] = None,
    run: Annotated[
        list[Path] | None, typer.Option("--run", help="A run of evaluate on this store, to audit as it was split.")
    ] = None,
    protocol: Annotated[
        list[str] | None,
        typer.Option(
            "--protocol", help="Try this protocol only; may be given again. Of tables: what they claim to be."
        ),
    ] = None,
    metadata: Annotated[
        Path | None, typer.Option(help="CSV or Parquet, one row an example.", rich_help_panel=_TABLES)
    ] = None,
    splits: Annotated[
        Path | None, typer.Option(help="CSV or Parquet of folds, or a folder of them.", rich_help_panel=_TABLES)
    ] = None,
    predictions: Annotated[
        Path | None, typer.Option(help="CSV or Parquet of what was answered.", rich_help_panel=_TABLES)
    ] = None,
    features: Annotated[
        Path | None, typer.Option(help="Numbers of each example (.npy, CSV or Parquet).", rich_help_panel=_TABLES)
    ] = None,
    folds: Folds = None,
    target: Target = None,
    threshold: Threshold = None,
    ties: Ties = None,
    window: Window = None,
    step: Step = None,
    modalities: Modalities = None,
    eeg_band: EEGBand = None,
    montage: Montage = None,
    preset: Preset = None,
    config: ConfigFile = None,
    sets: Sets = None,
) -> None:
    """Leaks and confounds of a store, of runs, or of any toolkit's splits: a verdict first, then the figures."""
    arguments = locals()
    try:
        with console.progress_bar("audit") as progress:
            if metadata is not None or splits is not None:
                _refuse(store, run)
                if metadata is None or splits is None:
                    lacking = "--metadata" if metadata is None else "--splits"
                    raise UserError(f"audit: found no {lacking}, expected --metadata and --splits together; add it")
                found = _tables((metadata, splits, predictions, features), arguments, progress)
            else:
                if store is None:
                    raise UserError("audit: found no store, expected 'milmer audit STORE' or --metadata with --splits")
                if predictions is not None or features is not None:
                    raise UserError(
                        "audit: --predictions and --features go with --metadata and --splits; leave them out"
                    )
                found = _store(store, arguments, progress)
    except KeyboardInterrupt:
        console.fail(f"stopped; nothing was written to {out}: an audit is one piece, run it again")
        raise typer.Exit(SAID) from None
    show(found)
    console.say(f"{out / 'audit.html' if (out / 'audit.html').exists() else out / 'audit.json'}")


def _refuse(store: Path | None, run: list[Path] | None) -> None:
    given = [name for name, value in (("STORE", store), ("--run", run)) if value]
    if given:
        raise UserError(
            f"audit: {', '.join(given)} is of a store, --metadata and --splits are of tables; give one kind"
        )


def _tables(files: tuple[Path, Path, Path | None, Path | None], arguments: dict[str, Any], progress: Any) -> Any:
    from threadpoolctl import threadpool_limits

    from milmer.evaluation.audit.external import audit_tables

    claimed, target, threshold = (arguments[name] for name in ("protocol", "target", "threshold"))
    if claimed and len(claimed) > 1:
        raise UserError(f"--protocol: found {len(claimed)} of them, expected one: what the splits claim to be")
    options = {"protocol": claimed[0] if claimed else None, "target": target, "threshold": threshold}
    with threadpool_limits(1):
        return audit_tables(*files, arguments["out"], progress=progress, **options)


def _store(path: Path, arguments: dict[str, Any], progress: Any) -> dict[str, Any]:
    from milmer.evaluation.audit.run import audit_store
    from milmer.store import Store

    opened = Store(path)
    for key, why in opened.info.get("failed", {}).items():
        console.warn(f"{key} is not in the store: {why}")
    if arguments["target"] is None and "rating_valence" not in opened.trials and "label" in opened.trials:
        arguments["target"] = "label"
    given = {k: v for k, v in arguments.items() if k != "protocol"}
    return audit_store(
        opened,
        resolve(given),
        arguments["out"],
        runs=arguments["run"] or (),
        protocols=arguments["protocol"],
        progress=progress,
    )


def show(found: Mapping[str, Any]) -> None:
    """Print the verdicts, the sentence of each, and what is confounded; the lines of audited runs come first."""
    from rich.markup import escape
    from rich.table import Table

    for line in found.get("warnings", []):
        console.warn(str(line))
    console.say(str(found["headline"]))
    table = Table(box=None, padding=(0, 1))
    for name in ("protocol", "verdict", "permuted", "expected", "film", "true"):
        table.add_column(
            name, justify="left" if name in ("protocol", "verdict") else "right", no_wrap=name != "protocol"
        )
    entries: Sequence[Mapping[str, Any]] = [*found.get("runs", []), *found["protocols"]]
    for entry in entries:
        permuted, film, true = (entry.get(name) or {} for name in ("permuted", "stimulus", "observed"))
        colour = _COLOURS.get(entry["verdict"], "dim")
        table.add_row(
            escape(str(entry["protocol_name"])),
            f"[{colour}]{entry['verdict']}[/]",
            _number(permuted.get("score")),
            _number(permuted.get("base")),
            _number(film.get("score")),
            _number(true.get("score")),
        )
    console.out.print(table)
    console.say(
        "Shares of right answers of a probe: with permuted labels, what is expected there, with one random label a"
    )
    console.say("film, and with true labels.")
    for entry in entries:
        # A clean one with an excess that is not counted: figures that need their sentence.
        if entry["verdict"] != "clean" or (entry.get("permuted") or {}).get("decides") == "one by one":
            name = entry["protocol_name"] if entry in found.get("runs", []) else entry["protocol"]
            console.say(f"{name}: {entry['sentence']}")
    for item in found.get("confounds", []):
        if item.get("found"):
            console.say(f"confounded: {item['sentence']}")


def _number(value: Any) -> str:
    return "-" if value is None else f"{float(value):.2f}"

"""`blemish watch`."""

from __future__ import annotations

from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from blemish.cli.options import HookOptions, LabelOptions, ModelOptions, PartOptions
from blemish.cli.parser import parse
from blemish.cli.streams import Lines
from blemish.core.ownership import owned
from blemish.core.stop_signals import StopSignals

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from blemish.record.ledger_sync import LedgerSync
    from blemish.watch.parts import PartSettings


@dataclass(frozen=True, kw_only=True)
class WatchOptions(ModelOptions, HookOptions, LabelOptions, PartOptions):
    """Score what appears in a folder, each file once, until Ctrl-C; writes inspections.jsonl, maps, overlays.

    Start it again and it goes on where it was, also after a power cut. A changed model is loaded again.
    """

    folder: Path
    """Where the cameras write images, sub-folders included."""
    camera: str | None = None
    """Write frames into the folder: of a camera (0, genicam:SERIAL), a stream (rtsp://...) or a film."""
    every: float = 1.0
    """Seconds between two frames of the camera; 0: each frame."""
    out: Path = Path("inspections")
    """Where to write."""
    part_wait: float = 10.0
    """With --part-pattern: seconds that a part waits for its views; without one it is never accepted."""
    move_to: Path | None = None
    """Move recorded files to accepted/, review/, rejected/, failed/ or, without a calibration, unjudged/
    below this folder; else they stay."""
    database: str | None = None
    """Keep rows in a database too, and images and maps in OUT/archive: postgresql://..., sqlite:///FILE, or
    sqlite for a file in OUT."""


def watch(arguments: list[str]) -> int:
    """Run `blemish watch`."""
    options = parse("watch", WatchOptions, arguments)
    from blemish.inference.promise import Promise
    from blemish.watch import folder
    from blemish.watch.ledger import LEDGER_NAME
    from blemish.watch.settings import WatchSettings

    settings = WatchSettings(
        model=options.model,
        folder=options.folder,
        out=options.out,
        move_to=options.move_to,
        allow=frozenset(options.allow),
        false_alarm_rate=options.false_alarm_rate,
        review_rate=options.review_rate,
        device=options.device,
        provider=options.provider,
        parts=_parts(options),
        product=options.product,
    )
    with Lines("blemish watch") as lines:
        with (
            owned(options.out),  # before a camera or a database is opened
            _notifying(options, lines) as (on_row, on_part),
            StopSignals() as stop,
            _camera(options, lines) as on_scan,
            _database(options, lines) as sync,
        ):
            recorded = folder.watch(
                settings,
                should_stop=lambda: stop.asked,
                on_row=on_row,
                on_scan=on_scan,
                on_model=lambda detector: lines.out(Promise.of(detector).describe()),
                on_part=on_part,
                on_promise=lines.out,
                sync=sync,
                say=lines.say,
            )
        lines.out(f"{recorded} recorded: {options.out / LEDGER_NAME}")
    return 0


@contextmanager
def _notifying(
    options: WatchOptions, lines: Lines
) -> Iterator[tuple[Callable[[dict[str, Any]], None], Callable[[dict[str, Any]], None]]]:
    """Give what prints a row and tells whoever is to know of a reject; at the end, say what they missed.

    The first is for images, the second for parts of several views: then those alone are told.
    """
    from blemish.watch.notify import Receivers

    receivers = Receivers(
        on_reject=options.on_reject,
        on_review=options.on_review,
        webhook=options.webhook,
        webhook_secret=options.webhook_secret,
        mqtt=options.mqtt,
    )
    with receivers.telling(lines.say) as tell:

        def tell_of(row: dict[str, Any]) -> None:
            if row["decision"] == "review":
                tell({"event": "review"} | row)
            elif row["anomalous"]:
                tell(row)

        def on_row(row: dict[str, Any]) -> None:
            lines.out(_describe(row))
            if options.part_pattern is None:
                tell_of(row)

        def on_part(row: dict[str, Any]) -> None:
            lines.out(_describe_part(row))
            tell_of(row)

        yield on_row, on_part


def _parts(options: WatchOptions) -> PartSettings | None:
    """Return how parts are told and decided, None: each image is a part. Raises UsageError."""
    from blemish.inference.part_models import ViewModels
    from blemish.watch.parts import PartSettings

    names = options.names()
    if names is None:
        options.refuse_without_parts()
        return None
    return PartSettings(
        names=names,
        models=ViewModels.of(options.model, options.view_model),
        wait_s=options.part_wait,
        calibration=options.parts,
        views=options.views,
    )


def _camera(options: WatchOptions, lines: Lines) -> AbstractContextManager[Callable[[int], None]]:
    """Return what opens the camera and grabs a frame at each look, or does nothing without a camera."""
    if options.camera is None:
        return nullcontext(lambda _: None)
    from blemish.watch.camera import frames_into

    return frames_into(options.camera, options.folder, every=options.every, say=lines.say)


def _database(options: WatchOptions, lines: Lines) -> AbstractContextManager[LedgerSync | None]:
    """Return what opens the database, if there is one."""
    if options.database is None:
        return nullcontext()
    from blemish.record.database import refuse_password
    from blemish.record.ledger_sync import sync_to_database
    from blemish.watch.ledger import LEDGER_NAME

    refuse_password(options.database)
    return sync_to_database(
        options.database, options.out / LEDGER_NAME, lines.say, labelling=options.labelling()
    )


def _describe_part(row: dict[str, Any]) -> str:
    missing = f", missing: {', '.join(row['missing'])}" if row["missing"] else ""
    outcome = row["error"] or f"{row['decision']}{missing}"
    p = "" if row["p_value"] is None else f", p {row['p_value']:.3g}"
    return f"part {row['part']}: {outcome}{p}"


def _describe(row: dict[str, Any]) -> str:
    decision = {"unjudged": "", "review": " for review"}.get(row["decision"], f" {row['decision']}")
    score = row["error"] or f"score {row['score']:.4g}{decision}, {1000 * row['seconds']:.0f} ms"
    return f"{row['sequence']} {row['path']}: {score}"

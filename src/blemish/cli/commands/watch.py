"""`blemish watch`."""

from __future__ import annotations

import sys
from contextlib import nullcontext
from typing import Any

from blemish.cli.arguments import WatchArguments
from blemish.cli.console import StopSignals, parse


def watch(arguments: list[str]) -> int:
    """Run `blemish watch`."""
    args: WatchArguments = parse("watch", WatchArguments, arguments)
    from blemish.watch import camera as grabbing
    from blemish.watch import folder, notify

    def say(text: str) -> None:
        print(f"blemish watch: {text}", file=sys.stderr, flush=True)

    makers = {"on-reject": (args.on_reject, notify.command), "webhook": (args.webhook, notify.webhook)}
    makers["mqtt"] = (args.mqtt, notify.mqtt)
    senders = {name: make(given) for name, (given, make) in makers.items() if given is not None}
    told = [notify.Hook(name, send, say, retry=name != "on-reject") for name, send in senders.items()]

    def on_row(row: dict[str, Any]) -> None:
        _print_inspection(row)
        if row["anomalous"]:
            for hook in told:
                hook.tell(row)

    camera, database = nullcontext(lambda _: None), nullcontext()
    if args.camera is not None:
        camera = grabbing.grabbing(args.camera, args.folder, every=args.every, say=say)
    if args.database is not None:
        from blemish.record.ledger_sync import keeping

        database = keeping(args.database, args.out / folder.LEDGER, say)
    try:
        with StopSignals() as stop, camera as on_look, database as keeper:
            recorded = folder.watch(
                args.model,
                args.folder,
                args.out,
                move_to=args.move_to,
                allow=frozenset(args.allow),
                false_alarm_rate=args.false_alarm_rate,
                device=args.device,
                stopped=lambda: stop.asked,
                on_row=on_row,
                on_look=on_look,
                keeper=keeper,
                say=say,
            )
    finally:
        for hook in told:
            lost = hook.close(notify.LAST_CALL)
            if lost:
                say(f"{hook.name}: {lost} rejects were not delivered")
    print(f"{recorded} recorded: {args.out / folder.LEDGER}")
    return 0


def _print_inspection(row: dict[str, Any]) -> None:
    verdict = {None: "", True: " rejected", False: " accepted"}[row["anomalous"]]
    score = row["error"] or f"score {row['score']:.4g}{verdict}, {1000 * row['seconds']:.0f} ms"
    line = f"{row['sequence']} {row['path']}: {score}"
    print(line.encode(errors="backslashreplace").decode(), flush=True)  # names need not be UTF-8

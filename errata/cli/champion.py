"""The champion that a retraining challenges: what its memory leaves out, and what follows."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from errata.cli.serve import redis_url
from errata.console import err, out, print_json
from errata.settings import Settings

if TYPE_CHECKING:
    import redis

    from feature_store.error_memory.events import LabelledEvent, Rebased
    from feature_store.registry import Manifest, Registry
    from pipelines.challenge import Challenge

# The champion stays: neither a success nor a failure.
KEPT = 3
_TIMEOUT_S = 30.0


def champion_of(model: str, settings: Settings) -> tuple[Registry, Path | None, Manifest | None]:
    """The registry, and the champion's folder and manifest where there is one."""
    from feature_store.registry import Registry, UnknownVersionError

    registry = Registry(settings.registry, cache=settings.home / "cache" / "registry")
    try:
        directory, manifest = registry.open(model, registry.resolve(model, "champion"))
    except UnknownVersionError:
        return registry, None, None
    return registry, directory, manifest


@contextmanager
def redis_client(settings: Settings) -> Iterator[redis.Redis]:
    """Of the server that is named, or an embedded one."""
    from feature_store.online import connect

    with redis_url(settings) as url:
        client = connect(url, timeout_s=_TIMEOUT_S)
        try:
            yield client
        finally:
            client.close()


def left_out(
    client: redis.Redis, champion: Manifest | None, model: str, tenant: str
) -> tuple[frozenset[int], frozenset[int]]:
    """See `MemoryLog.left_out`: of the champion, which has its predecessors' decisions."""
    from feature_store.error_memory.log import MemoryLog

    if champion is None:
        return frozenset(), frozenset()
    return MemoryLog(client, model=model, version=champion.version, tenant=tenant).left_out()


def labelled_online(
    model: str, champion: Manifest | None, tenant: str, settings: Settings
) -> list[LabelledEvent]:
    """What was labelled online, without what was cut out of the champion's memory."""
    from feature_store.error_memory.events import CAP, EventLog

    with redis_client(settings) as client:
        sources, entries = left_out(client, champion, model, tenant)
        return [
            each
            for each in EventLog(client, model=model, tenant=tenant).recent(CAP)
            if each.source not in sources and entries.isdisjoint(each.ids.values())
        ]


def alarm_of(model: str, tenant: str, settings: Settings) -> dict[str, Any] | None:
    """The last alarm that nobody has answered; see `DriftFlag.read`."""
    from feature_store.error_memory.drift import DriftFlag

    with redis_client(settings) as client:
        return DriftFlag(client, model=model, tenant=tenant).read()


def is_calm(model: str, alarm: dict[str, Any] | None, *, json: bool, exit_zero: bool) -> bool:
    """Whether no alarm was raised; says so, and exits with what stands for it."""
    if alarm is not None:
        err.print(
            f"errors of {model} {alarm['version']} rose from {alarm['before']:.3f} to "
            f"{alarm['after']:.3f}",
            highlight=False,
        )
        return False
    if json:
        print_json({"promoted": False, "reason": "no drift"})
    else:
        out.print(f"no alarm was raised for {model}: nothing to do")
    if not exit_zero:
        raise typer.Exit(KEPT)
    return True


def finish(
    model: str,
    found: Challenge,
    begin: Callable[[redis.Redis], Rebased | None],
    registry: Registry,
    settings: Settings,
    tenant: str,
    alarm: dict[str, Any] | None,
    json: bool,
    exit_zero: bool,
) -> None:
    """Promote, begin the new memory, answer the alarm, and say what happened."""
    from feature_store.error_memory.drift import DriftFlag

    stays = f"{found.champion_version} stays champion"
    if found.promote and (moved := _moved(registry, model, found.champion_version)):
        found, stays = replace(found, promote=False, reason=moved), "nothing is promoted"
    told: dict[str, Any] = {"promoted": found.promote, **found.to_json()}
    rebased = None
    with redis_client(settings) as client:
        if found.promote:
            # Before the alias moves: a replica that loads the version finds its memory begun.
            rebased = begin(client)
            registry.promote(model, found.challenger_version, alias="champion")
        flag = DriftFlag(client, model=model, tenant=tenant)
        if flag.read() == alarm:  # another one that was raised meanwhile stays
            flag.clear()
    told["rebased"] = None if rebased is None else rebased.events
    if json:
        print_json(told)
    else:
        window = found.window
        out.print(
            f"{window.cases:,} cases from {window.begins or 'the split'} on; "
            f"seen by the champion: {window.champion_saw_it}",
            highlight=False,
            soft_wrap=True,
        )
        before = "" if found.champion is None else f", champion {found.champion:.4f}"
        out.print(f"{found.metric}: challenger {found.challenger:.4f}{before}", highlight=False)
        if found.promote:
            out.print(f"promoted {found.challenger_version}: {found.reason}", highlight=False)
        else:
            out.print(f"{stays}: {found.reason}", highlight=False)
        if rebased is not None:
            out.print(f"its memory begins with {rebased.events:,} outcomes", highlight=False)
    if not found.promote and not exit_zero:
        raise typer.Exit(KEPT)


def _moved(registry: Registry, model: str, compared: str | None) -> str | None:
    """Why what was compared is not the champion any more: training took a while."""
    from feature_store.registry import UnknownVersionError

    now = None
    with suppress(UnknownVersionError):
        now = registry.resolve(model, "champion")
    return None if now == compared else f"{now} became champion while this was training"

"""`errata forget-user`: take one user out of everything that is kept."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated

import typer

from errata.cli.options import Json
from errata.cli.serve import redis_url
from errata.console import err, out, print_json
from errata.settings import Settings

if TYPE_CHECKING:
    import redis

# A rewritten append-only file, or a scan of millions of keys, takes its time.
_TIMEOUT_S = 30.0


def register(app: typer.Typer) -> None:
    """Add the command."""

    @app.command("forget-user")
    def forget_user(
        user_id: Annotated[str, typer.Argument(help="As in requests, or the pseudonym.")],
        tenant: Annotated[str, typer.Option(help="Prefix of the keys in Redis.")] = "default",
        catalogue: Annotated[
            str | None, typer.Option(help="A further catalogue of the service, by its name.")
        ] = None,
        json: Json = False,
    ) -> None:
        """Remove a user: feedback log and queue, history, features, predictions, memory of errors.

        Running services drop what they remember within a second, and Redis rewrites its
        append-only file. Not reached: the tables that you imported (remove the user there before
        the next training), backups, and models that were trained on the user's interactions among
        all others (they hold no vector and no row of a user). With ERRATA_USER_KEY the user is
        sought by the pseudonym alone; without it, by the id itself.

            errata forget-user 196 --json
        """
        from feature_store.error_memory.erasure import erase_source
        from feature_store.offline import FeedbackLog, Spool
        from feature_store.online import OnlineStore, connect

        settings = Settings()
        if (pseudonyms := settings.pseudonyms) is not None:
            user_id = pseudonyms(user_id)
        offline = settings.offline_directory
        if catalogue is not None:
            offline = offline / "catalogues" / catalogue
        # The queue first: what waits there would be delivered to Redis behind our back.
        waiting = Spool(offline / "spool.jsonl").forget(user_id)
        logged = FeedbackLog(offline / "feedback").forget(user_id) if offline.exists() else 0
        with redis_url(settings) as url:
            client = connect(url, timeout_s=_TIMEOUT_S)
            keys = OnlineStore(client, tenant=tenant).forget(user_id)
            erased = erase_source(client, user_id, tenant=tenant)
            rewritten = _rewrite_log(client)
            client.close()
        found = {
            "feedback_log": logged,
            "feedback_queue": waiting,
            "redis_keys": keys,
            "memory_removed": erased.removed,
            "memory_silenced": erased.silenced,
        }
        if not rewritten:
            err.print(
                "Redis would not rewrite its append-only file: until it does, the file on its disk "
                "holds old commands that name the user",
                highlight=False,
                soft_wrap=True,
            )
        if json:
            print_json(found)
            return
        for name, count in found.items():
            out.print(f"{count:>8,}  {name.replace('_', ' ')}", highlight=False)
        if not any(found.values()):
            out.print("nothing was kept of this user", highlight=False)


def _rewrite_log(client: redis.Redis) -> bool:
    """Have the append-only file rewritten, which still holds the commands that made what is gone;
    False where the server refuses (a managed one may)."""
    import redis

    deadline = time.monotonic() + _TIMEOUT_S
    while time.monotonic() < deadline:
        try:
            client.bgrewriteaof()
        except redis.ResponseError as error:
            if "in progress" not in str(error):
                return False
            time.sleep(0.1)  # one that began before the deletion is no help
        else:
            return True
    return False

"""`errata index build`: another index for a version, chosen and tuned on real queries."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, get_args

import numpy as np
import polars as pl
import redis
import typer
from numpy.typing import NDArray
from rich.table import Table

from errata import __version__
from errata.cli.data import read_dataset
from errata.cli.options import Json, MaxRejectShare
from errata.cli.serve import redis_url
from errata.console import err, out, print_json
from errata.settings import Settings
from feature_store.editions import RecommenderEdition
from feature_store.editions.additions import AddedItem
from feature_store.editions.additions import fold as fold_changes
from feature_store.editions.indexing import IndexReport, with_tuned_index
from feature_store.editions.recommender import MODEL_NAME
from feature_store.online import CatalogueChanges, OnlineStore, connect
from feature_store.online.store import HISTORY_LENGTH
from feature_store.registry import Manifest, Registry
from feature_store.vectors.spec import Kind

MIN_QUERIES = 20
KINDS: tuple[Kind, ...] = get_args(Kind)
# (item id, interaction type), newest first.
History = Sequence[tuple[str, str]]


def register(app: typer.Typer) -> None:
    """Add the command group."""
    group = typer.Typer(help="The index that a version is searched with.", no_args_is_help=True)
    app.add_typer(group, name="index")

    @group.command()
    def build(
        reference: Annotated[
            str, typer.Argument(help="A version, or an alias such as champion.")
        ] = "champion",
        target_recall: Annotated[
            float,
            typer.Option(help="Share of the exact best k that must be found.", min=0.01, max=1.0),
        ] = 0.99,
        k: Annotated[int, typer.Option(help="Length of the list.", min=1, max=500)] = 100,
        data: Annotated[
            Path | None,
            typer.Option(help="Take the users of these tables in place of those in Redis."),
        ] = None,
        fold: Annotated[
            bool, typer.Option(help="Take in what was added and withdrawn over HTTP since.")
        ] = True,
        queries: Annotated[int, typer.Option(help="How many users to search for.", min=20)] = 1_000,
        kinds: Annotated[
            list[str] | None,
            typer.Option(
                "--kind", help=f"Try only this kind ({', '.join(KINDS)}); may be given again."
            ),
        ] = None,
        tenant: Annotated[str, typer.Option(help="Prefix of the keys in Redis.")] = "default",
        model: Annotated[str, typer.Option(help="Name of the model.")] = MODEL_NAME,
        promote: Annotated[
            bool, typer.Option("--promote", help="Make the new version champion.")
        ] = False,
        seed: Annotated[int, typer.Option(help="Of the sample and of the training.")] = 0,
        max_reject_share: MaxRejectShare = 0.01,
        json: Json = False,
    ) -> None:
        """Choose and tune the index of a version, and publish the result as a new version.

        Builds each kind of index that suits the size, finds its least effort for the recall on
        half of a sample of users, measures it on the other half, and keeps the fastest. Users are
        those in Redis (`errata materialise` fills it), or in the tables of --data. The measured
        recall is in the new version's manifest: `errata registry show VERSION`.

            errata index build --target-recall 0.99 --data data/ --promote
        """
        settings, kinds_tried = Settings(), _checked(kinds)
        registry = Registry(settings.registry, cache=settings.home / "cache" / "registry")
        directory, manifest = registry.open(model, reference)
        edition = RecommenderEdition.load(directory, device="cpu")
        if fold:
            edition = _folded(edition, settings, tenant)
        if data is not None:
            dataset = read_dataset(
                data,
                format="auto",
                max_reject_share=max_reject_share,
                rejects_path=settings.home / "rejects",
            )
            histories = _of_tables(dataset.interactions, queries, seed)
        else:
            histories = _of_redis(settings, tenant, queries)
        users = _user_vectors(edition, histories)
        if len(users) < MIN_QUERIES:
            raise ValueError(
                f"{len(users)} users with a history of items that {manifest.version} knows: too "
                f"few to measure a recall (at least {MIN_QUERIES}). Name tables with --data, or "
                "fill Redis with `errata materialise`."
            )
        tuned, report = with_tuned_index(
            edition,
            users,
            target_recall=target_recall,
            k=min(k, len(edition.catalogue)),
            kinds=kinds_tried,
            seed=seed,
            on_trial=lambda text: err.print(text, highlight=False),
        )
        version = _publish(registry, directory, manifest, tuned, report)
        if promote:
            registry.promote(model, version, alias="champion")
        if json:
            print_json({"version": version, "promoted": promote, "index": report.to_json()})
        else:
            _show(report, version, promoted=promote)
        if not report.reached:
            raise typer.Exit(1)


def _checked(kinds: list[str] | None) -> list[Kind] | None:
    if unknown := sorted(set(kinds or ()) - set(KINDS)):
        raise ValueError(f"--kind is one of {', '.join(KINDS)}, not {', '.join(unknown)}")
    return [kind for kind in KINDS if kind in kinds] if kinds else None


def _folded(edition: RecommenderEdition, settings: Settings, tenant: str) -> RecommenderEdition:
    """The edition with the changes of the catalogue, where there is a Redis that knows of any."""
    if settings.redis_url is None and not settings.redis_directory.exists():
        return edition
    with redis_url(settings) as url:
        changes = CatalogueChanges(connect(url, timeout_s=10), tenant=tenant).since(0)
    if changes is None:
        return edition
    added = [AddedItem.unpack(raw) for _, raw in changes.added]
    folded = fold_changes(edition, added, changes.withdrawn)
    err.print(
        f"{len(edition.catalogue):,} items, {len(folded.catalogue):,} after the changes",
        highlight=False,
    )
    return folded


def _of_redis(settings: Settings, tenant: str, queries: int) -> list[History]:
    with redis_url(settings) as url:
        store = OnlineStore(connect(url, timeout_s=10), tenant=tenant)
        try:
            known = store.users(store.sample_users(queries))
        except redis.RedisError as error:
            raise redis.ConnectionError(f"could not read users from Redis: {error}") from error
    newest_first = (
        sorted(user.events, key=lambda event: event.timestamp_ms, reverse=True) for user in known
    )
    return [[(event.item_id, event.type) for event in events] for events in newest_first]


def _of_tables(interactions: pl.DataFrame, queries: int, seed: int) -> list[History]:
    ids = interactions["user_id"].unique().sort()
    chosen = ids.sample(min(queries, len(ids)), seed=seed)
    kept = (
        interactions.filter(pl.col("user_id").is_in(chosen.implode()))
        .sort("timestamp", descending=True, nulls_last=True, maintain_order=True)
        .group_by("user_id", maintain_order=True)
        .head(HISTORY_LENGTH)
        .group_by("user_id", maintain_order=True)
        .agg("item_id", "type")
    )
    return [
        list(zip(items, kinds, strict=True))
        for items, kinds in kept.select("item_id", "type").iter_rows()
    ]


def _user_vectors(edition: RecommenderEdition, histories: Iterable[History]) -> NDArray[np.float32]:
    row_of = edition.catalogue.row_of
    events = [[(row_of.get(item, -1), kind) for item, kind in each] for each in histories]
    weighed = edition.weigh(events)
    known = np.diff(weighed.indptr) > 0
    weighed = weighed[known]
    features = np.zeros((weighed.shape[0], edition.user_features.dimension), np.float32)
    if weighed.shape[0] == 0:
        return np.zeros((0, edition.item_vectors.shape[1]), np.float32)
    return edition.user_vectors(weighed, features)


def _publish(
    registry: Registry,
    directory: Path,
    manifest: Manifest,
    edition: RecommenderEdition,
    report: IndexReport,
) -> str:
    with tempfile.TemporaryDirectory() as folder:
        staging = Path(folder) / "version"
        edition.save(staging)
        for name in manifest.files:  # the report, and whatever else belongs to the version
            if not (staging / name).exists():
                (staging / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(directory / name, staging / name)
        published = registry.publish(
            manifest.model,
            staging,
            data_fingerprint=manifest.data_fingerprint,
            code_version=__version__,
            config=manifest.config,
            metrics=manifest.metrics
            | {"index": report.to_json() | {"built_from": manifest.version}},
        )
    return published.version


def _show(report: IndexReport, version: str, *, promoted: bool) -> None:
    table = Table("kind", "effort", "fetched", f"recall@{report.k}", "p50 ms", "p99 ms", "build s")
    for trial in report.trials:
        effort = str(trial.breadth or "")
        if trial.kind == "ivfpq":
            effort += f" ×{trial.refine_factor:g}"
        mark = "[bold]" if trial == report.chosen else ""
        table.add_row(
            f"{mark}{trial.kind}",
            effort,
            str(trial.fetched),
            f"{trial.recall:.4f}",
            f"{trial.p50_ms:.2f}",
            f"{trial.p99_ms:.2f}",
            f"{trial.build_s:.0f}",
        )
    out.print(table)
    if not report.reached:
        err.print(
            f"[yellow]no index reached {report.target_recall}[/yellow]; the most exact was kept",
            highlight=False,
        )
    if not promoted:
        err.print(f"serve it with:  errata registry promote {version}", soft_wrap=True)
    out.print(f"published {version}", highlight=False)

"""`errata index build`: another index for a version, chosen and tuned on real queries."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, get_args

import typer
from rich.table import Table

from errata.cli.data import read_dataset
from errata.cli.options import Json, MaxRejectShare
from errata.console import err, out, print_json
from errata.settings import Settings
from feature_store.registry.names import RECOMMENDER

if TYPE_CHECKING:
    from feature_store.editions.indexing import IndexReport

MIN_QUERIES = 20
# As in `feature_store.vectors.spec`, which would bring numpy and FAISS to every `errata --help`.
Kind = Literal["flat", "hnsw", "ivf", "ivfpq"]
KINDS: tuple[Kind, ...] = get_args(Kind)


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
        model: Annotated[str, typer.Option(help="Name of the model.")] = RECOMMENDER,
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
        from errata.cli import index_building as building
        from feature_store.editions import RecommenderEdition
        from feature_store.editions.indexing import with_tuned_index
        from feature_store.registry import Registry

        settings, kinds_tried = Settings(), _checked(kinds)
        registry = Registry(settings.registry, cache=settings.home / "cache" / "registry")
        directory, manifest = registry.open(model, reference)
        edition = RecommenderEdition.load(directory, device="cpu")
        if fold:
            edition = building.folded(edition, settings, tenant)
        if data is not None:
            dataset = read_dataset(
                data,
                format="auto",
                max_reject_share=max_reject_share,
                rejects_path=settings.home / "rejects",
                pseudonyms=settings.pseudonyms,
            )
            histories = building.histories_of_tables(dataset.interactions, queries, seed)
        else:
            histories = building.histories_of_redis(settings, tenant, queries)
        users = building.user_vectors(edition, histories)
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
        version = building.publish(registry, directory, manifest, tuned, report)
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

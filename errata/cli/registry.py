"""`errata registry`: versions, aliases, rollback."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Column, Table

from errata.cli.options import Json
from errata.console import out, print_json
from errata.settings import Settings
from feature_store.registry.names import RECOMMENDER

if TYPE_CHECKING:
    from feature_store.registry import Registry

MODEL_CARD = "model_card.md"
Model = Annotated[str, typer.Option("--model", help="Name of the model.")]
Alias = Annotated[str, typer.Option("--alias", help="Which pointer to move.")]
Reference = Annotated[str, typer.Argument(help="A version, or an alias such as champion.")]


def register(app: typer.Typer) -> None:
    """Add the command group."""
    group = typer.Typer(
        help="Published versions and the aliases that point at them.", no_args_is_help=True
    )
    app.add_typer(group, name="registry")

    @group.command("list")
    def list_(model: Model = RECOMMENDER, json: Json = False) -> None:
        """List the versions, oldest first."""
        registry = _registry()
        aliases = registry.aliases(model)
        versions = registry.versions(model)
        named = {
            each.version: [alias for alias, version in aliases.items() if version == each.version]
            for each in versions
        }
        if json:
            print_json(
                [
                    each.model_dump(mode="json", include={"version", "created_at", "metrics"})
                    | {"aliases": named[each.version]}
                    for each in versions
                ]
            )
            return
        if not versions:
            out.print(f"no version of '{model}' yet: errata train {model} --data DIR")
            return
        table = Table(
            Column("version", no_wrap=True),
            Column("created", no_wrap=True),
            Column("aliases", overflow="fold"),
            Column("metrics", overflow="fold"),
        )
        for each in versions:
            figures = ", ".join(
                f"{name} {value}"
                for name, value in each.metrics.items()
                if isinstance(value, int | float)
            )
            table.add_row(
                each.version,
                f"{each.created_at:%Y-%m-%d %H:%M}",
                " ".join(named[each.version]),
                figures,
            )
        out.print(table)

    @group.command()
    def show(reference: Reference, model: Model = RECOMMENDER) -> None:
        """Print a version's manifest as JSON."""
        print_json(_registry().manifest(model, reference).model_dump(mode="json"))

    @group.command()
    def card(reference: Reference = "champion", model: Model = RECOMMENDER) -> None:
        """Print a version's model card: how it was measured, and what was found."""
        from rich.markdown import Markdown

        directory, manifest = _registry().open(model, reference)
        path = directory / MODEL_CARD
        if not path.exists():
            raise ValueError(
                f"{model} {manifest.version} has no model card; see `errata registry show "
                f"{manifest.version} --model {model}` for its metrics"
            )
        out.print(Markdown(path.read_text()))

    @group.command()
    def verify(reference: Reference = "champion", model: Model = RECOMMENDER) -> None:
        """Check every file of a version against its SHA-256."""
        directory, manifest = _registry().open(model, reference)
        out.print(
            f"{manifest.version}: {len(manifest.files)} files are whole, in {directory}",
            soft_wrap=True,
        )

    @group.command()
    def promote(
        reference: Reference, model: Model = RECOMMENDER, alias: Alias = "champion"
    ) -> None:
        """Point an alias at a version, once its files are verified."""
        registry = _registry()
        registry.promote(model, registry.resolve(model, reference), alias=alias)
        out.print(f"{alias} → {registry.resolve(model, alias)}")

    @group.command()
    def rollback(model: Model = RECOMMENDER, alias: Alias = "champion") -> None:
        """Point an alias back at the version before."""
        out.print(f"{alias} → {_registry().rollback(model, alias=alias)}")


def _registry() -> Registry:
    from feature_store.registry import Registry

    settings = Settings()
    return Registry(settings.registry, cache=settings.home / "cache" / "registry")

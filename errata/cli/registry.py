"""`errata registry`: versions, aliases, rollback."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Column, Table

from errata.cli.options import Json
from errata.console import out, print_json
from errata.settings import Settings
from feature_store.registry.names import RECOMMENDER, TRAFFIC

if TYPE_CHECKING:
    from feature_store.registry import Manifest, Registry

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
        registry = _registry(model)
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
                    | {"aliases": named[each.version], "ablations": _ablations(each)}
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
        if ablated := any(map(_ablations, versions)):
            table.add_column("ablated", no_wrap=True)
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
                *([" ".join(_ablations(each))] if ablated else ()),
            )
        out.print(table)

    @group.command()
    def show(reference: Reference, model: Model = RECOMMENDER) -> None:
        """Print a version's manifest as JSON, and what its training left out."""
        manifest = _registry(model).manifest(model, reference)
        print_json(manifest.model_dump(mode="json") | {"ablations": _ablations(manifest)})

    @group.command()
    def card(reference: Reference = "champion", model: Model = RECOMMENDER) -> None:
        """Print a version's model card: how it was measured, and what was found."""
        from rich.markdown import Markdown

        directory, manifest = _registry(model).open(model, reference)
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
        directory, manifest = _registry(model).open(model, reference)
        out.print(
            f"{manifest.version}: {len(manifest.files)} files are whole, in {directory}",
            soft_wrap=True,
        )

    @group.command()
    def promote(
        reference: Reference, model: Model = RECOMMENDER, alias: Alias = "champion"
    ) -> None:
        """Point an alias at a version, once its files are verified."""
        registry = _registry(model)
        registry.promote(model, registry.resolve(model, reference), alias=alias)
        out.print(f"{alias} → {registry.resolve(model, alias)}")

    @group.command()
    def rollback(model: Model = RECOMMENDER, alias: Alias = "champion") -> None:
        """Point an alias back at the version before."""
        out.print(f"{alias} → {_registry(model).rollback(model, alias=alias)}")


def _registry(model: str) -> Registry:
    """The registry, which knows `model`.

    Raises:
        ValueError: nothing trains a model of that name, and none is published.
    """
    from feature_store.registry import Registry

    settings = Settings()
    registry = Registry(settings.registry, cache=settings.home / "cache" / "registry")
    if model not in (trained := {RECOMMENDER, TRAFFIC}):
        known = sorted(trained | set(registry.models()))
        if model not in known:
            raise ValueError(f"no model '{model}': --model is one of {', '.join(known)}")
    return registry


def _ablations(manifest: Manifest) -> list[str]:
    """The parts that a recommender was trained without, by their names for --ablate."""
    from pipelines.recommender.config import ablations_of

    return [*ablations_of(manifest.config)] if manifest.model == RECOMMENDER else []

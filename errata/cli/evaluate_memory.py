"""`errata evaluate memory`."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from errata.cli.data import read_dataset
from errata.cli.interrupt import ends_promptly
from errata.cli.options import Json, Overrides, parse_overrides
from errata.console import out, print_json
from errata.settings import Settings
from feature_store.registry.names import TRAFFIC

if TYPE_CHECKING:
    from pipelines.memory.evaluation import Arm
    from pipelines.memory.subject import Subject
    from pipelines.progress import Reporter

Kind = Literal["recommender", "traffic"]
_SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}


def register(group: typer.Typer) -> None:
    """Add the command to `errata evaluate`."""

    @group.command("memory")
    def evaluate_memory(
        data: Annotated[
            Path,
            typer.Option("--data", help="Interactions with times, or a folder of captures."),
        ],
        model: Annotated[Kind, typer.Option(help="Whose mistakes.")] = "recommender",
        version: Annotated[str, typer.Option(help="A version, or an alias.")] = "champion",
        arms: Annotated[
            str,
            typer.Option(
                help="Which ways, by name: base, memory, incremental, incremental+memory, "
                "retrain, retrain+memory."
            ),
        ] = "base,memory,incremental,incremental+memory,retrain,retrain+memory",
        delay: Annotated[
            int, typer.Option(help="Events from a prediction to its label.", min=1)
        ] = 256,
        retrain_every: Annotated[
            str, typer.Option(help="Period of retraining: 90m, 12h, 1d, 7d.")
        ] = "1d",
        negatives: Annotated[
            Literal["auto", "uniform", "now"],
            typer.Option(help="Where no rating says no: uniform, or from what is popular now."),
        ] = "auto",
        since: Annotated[
            datetime | None,
            typer.Option(help="Begin of the stream; by default what the version has not seen."),
        ] = None,
        policy: Annotated[
            Literal["tuned", "served"],
            typer.Option(help="Of the memory: chosen on the first events, or as served."),
        ] = "tuned",
        overrides: Overrides = None,
        report: Annotated[Path | None, typer.Option(help="Write an HTML report here.")] = None,
        json: Json = False,
    ) -> None:
        """Replay a stream as if it were live: predict, then learn, in every way there is.

        The published version alone, corrected from memory, trained on by a gradient step per batch,
        trained anew every period, and both. The first quarter of the stream chooses every
        parameter; the rest is measured. --set changes how it is trained anew.

            errata evaluate memory --data data/ --retrain-every 7d --report memory.html

            errata evaluate memory --model traffic --data captures/ --delay 64
        """
        from pipelines.memory.evaluation import ARMS, evaluate
        from pipelines.memory.report import table, to_json, verdict, write_html
        from pipelines.progress import Terminal

        names = [each.strip() for each in arms.split(",")]
        if wrong := [each for each in names if each not in ARMS]:
            raise ValueError(f"--arms: no '{wrong[0]}' among {', '.join(ARMS)}")
        chosen: list[Arm] = [each for each in ARMS if each in names]
        changes = parse_overrides(overrides)
        reporter = Terminal()
        with ends_promptly("interrupted: nothing is kept"):
            subject = open_subject(
                model, version, data, negatives=negatives, since=since, changes=changes,
                reporter=reporter,
            )  # fmt: skip
            found = evaluate(
                subject,
                delay=delay,
                arms=chosen,
                policy=served_policy(model) if policy == "served" else None,
                retrain_every_s=seconds(retrain_every),
                reporter=reporter,
            )
        if report is not None:
            report.parent.mkdir(parents=True, exist_ok=True)
            write_html(report, found, title=f"Error memory: {model} {subject.notes['version']}")
        if json:
            print_json(to_json(found))
            return
        for name, value in found.notes.items():
            out.print(f"{name}: {value}", highlight=False, soft_wrap=True)
        out.print(f"memory {verdict(found)}", highlight=False, soft_wrap=True)
        out.print(table(found))


def open_subject(
    model: Kind,
    version: str,
    data: Path,
    *,
    negatives: Literal["auto", "uniform", "now"] = "auto",
    since: datetime | None = None,
    changes: dict[str, Any] | None = None,
    reporter: Reporter | None = None,
) -> Subject:
    """A published version beside the user's own stream.

    Raises:
        RegistryError: no such version.
        ValueError: the data cannot be read, or are no stream.
    """
    from feature_store.registry import Registry

    settings = Settings()
    registry = Registry(settings.registry, cache=settings.home / "cache" / "registry")
    directory, manifest = registry.open(model, registry.resolve(model, version))
    if model == TRAFFIC:
        from feature_store.editions.traffic import TrafficEdition
        from pipelines.memory import traffic
        from pipelines.traffic.config import TrafficConfig
        from pipelines.traffic.pipeline import read

        config = TrafficConfig.model_validate(manifest.config)
        edition = TrafficEdition.load(directory)
        flows = read(data, config, reporter=reporter)
        return traffic.subject(
            flows, edition, manifest, config=config.changed(**(changes or {})), reporter=reporter
        )
    from feature_store.editions import RecommenderEdition
    from pipelines.memory import recommender
    from pipelines.recommender.config import RecommenderConfig

    tables = read_dataset(
        data,
        format="auto",
        max_reject_share=0.01,
        rejects_path=settings.home / "rejects",
        pseudonyms=settings.pseudonyms,
    )
    return recommender.subject(
        tables,
        RecommenderEdition.load(directory, device="cpu"),
        manifest,
        negatives=negatives,
        since=since.replace(tzinfo=since.tzinfo or UTC) if since else None,
        config=RecommenderConfig.model_validate(manifest.config).changed(**(changes or {})),
        reporter=reporter,
    )


def served_policy(model: str) -> Any:
    """The policy that `errata serve` begins with."""
    if model == TRAFFIC:
        from services.classify.memory_policy import DEFAULT_POLICY

        return DEFAULT_POLICY
    from services.recommend.memory_policy import DEFAULT_POLICY

    return DEFAULT_POLICY


def seconds(period: str) -> float:
    """`12h` → 43200.

    Raises:
        ValueError: not a number and one of s, m, h, d.
    """
    number, unit = period[:-1], period[-1:]
    try:
        found = float(number) * _SECONDS[unit]
    except (ValueError, KeyError) as error:
        raise ValueError(f"a period is a number and s, m, h or d, not '{period}'") from error
    if not found > 0:
        raise ValueError(f"a period is above 0, not '{period}'")
    return found

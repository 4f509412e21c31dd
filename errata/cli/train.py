"""`errata train` and `errata evaluate`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from errata import __version__
from errata.cli import evaluate_memory
from errata.cli.data import read_dataset, read_feedback
from errata.cli.interrupt import ends_promptly
from errata.cli.options import ConfigFile, Json, MaxRejectShare, Overrides, parse_overrides
from errata.console import err, out, print_json
from errata.settings import Settings
from feature_store.registry.names import RECOMMENDER, TRAFFIC

if TYPE_CHECKING:
    from rich.console import RenderableType

    from feature_store.interactions.dataset import Dataset
    from feature_store.registry import Registry
    from pipelines.traffic.config import TrafficConfig


class TierName(StrEnum):
    """As in `feature_store.traffic.features`, which would bring numba to every `errata --help`."""

    T0 = "T0"
    T1 = "T1"
    T2 = "T2"


Data = Annotated[
    Path,
    typer.Option("--data", help="Imported tables, or any format that `errata import` reads."),
]
Captures = Annotated[
    Path,
    typer.Option("--data", help="A folder of captures (pcap, pcapng, gzipped or not)."),
]
Labels = Annotated[
    Path | None,
    typer.Option("--labels", help="CSV of labels.", exists=True, dir_okay=False),
]
Ablate = Annotated[
    Literal["towers_only", "no_balanced_sampler", "users_in_graph"] | None,
    typer.Option("--ablate", help="Leave one part out, to see what it is worth."),
]


def register(app: typer.Typer) -> None:
    """Add the command groups."""
    training = typer.Typer(help="Train and publish a model.", no_args_is_help=True)
    evaluation = typer.Typer(help="Measure a model against baselines.", no_args_is_help=True)
    app.add_typer(training, name="train")
    app.add_typer(evaluation, name="evaluate")
    evaluate_memory.register(evaluation)

    @training.command("recommender")
    def train_recommender(
        data: Data,
        config: ConfigFile = None,
        overrides: Overrides = None,
        ablate: Ablate = None,
        feedback: Annotated[
            bool,
            typer.Option("--with-feedback", help="Add what POST /v1/feedback has collected."),
        ] = False,
        promote: Annotated[
            bool, typer.Option("--promote", help="Make the new version champion.")
        ] = False,
        max_reject_share: MaxRejectShare = 0.01,
        json: Json = False,
    ) -> None:
        """Train the recommender, compare it with baselines, publish a version.

        A run that was killed goes on where it stopped when the same command is given again.

            errata train recommender --data data/ --set towers.epochs=20 --promote

        Several processes train the networks together under torchrun:

            torchrun --standalone --nproc-per-node 2 -m errata train recommender --data data/
        """
        from feature_store.registry import Registry
        from pipelines.distributed import process_group
        from pipelines.progress import Terminal
        from pipelines.recommender.config import RecommenderConfig
        from pipelines.recommender.feedback import with_feedback
        from pipelines.recommender.pipeline import run_together
        from pipelines.recommender.report import comparison_table, to_json

        settings = Settings()
        chosen = RecommenderConfig.load(config, parse_overrides(overrides))
        chosen = chosen.ablated(ablate) if ablate else chosen
        registry = Registry(settings.registry, cache=settings.home / "cache" / "registry")
        dataset = _read(data, settings, max_reject_share)
        if feedback:
            dataset = with_feedback(dataset, read_feedback(settings))
        with (
            ends_promptly(
                "interrupted: nothing is published; the same command goes on after the last epoch"
            ),
            process_group() as group,
        ):
            done = run_together(
                group,
                dataset,
                chosen,
                registry=registry,
                runs_directory=settings.home / "runs",
                code_version=__version__,
                reporter=Terminal(),
            )
        if done is None:  # the first process of the group speaks
            return
        _published(
            registry,
            RECOMMENDER,
            done.manifest.version,
            promote=promote,
            json=to_json(done.evaluations) if json else None,
            shown=comparison_table(done.evaluations),
            report=done.report,
        )

    @evaluation.command("recommender")
    def evaluate_recommender(
        data: Data,
        protocol: Annotated[
            Literal["temporal", "leave_last_out", "given", "all"],
            typer.Option(help="How to hold out; `all` is temporal and leave_last_out."),
        ] = "all",
        config: ConfigFile = None,
        overrides: Overrides = None,
        ablate: Ablate = None,
        report: Annotated[Path | None, typer.Option(help="Folder for HTML reports.")] = None,
        max_reject_share: MaxRejectShare = 0.01,
        json: Json = False,
    ) -> None:
        """Train on what a protocol leaves and rank what it holds out; nothing is published."""
        from pipelines.progress import Terminal
        from pipelines.recommender.config import RecommenderConfig
        from pipelines.recommender.pipeline import evaluate_protocol
        from pipelines.recommender.report import comparison_table, to_json, write_html

        chosen = RecommenderConfig.load(config, parse_overrides(overrides))
        chosen = chosen.ablated(ablate) if ablate else chosen
        dataset = _read(data, Settings(), max_reject_share)
        protocols = ("temporal", "leave_last_out") if protocol == "all" else (protocol,)
        found = {}
        for each in protocols:
            with ends_promptly("interrupted: nothing is kept"):
                evaluations = evaluate_protocol(
                    dataset, chosen.changed(**{"split.kind": each}), reporter=Terminal()
                )
            found[each] = to_json(evaluations)
            if not json:
                for name in evaluations[0].slices:
                    out.print(comparison_table(evaluations, slice_name=name))
            if report is not None:
                report.mkdir(parents=True, exist_ok=True)
                write_html(report / f"{each}.html", evaluations, title=f"Recommender, {each}")
        if json:
            print_json(found)

    @training.command("traffic")
    def train_traffic(
        data: Captures,
        config: ConfigFile = None,
        overrides: Overrides = None,
        labels: Labels = None,
        promote: Annotated[
            bool, typer.Option("--promote", help="Make the new version champion.")
        ] = False,
        json: Json = False,
    ) -> None:
        """Train the traffic classifier, compare it with baselines, publish a version.

        Labels are, in this order: --labels, or labels.csv in the folder (columns mac,label or
        src,src_port,dst,dst_port,protocol,label and optional begin,end,capture: seconds since 1970
        or ISO times, and a file's name); a *mac*.txt with the device's address in each class
        folder; the class folders themselves; the names of captures that lie side by side
        (chat_1.pcap, chat_2.pcap). A run that was killed goes on where it stopped when the same
        command is given again.

            errata train traffic --data captures/ --promote

        Several processes train the network together under torchrun:

            torchrun --standalone --nproc-per-node 2 -m errata train traffic --data captures/
        """
        from rich.markdown import Markdown

        from feature_store.registry import Registry
        from pipelines.distributed import process_group
        from pipelines.progress import Terminal
        from pipelines.traffic.pipeline import run_together

        settings = Settings()
        registry = Registry(settings.registry, cache=settings.home / "cache" / "registry")
        with (
            ends_promptly(
                "interrupted: nothing is published; the same command goes on after the last epoch"
            ),
            process_group() as group,
        ):
            done = run_together(
                group,
                data,
                _traffic_config(config, overrides, labels),
                registry=registry,
                runs_directory=settings.home / "runs",
                code_version=__version__,
                reporter=Terminal(),
            )
        if done is None:  # the first process of the group speaks
            return
        _published(
            registry,
            TRAFFIC,
            done.manifest.version,
            promote=promote,
            json=done.evaluation.to_json() if json else None,
            shown=Markdown(done.card),
        )

    @evaluation.command("traffic")
    def evaluate_traffic(
        data: Captures,
        protocol: Annotated[
            Literal["honest"],
            typer.Option(
                help="Split by recording and time. Trees and forest at every tier, the rest of the "
                "baselines at the model's own."
            ),
        ] = "honest",
        seeds: Annotated[int, typer.Option(min=1, help="Trainings, each with another seed.")] = 1,
        tier: Annotated[
            list[TierName] | None,
            typer.Option("--tier", help="Tiers to train at; repeat it. T0 and T1 by default."),
        ] = None,
        config: ConfigFile = None,
        overrides: Overrides = None,
        labels: Labels = None,
        card: Annotated[Path | None, typer.Option(help="Write the card to this file.")] = None,
        json: Json = False,
    ) -> None:
        """Measure the classifier as strictly as the field's critics ask; nothing is published.

        errata evaluate traffic --data captures/ --seeds 5
        """
        del protocol  # there is one, and it must be possible to name it
        from rich.markdown import Markdown

        from feature_store.traffic.features import Tier
        from pipelines.progress import Terminal
        from pipelines.traffic.pipeline import measure

        with ends_promptly("interrupted"):
            found = measure(
                data,
                _traffic_config(config, overrides, labels),
                seeds=seeds,
                tiers=tuple(Tier(each) for each in tier or (TierName.T0, TierName.T1)),
                reporter=Terminal(),
            )
        if card is not None:
            card.write_text(found.card)
        if json:
            print_json({"seeds": [each.to_json() for each in found.evaluations]})
            return
        out.print(Markdown(found.card))


def _published(
    registry: Registry,
    model: str,
    version: str,
    *,
    promote: bool,
    json: dict[str, Any] | None,
    shown: RenderableType,
    report: Path | None = None,
) -> None:
    """Promote a new version where asked to, and say what became of it.

    Args:
        json: the evaluation, where JSON was asked for in place of `shown`.
        report: where the HTML report lies, if there is one.
    """
    if promote:
        registry.promote(model, version, alias="champion")
    if json is not None:
        print_json({"version": version, "promoted": promote, **json})
        return
    out.print(shown)
    where = "" if report is None else f"; report: {report}"
    out.print(f"published {version}{where}", highlight=False, soft_wrap=True)
    if not promote:
        named = "" if model == RECOMMENDER else f" --model {model}"
        err.print(
            f"use it with:  errata registry promote {version}{named}",
            highlight=False,
            soft_wrap=True,
        )


def _traffic_config(
    config: Path | None, overrides: list[str] | None, labels: Path | None
) -> TrafficConfig:
    from pipelines.traffic.config import TrafficConfig

    chosen = TrafficConfig.load(config, parse_overrides(overrides))
    return chosen if labels is None else chosen.changed(**{"labels.table": labels})


def _read(data: Path, settings: Settings, max_reject_share: float) -> Dataset:
    return read_dataset(
        data,
        format="auto",
        max_reject_share=max_reject_share,
        rejects_path=settings.home / "rejects",
        pseudonyms=settings.pseudonyms,
    )

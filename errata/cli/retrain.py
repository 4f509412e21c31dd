"""`errata retrain`: train on what was collected, and promote what is better."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from errata import __version__
from errata.cli.champion import (
    KEPT,
    alarm_of,
    champion_of,
    finish,
    is_calm,
    labelled_online,
    left_out,
    redis_client,
)
from errata.cli.interrupt import ends_promptly
from errata.cli.options import ConfigFile, Json, MaxRejectShare, Overrides, parse_overrides
from errata.settings import Settings
from feature_store.error_memory.hashing import source_id
from feature_store.registry.names import RECOMMENDER, TRAFFIC

if TYPE_CHECKING:
    import redis

    from feature_store.error_memory.events import Rebased

Margin = Annotated[float, typer.Option(help="What the difference, or its interval, must be above.")]
RuleName = Annotated[
    Literal["certain", "mean"],
    typer.Option(help="certain: the 95 % interval must be above the margin; mean: the mean."),
]
IfDrift = Annotated[
    bool, typer.Option("--if-drift", help="Only where a replica has raised the alarm.")
]
ExitZero = Annotated[
    bool, typer.Option("--exit-zero", help="Exit 0 also when the champion stays (for a CronJob).")
]
Tenant = Annotated[str, typer.Option(help="Prefix of the keys in Redis.")]


def register(app: typer.Typer) -> None:
    """Add the command group."""
    group = typer.Typer(
        help="Train on what was collected; promote only what is better. Exit 0: promoted, "
        f"{KEPT}: the champion stays.",
        no_args_is_help=True,
    )
    app.add_typer(group, name="retrain")

    @group.command("recommender")
    def retrain_recommender(
        data: Annotated[Path, typer.Option("--data", help="The tables, as in `errata train`.")],
        metric: Annotated[str, typer.Option(help="Of the comparison.")] = "ndcg@20",
        margin: Margin = 0.0,
        rule: RuleName = "certain",
        window: Annotated[
            float, typer.Option(help="The newest share of the interactions decides.", min=0.01)
        ] = 0.1,
        if_drift: IfDrift = False,
        exit_zero: ExitZero = False,
        config: ConfigFile = None,
        overrides: Overrides = None,
        tenant: Tenant = "default",
        max_reject_share: MaxRejectShare = 0.01,
        json: Json = False,
    ) -> None:
        """Train with the feedback, compare on the newest interactions, promote if better.

        Neither side was trained on the window: the challenger never, the champion where its own
        training ended before, which is said. The settings are the champion's, unless --config or
        --set say otherwise. Users who were cut out with `errata memory forget` teach nothing. What
        is promoted begins its error memory with the recent outcomes.

            errata retrain recommender --data data/ --if-drift --exit-zero
        """
        from errata.cli.data import read_dataset, read_feedback
        from feature_store.editions import RecommenderEdition
        from pipelines.progress import Terminal
        from pipelines.recommender.challenge import challenge
        from pipelines.recommender.config import RecommenderConfig
        from pipelines.recommender.feedback import with_feedback
        from pipelines.recommender.pipeline import run

        settings = Settings()
        alarm = alarm_of(RECOMMENDER, tenant, settings)
        if if_drift and is_calm(RECOMMENDER, alarm, json=json, exit_zero=exit_zero):
            return
        registry, directory, manifest = champion_of(RECOMMENDER, settings)
        changes = {"split.kind": "temporal", "split.test_share": window}
        changes |= parse_overrides(overrides)
        if config is None and manifest is not None:
            chosen = RecommenderConfig.model_validate(manifest.config).changed(**changes)
        else:
            chosen = RecommenderConfig.load(config, changes)
        dataset = read_dataset(
            data,
            format="auto",
            max_reject_share=max_reject_share,
            rejects_path=settings.home / "rejects",
            pseudonyms=settings.pseudonyms,
        )
        with redis_client(settings) as client:
            forgotten, _ = left_out(client, manifest, RECOMMENDER, tenant)
        feedback = read_feedback(settings)
        feedback = feedback.filter(
            [source_id(user) not in forgotten for user in feedback["user_id"].to_list()]
        )
        reporter = Terminal()
        reporter.say(f"{feedback.height:,} outcomes were collected")
        with ends_promptly("interrupted: nothing is published"):
            dataset = with_feedback(dataset, _known(feedback, dataset))
            done = run(
                dataset,
                chosen,
                registry=registry,
                runs_directory=settings.home / "runs",
                code_version=__version__,
                reporter=reporter,
            )
            champion = None
            if directory is not None and manifest is not None:
                champion = (RecommenderEdition.load(directory, device="cpu"), manifest)
            found = challenge(
                done, dataset, champion, metric=metric, margin=margin, rule=rule, seed=chosen.seed
            )

        def begin(client: redis.Redis) -> Rebased | None:
            from services.recommend.memory import VersionMemory

            version = done.manifest.version
            edition = RecommenderEdition.load(registry.open(RECOMMENDER, version)[0], device="cpu")
            memory = VersionMemory(
                client, model=RECOMMENDER, version=version, tenant=tenant, edition=edition
            )
            memory.close()
            return memory.rebased

        finish(RECOMMENDER, found, begin, registry, settings, tenant, alarm, json, exit_zero)

    @group.command("traffic")
    def retrain_traffic(
        data: Annotated[
            Path | None, typer.Option("--data", help="A folder of captures, as in `errata train`.")
        ] = None,
        metric: Annotated[str, typer.Option(help="macro_f1 or accuracy.")] = "macro_f1",
        margin: Margin = 0.0,
        rule: RuleName = "certain",
        fewer_classes: Annotated[
            bool,
            typer.Option(
                "--fewer-classes", help="Also where classes that the champion knows have no flows."
            ),
        ] = False,
        if_drift: IfDrift = False,
        exit_zero: ExitZero = False,
        config: ConfigFile = None,
        overrides: Overrides = None,
        tenant: Tenant = "default",
        json: Json = False,
    ) -> None:
        """Train on captures and on the flows that were labelled online, and promote if better.

        A labelled flow's packets are kept beside its label (the newest 20,000; not those of a
        source that was forgotten): without --data they alone are trained on, where they suffice.
        The last recordings of each class decide.

            errata retrain traffic --data captures/ --rule mean
        """
        from feature_store.editions.traffic import TrafficEdition
        from pipelines.distributed import ALONE
        from pipelines.progress import Terminal
        from pipelines.traffic.challenge import challenge
        from pipelines.traffic.config import TrafficConfig
        from pipelines.traffic.feedback import feedback_flows, joined
        from pipelines.traffic.pipeline import read, run_on

        settings = Settings()
        alarm = alarm_of(TRAFFIC, tenant, settings)
        if if_drift and is_calm(TRAFFIC, alarm, json=json, exit_zero=exit_zero):
            return
        registry, directory, manifest = champion_of(TRAFFIC, settings)
        changes = parse_overrides(overrides)
        if config is None and manifest is not None:
            chosen = TrafficConfig.model_validate(manifest.config).changed(**changes)
        else:
            chosen = TrafficConfig.load(config, changes)
        reporter = Terminal()
        events = labelled_online(TRAFFIC, manifest, tenant, settings)
        online = feedback_flows(events, packets=chosen.network.packets)
        reporter.say(f"{0 if online is None else len(online):,} flows were labelled online")
        with ends_promptly("interrupted: nothing is published"):
            if data is not None:
                flows = read(data, chosen, reporter=reporter)
                flows = flows if online is None else joined(flows, online)
            elif online is not None:
                flows = online
            else:
                raise ValueError("no flow was labelled online yet: give captures with --data")
            flows = flows.keeping_classes(chosen.labels.least_flows)
            champion = None
            if directory is not None and manifest is not None:
                champion = (TrafficEdition.load(directory), manifest)
                lost = [each for each in champion[0].classes if each not in flows.classes]
                if lost and not fewer_classes:
                    raise ValueError(
                        f"{manifest.version} knows {', '.join(lost)}, and there are no "
                        f"{chosen.labels.least_flows} labelled flows of each: give captures that "
                        "have them with --data, or say --fewer-classes"
                    )
            if len(flows.classes) < 2:
                raise ValueError(
                    f"{len(flows):,} labelled flows have fewer than two classes with "
                    f"{chosen.labels.least_flows} flows each: give captures with --data"
                )
            done = run_on(
                ALONE,
                flows,
                chosen,
                registry=registry,
                runs_directory=settings.home / "runs",
                code_version=__version__,
                reporter=reporter,
            )
            assert done is not None  # this process leads
            found = challenge(
                done, champion, metric=metric, margin=margin, rule=rule, seed=chosen.seed
            )

        def begin(client: redis.Redis) -> Rebased | None:
            from services.classify.memory import TrafficMemory
            from services.classify.stream import ServedEdition

            served = ServedEdition(done.edition, done.manifest.version)
            memory = TrafficMemory(client, served, tenant=tenant)
            memory.close()
            return memory.rebased

        finish(TRAFFIC, found, begin, registry, settings, tenant, alarm, json, exit_zero)


def _known(feedback: Any, dataset: Any) -> Any:
    """Outcomes with items that the tables have: an item that was added online has no row yet."""
    return feedback.filter(feedback["item_id"].is_in(dataset.items["item_id"].implode()))

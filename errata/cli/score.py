"""`errata score`: a version over many users, pairs or flows, into Parquet."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.table import Table

from errata import __version__
from errata.cli.interrupt import ends_promptly
from errata.cli.options import Json
from errata.cli.serve import redis_url
from errata.console import out, print_json
from errata.settings import Settings
from feature_store.registry.names import RECOMMENDER, TRAFFIC

if TYPE_CHECKING:
    from feature_store.registry import Registry
    from pipelines.scoring.inputs import InputFile
    from pipelines.scoring.job import Engine, Job, Summary
    from pipelines.scoring.memory import MemorySource

MAX_K = 10_000

Out = Annotated[str, typer.Option("--out", help="Folder for the Parquet parts: a path or a URL.")]
Reference = Annotated[
    str, typer.Option("--version", help="A version, or an alias such as champion.")
]
Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Begin anew, whatever the folder holds of a job.")
]
EngineName = Annotated[
    Literal["process", "ray"],
    typer.Option(
        help="Where units are scored: in this process, or on a Ray cluster (extra `ray`)."
    ),
]
RayAddress = Annotated[
    str, typer.Option(help="With --engine ray: local; auto or HOST:PORT on a node of a cluster.")
]
WithMemory = Annotated[
    bool,
    typer.Option(
        "--with-memory",
        help="Correct as the service does, by the version's error memory in Redis as it is now.",
    ),
]


def register(app: typer.Typer) -> None:
    """Add the command group."""
    group = typer.Typer(
        help="Score many users, pairs or flows at once, into Parquet.", no_args_is_help=True
    )
    app.add_typer(group, name="score")

    @group.command("recommender")
    def score_recommender(
        out_url: Out,
        users: Annotated[
            list[str] | None,
            typer.Option(help="Parquet or CSV with user_id: the best k items of each user."),
        ] = None,
        pairs: Annotated[
            list[str] | None,
            typer.Option(help="Parquet or CSV with user_id and item_id: a score of each pair."),
        ] = None,
        k: Annotated[int, typer.Option(help="Items a user.", min=1, max=MAX_K)] = 100,
        data: Annotated[
            str | None,
            typer.Option(help="Take histories from these imported tables, not from Redis."),
        ] = None,
        item_types: Annotated[
            list[str] | None,
            typer.Option("--type", help="Only items of this type; may be given again."),
        ] = None,
        include_seen: Annotated[
            bool, typer.Option("--include-seen", help="Also items that the user knows.")
        ] = False,
        with_memory: WithMemory = False,
        reference: Reference = "champion",
        tenant: Annotated[str, typer.Option(help="Prefix of the keys in Redis.")] = "default",
        block_rows: Annotated[int, typer.Option(help="Rows a part.", min=1)] = 1_024,
        engine: EngineName = "process",
        ray_address: RayAddress = "local",
        overwrite: Overwrite = False,
        json: Json = False,
    ) -> None:
        """Write the best items of every user, or a score of each given pair.

        What a user did comes from the online store (`errata materialise` fills it), or from the
        tables of --data, which may be larger than memory. Inputs and --out are paths or URLs that
        fsspec knows (s3://, gs://, …); an input may be a folder or a pattern. A run that was
        killed goes on where it stopped when the same command is given again, with the version
        that it began with. Rows that cannot be read are in rejects.jsonl. With ERRATA_USER_KEY
        users are found by their pseudonyms, and written by the ids that the input gives them.

            errata score recommender --users users.parquet --data data/ --k 100 --out scores/
        """
        from pipelines.scoring.inputs import TABLE_SUFFIXES, absolute, find_files
        from pipelines.scoring.recommender import OnlineSource, RecommenderJob, TableSource

        if bool(users) == bool(pairs):
            raise ValueError("name either --users or --pairs")
        settings = Settings()
        with ExitStack() as stack:
            online = data is None or with_memory
            url = stack.enter_context(redis_url(settings)) if online else ""
            histories: OnlineSource | TableSource = (
                OnlineSource(url, tenant) if data is None else TableSource(*_tables(data))
            )
            job = RecommenderJob(
                registry=absolute(settings.registry),
                cache=_cache(settings).absolute(),
                reference=reference,
                version=_registry(settings).resolve(RECOMMENDER, reference),
                kind="users" if users else "pairs",
                inputs=find_files(users or pairs or [], suffixes=TABLE_SUFFIXES),
                histories=histories,
                code_version=__version__,
                k=k,
                item_types=tuple(item_types) if item_types else None,
                exclude_seen=not include_seen,
                block_rows=block_rows,
                memory=_memory(RECOMMENDER, url, tenant) if with_memory else None,
                pseudonyms=settings.pseudonyms,
            )
            _run(job, out_url, _engine(engine, ray_address), overwrite=overwrite, json=json)

    @group.command("traffic")
    def score_traffic(
        captures: Annotated[
            list[str],
            typer.Argument(
                help="pcap or pcapng, plain or gzipped; files, folders, patterns, URLs."
            ),
        ],
        out_url: Out,
        with_memory: WithMemory = False,
        reference: Reference = "champion",
        tenant: Annotated[str, typer.Option(help="Prefix of the keys in Redis.")] = "default",
        block_rows: Annotated[int, typer.Option(help="Flows a part.", min=1)] = 4_096,
        engine: EngineName = "process",
        ray_address: RayAddress = "local",
        overwrite: Overwrite = False,
        json: Json = False,
    ) -> None:
        """Write a row for every flow of captures: 5-tuple, times, totals and the verdict.

        Captures stream through a flow table of bounded size: they may be larger than memory, and
        lie where fsspec reaches (s3://, gs://, …). A run that was killed goes on where it stopped
        when the same command is given again, with the version that it began with. What is no
        capture, and what is damaged in one, is in rejects.jsonl.

            errata score traffic captures/ --out verdicts/
        """
        from pipelines.scoring.inputs import absolute, find_files
        from pipelines.scoring.traffic import CAPTURE_SUFFIXES, TrafficJob

        settings = Settings()
        with ExitStack() as stack:
            url = stack.enter_context(redis_url(settings)) if with_memory else ""
            job = TrafficJob(
                registry=absolute(settings.registry),
                cache=_cache(settings).absolute(),
                reference=reference,
                version=_registry(settings).resolve(TRAFFIC, reference),
                captures=find_files(captures, suffixes=CAPTURE_SUFFIXES),
                code_version=__version__,
                block_rows=block_rows,
                memory=_memory(TRAFFIC, url, tenant) if with_memory else None,
            )
            _run(job, out_url, _engine(engine, ray_address), overwrite=overwrite, json=json)


def _memory(model: str, url: str, tenant: str) -> MemorySource:
    from errata.cli.evaluate_memory import served_policy
    from pipelines.scoring.memory import MemorySource

    return MemorySource(url=url, policy=served_policy(model), tenant=tenant)


def _engine(name: str, ray_address: str) -> Engine:
    from pipelines.scoring.job import in_process
    from pipelines.scoring.ray_engine import RayEngine

    return RayEngine(address=ray_address) if name == "ray" else in_process


def _run(job: Job, out_url: str, engine: Engine, *, overwrite: bool, json: bool) -> None:
    from pipelines.progress import Terminal
    from pipelines.scoring.job import score
    from pipelines.scoring.output import Output

    with ends_promptly("interrupted: the same command goes on after the last part"):
        done = score(job, Output(out_url), engine=engine, overwrite=overwrite, reporter=Terminal())
    if json:
        print_json(done.to_json())
    else:
        _show(done)


def _show(done: Summary) -> None:
    table = Table("", done.out, show_header=True)
    for name, value in done.to_json().items():
        if name != "out" and value is not None:
            shown = f"{value:,}" if isinstance(value, int | float) else str(value)
            table.add_row(name.replace("_", " "), shown)
    out.print(table)


def _tables(data: str) -> list[InputFile]:
    """The interactions, and the users where there are any."""
    from pipelines.scoring.inputs import find_files

    found: list[InputFile] = []
    for name in ("interactions", "users"):
        try:
            found += find_files([f"{data.rstrip('/')}/{name}.parquet"], suffixes=())
        except FileNotFoundError:
            if name == "interactions":
                raise FileNotFoundError(
                    f"{data} holds no interactions.parquet: bring it into this form with "
                    f"`errata import {data} FOLDER`"
                ) from None
    return found


def _cache(settings: Settings) -> Path:
    return settings.home / "cache" / "registry"


def _registry(settings: Settings) -> Registry:
    from feature_store.registry import Registry

    return Registry(settings.registry, cache=_cache(settings))

"""Scores the units of a job on a Ray cluster, with the block function that runs in-process."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from pipelines.scoring.inputs import absolute
from pipelines.scoring.job import Job, Tick, score_unit
from pipelines.scoring.output import Output, UnitReport

LOCAL, CLIENT = "local", "ray://"


class RayMissingError(ValueError):
    """Ray is not installed."""


class RayEngine:
    """One actor a processor, each with the edition open; a unit goes to whichever is free.

    Every node must reach the registry, the input and the output under the same names: object
    stores, or a file system that they share. Actors write the parts: rows do not travel.

    Args:
        address: `local` starts Ray here; `auto` or `HOST:PORT` names the cluster that this machine
            is a node of.
        actors: how many; None takes one for each processor of the cluster.

    Raises:
        ValueError: Ray is not installed, or the address is one of Ray Client, which Ray Data does
            not go through.
    """

    def __init__(self, *, address: str = LOCAL, actors: int | None = None) -> None:
        if address.startswith(CLIENT):
            raise ValueError(
                f"Ray Data does not go through Ray Client ({address}): run the command on a node "
                "of the cluster, with `auto` or HOST:PORT"
            )
        self._ray = _import_ray()
        self._address = address
        self._actors = actors

    def __call__(
        self, job: Job, units: Sequence[int], *, version: str, output: Output, tick: Tick
    ) -> Iterator[UnitReport]:
        """See `Engine`.

        Raises:
            OSError: the cluster does not answer, or an actor failed; the job can go on later.
        """
        if not units:
            return
        ray = self._ray
        with self._connected():
            processors = int(ray.cluster_resources().get("CPU", 1))
            actors = min(len(units), self._actors or processors)
            rows = (
                ray.data.from_items(
                    [{"unit": unit} for unit in units], override_num_blocks=len(units)
                )
                .map(
                    _Actor,
                    fn_constructor_args=(job, version, absolute(output.url)),
                    compute=ray.data.ActorPoolStrategy(size=actors),
                    num_cpus=1,
                )
                .iter_rows()
            )
            try:
                for row in rows:
                    report = UnitReport.model_validate_json(row["report"])
                    tick(report.scored)
                    yield report
            except ray.exceptions.RayError as error:
                reason = str(error).strip().splitlines()[-1]
                raise OSError(f"an actor of the Ray cluster failed: {reason}") from error

    @contextmanager
    def _connected(self) -> Iterator[None]:
        ray = self._ray
        if ray.is_initialized():  # whoever connected also ends it
            yield
            return
        try:
            ray.init(
                address=self._address,
                logging_level=logging.ERROR,
                include_dashboard=False if self._address == LOCAL else None,
            )
        except (ConnectionError, ray.exceptions.RayError) as error:
            raise OSError(f"no Ray cluster answers at {self._address}: {error}") from error
        try:
            yield
        finally:
            ray.shutdown()


class _Actor:
    """Lives on a node: loads the edition once."""

    def __init__(self, job: Job, version: str, out_url: str) -> None:
        self._output = Output(out_url)
        self._scorer = job.open(version, self._output)

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        there = self._output.parts()
        report = score_unit(
            self._scorer, int(row["unit"]), self._output, there=there, tick=lambda _: None
        )
        return {"report": report.model_dump_json()}


def _import_ray() -> Any:
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise RayMissingError(
            "--engine ray needs Ray, which is not installed: pip install 'errata[ray]'"
        ) from error
    ray.data.DataContext.get_current().enable_progress_bars = False
    return ray

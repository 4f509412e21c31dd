"""What a serving process needs to know."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from feature_store.error_memory.outcomes import TTL_S
from feature_store.online.headroom import SHARE
from feature_store.pseudonyms import Pseudonyms
from feature_store.registry.names import RECOMMENDER

DEFAULT_CATALOGUE = "default"
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")]


class _Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Where(_Settings):
    """A set of items: those of one of these types that have, in each named column, one of the
    values. At least one of the two is given."""

    item_types: tuple[str, ...] = ()
    columns: dict[str, tuple[str, ...]] = {}

    @model_validator(mode="after")
    def _says_something(self) -> Where:
        if not self.item_types and not self.columns:
            raise ValueError("name item_types or columns")
        return self


class Boost(_Settings):
    """Items whose score is moved by `add`, in units of the score (a unit is e-fold odds)."""

    where: Where
    add: float = Field(allow_inf_nan=False)


class Rules(_Settings):
    """What the business wants of every list, whatever the model thinks.

    Attributes:
        block: items that are never returned.
        boost: items that are moved up or down.
        type_caps: at most so many items of a type in a list, while there is anything else.
        diversity: 0 ranks by score alone; towards 1 an item that is like those above it falls
            (maximal marginal relevance, Carbonell and Goldstein 1998).
    """

    block: tuple[Where, ...] = ()
    boost: tuple[Boost, ...] = ()
    type_caps: dict[str, Annotated[int, Field(ge=0)]] = {}
    diversity: float = Field(0.0, ge=0, lt=1)


class CatalogueSettings(_Settings):
    """One tenant's catalogue: which model serves it, and by which rules.

    Attributes:
        model: name in the registry.
        alias: which version serves.
        challenger: alias of a version that serves `challenger_share` of the users.
        challenger_share: of the users who are named; the same user always meets the same side.
        tenant: prefix of the keys in Redis.
        rules: business rules.
        exposure_window_s: what was shown beside something that was taken counts as left after it.
        unanswered_is_left: whether an answer of which nothing was taken counts as left too; by
            default it says nothing, for nobody may have seen it.
    """

    model: str = RECOMMENDER
    alias: str = "champion"
    challenger: str | None = None
    challenger_share: float = Field(0.0, ge=0, le=1)
    tenant: str = "default"
    rules: Rules = Rules()
    exposure_window_s: float = Field(1_800.0, gt=0, le=86_400)
    unanswered_is_left: bool = False

    @model_validator(mode="after")
    def _share_needs_a_challenger(self) -> CatalogueSettings:
        if self.challenger_share > 0 and self.challenger is None:
            raise ValueError("challenger_share without a challenger alias")
        return self


class Limits(_Settings):
    """What keeps a burst from becoming a collapse.

    Attributes:
        deadline_ms: a request that cannot be answered within it is refused with a 503.
        max_queue: requests that wait; more are refused at once.
        max_batch: requests that are computed together; only those that wait already, none waits
            for company.
        max_body_bytes: larger bodies are refused with a 413.
        redis_ms: what Redis has not answered within it is answered without, or refused where it
            cannot be: a far or a slow Redis wants more.
        redis_share: while more of Redis's `maxmemory` is used no predictions are kept, so that
            feedback still can be.
        prediction_ttl_s: how long an answer waits for its outcome. Their number fills Redis: see
            docs/scaling.md.
        drain_s: how long a stopping process finishes what it took.
    """

    deadline_ms: float = Field(1_000.0, gt=0)
    max_queue: int = Field(512, ge=1)
    max_batch: int = Field(16, ge=1, le=1_024)
    max_body_bytes: int = Field(2_000_000, ge=1_000)
    redis_ms: float = Field(250.0, gt=0)
    redis_share: float = Field(SHARE, gt=0, le=1)
    prediction_ttl_s: int = Field(TTL_S, ge=1)
    drain_s: float = Field(10.0, gt=0)


class ServeSettings(_Settings):
    """Passed to `create_app`; nothing below reads the environment.

    Attributes:
        registry: root of the registry.
        redis_url: a running server.
        offline: directory of the feedback log and of the spool.
        model, alias, tenant: of the catalogue `default`, where `catalogues` does not name it.
        catalogues: further catalogues by the name that requests use.
        device: where the index lives.
        refresh_s: how often the aliases and Redis are looked at.
        limits: see `Limits`.
        api_keys: file of the keys that requests must show one of; None asks for none.
        admin_port: the one port that answers what needs the scope `admin`: promotion, rollback,
            forgetting, changes of the catalogue, metrics; None: every port does.
        pseudonyms: what users are named by, wherever they are kept; None: by their ids.
        code_version: shown in the OpenAPI document.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True)

    registry: str
    redis_url: str
    offline: Path
    model: str = RECOMMENDER
    alias: str = "champion"
    tenant: str = "default"
    catalogues: dict[Name, CatalogueSettings] = {}
    device: Literal["auto", "cpu", "cuda"] = "auto"
    refresh_s: float = Field(1.0, gt=0)
    limits: Limits = Limits()
    api_keys: Path | None = None
    admin_port: int | None = Field(None, ge=1, le=65_535)
    pseudonyms: Pseudonyms | None = None
    code_version: str = "unknown"

    @model_validator(mode="after")
    def _predictions_outlive_the_windows(self) -> ServeSettings:
        wait_s = self.limits.prediction_ttl_s
        for name, each in self.every_catalogue().items():
            if each.exposure_window_s >= wait_s:
                raise ValueError(
                    f"exposure_window_s of the catalogue '{name}' is {each.exposure_window_s:g}, "
                    f"and predictions are kept for limits.prediction_ttl_s = {wait_s}: what was "
                    "left could never be counted"
                )
        return self

    @property
    def names_default(self) -> bool:
        """Whether anybody said what the catalogue `default` is."""
        return DEFAULT_CATALOGUE in self.catalogues or "model" in self.model_fields_set

    def every_catalogue(self) -> dict[str, CatalogueSettings]:
        """All catalogues, `default` included."""
        default = CatalogueSettings(model=self.model, alias=self.alias, tenant=self.tenant)
        return {DEFAULT_CATALOGUE: default} | self.catalogues

"""What can be asked of the endpoint and what it answers."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from pydantic_core import to_json

MAX_K = 500
MAX_HISTORY = 1_000
MAX_EXCLUDED = 10_000
MAX_FEATURE_BYTES = 8_192  # they are kept with every answer until its outcome is known
EARLIEST = datetime(1970, 1, 1, tzinfo=UTC)
MAX_CLOCK_SKEW = timedelta(days=1)

ItemId = Annotated[str, Field(min_length=1, max_length=256)]
UserId = Annotated[str, Field(min_length=1, max_length=256)]


def _plausible(when: datetime) -> datetime:
    when = when if when.tzinfo else when.replace(tzinfo=UTC)
    if not EARLIEST <= when <= datetime.now(UTC) + MAX_CLOCK_SKEW:
        raise ValueError("must lie between 1970 and a day from now")
    return when


def _short(features: dict[str, Any]) -> dict[str, Any]:
    if len(to_json(features)) > MAX_FEATURE_BYTES:
        raise ValueError(f"must hold at most {MAX_FEATURE_BYTES} bytes of JSON")
    return features


Features = Annotated[dict[str, Any], AfterValidator(_short)]


class _Schema(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class RecommendationRequest(_Schema):
    """Recommendations for a user by id, for an anonymous history, or for both together."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        json_schema_extra={
            "examples": [
                {"user_id": "196", "k": 10},
                {"history": ["50", "181", "172"], "k": 5, "explain": True},
            ]
        },
    )

    user_id: UserId | None = Field(None, description="Whose stored history to use.")
    history: list[ItemId] = Field(
        default_factory=list,
        max_length=MAX_HISTORY,
        description="Items in the order of consumption, oldest first; newer than what is stored.",
    )
    features: Features | None = Field(
        None, description="Features of the user, in place of the stored ones.", max_length=64
    )
    k: int = Field(10, ge=1, le=MAX_K, description="How many items to return.")
    item_types: list[str] | None = Field(
        None, min_length=1, max_length=64, description="Only items of these types."
    )
    where: dict[str, Annotated[list[str], Field(min_length=1, max_length=64)]] | None = Field(
        None,
        max_length=16,
        description="Only items that have one of the values in each named categorical column.",
        examples=[{"genre": ["war", "sea"]}],
    )
    exclude: list[ItemId] = Field(
        default_factory=list, max_length=MAX_EXCLUDED, description="Items never to return."
    )
    exclude_seen: bool = Field(True, description="Leave out what is in the history.")
    explain: bool = Field(False, description="Say which history items brought each result.")


class Reason(_Schema):
    """An item of the history and its share in the result's score."""

    item_id: str
    title: str | None
    contribution: float = Field(description="Part of the cosine that this item brings.")


class Correction(_Schema):
    """What a stage after the model added to the score."""

    by: str
    added: float
    errors: int | None = Field(None, description="How many remembered errors are near this one.")


class RecommendedItem(_Schema):
    """One result."""

    item_id: str
    item_type: str
    title: str | None
    score: float = Field(description="Higher is better; comparable within one answer.")
    reasons: list[Reason] | None = None
    corrections: list[Correction] | None = None


class _Answer(_Schema):
    prediction_id: str = Field(description="Send it back with the feedback.")
    model_version: str
    degraded: bool = Field(description="Whether a dependency was missing for this answer.")
    degraded_reasons: list[str]


class RecommendationResponse(_Answer):
    """Results, best first."""

    personalised: bool = Field(description="False when nothing at all was known of the user.")
    unknown_history: list[str] = Field(description="History items that the model does not know.")
    items: list[RecommendedItem]


class SimilarResponse(_Answer):
    """Nearest items, best first."""

    item_id: str
    items: list[RecommendedItem]


class FeedbackRequest(_Schema):
    """What a user did with an item."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        json_schema_extra={
            "examples": [{"user_id": "196", "item_id": "50", "type": "click", "feedback_id": "f-1"}]
        },
    )

    user_id: UserId
    item_id: ItemId
    type: str = Field("click", min_length=1, max_length=64, examples=["click", "dismiss"])
    weight: float = Field(1.0, gt=0, le=1e6, allow_inf_nan=False)
    timestamp: Annotated[datetime, AfterValidator(_plausible)] | None = Field(
        None, description="When it happened (UTC where it says nothing); now if left out."
    )
    prediction_id: str | None = Field(None, max_length=64, description="The answer acted upon.")
    feedback_id: str | None = Field(
        None, min_length=1, max_length=256, description="Sent twice, it counts once."
    )


class FeedbackResponse(_Schema):
    """What became of the feedback."""

    status: Literal["applied", "duplicate", "stored"] = Field(
        description="`applied`: the user's next answer knows of it. `duplicate`: this feedback_id "
        "was seen before. `stored`: kept on disk; it will count once Redis is back."
    )
    known_item: bool
    known_prediction: bool | None = Field(description="None when no prediction_id was sent.")
    degraded: bool


class ItemRequest(_Schema):
    """An item that the served version was not trained on."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        json_schema_extra={
            "examples": [{"item_type": "film", "title": "A new one", "like": ["50", "181"]}]
        },
    )

    item_type: str = Field(min_length=1, max_length=256)
    title: str | None = Field(None, max_length=1_000)
    like: list[ItemId] = Field(
        default_factory=list,
        max_length=100,
        description="Items that it is like: it is placed among them, and a click on it speaks as "
        "a click on them would.",
    )
    vector: list[Annotated[float, Field(allow_inf_nan=False, ge=-1e3, le=1e3)]] | None = Field(
        None, max_length=8_192, description="Its own item vector, where one was computed."
    )
    columns: dict[str, list[str]] = Field(
        default_factory=dict, max_length=64, description="Its values in the categorical columns."
    )


class ItemChange(_Schema):
    """Every worker knows of the change when it next looks, within a second by default."""

    item_id: str
    status: Literal["added", "withdrawn"]
    revision: int = Field(description="Counts the changes of the catalogue.")


class ModelInfo(_Schema):
    """One version in the registry."""

    version: str
    created_at: datetime
    aliases: list[str]
    serving: bool
    metrics: dict[str, Any]


class Models(_Schema):
    """The registry's versions of the served model, newest last."""

    model: str
    versions: list[ModelInfo]

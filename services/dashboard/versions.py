"""Every model's versions, and the card that a version was published with."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

from fastapi import FastAPI, HTTPException, Path
from fastapi.responses import PlainTextResponse
from pydantic import BaseModel

from feature_store.registry import Registry, RegistryError, UnknownVersionError

CARD = "model_card.md"
Model = Annotated[str, Path(pattern=r"^[a-z][a-z0-9_-]*$", max_length=64, examples=["traffic"])]
Reference = Annotated[
    str, Path(pattern=r"^[A-Za-z0-9._-]+$", max_length=128, examples=["champion"])
]


class Version(BaseModel):
    """One published version."""

    version: str
    created_at: datetime
    code_version: str
    aliases: list[str]
    metrics: dict[str, Any]
    size_bytes: int
    has_card: bool


class Versions(BaseModel):
    """A model's versions, newest last."""

    model: str
    versions: list[Version]


def add_routes(app: FastAPI, registry: Registry) -> None:
    """Add the routes."""

    @app.get("/v1/models/{model}", tags=["operate"])
    def versions(model: Model) -> Versions:
        """The registry's versions of any model; none of one that was never published."""
        aliases = registry.aliases(model)
        return Versions(
            model=model,
            versions=[
                Version(
                    version=each.version,
                    created_at=each.created_at,
                    code_version=each.code_version,
                    aliases=[name for name, named in aliases.items() if named == each.version],
                    metrics=each.metrics,
                    size_bytes=sum(file.bytes for file in each.files.values()),
                    has_card=CARD in each.files,
                )
                for each in registry.versions(model)
            ],
        )

    @app.get("/v1/models/{model}/{reference}/card", tags=["operate"], responses={404: {}})
    def card(model: Model, reference: Reference) -> PlainTextResponse:
        """How a version was measured and what was found, in Markdown."""
        try:
            directory, manifest = registry.open(model, reference)
        except UnknownVersionError as error:
            raise HTTPException(404, str(error)) from error
        except RegistryError as error:
            raise HTTPException(503, str(error)) from error
        if CARD not in manifest.files:
            raise HTTPException(404, f"{model} {manifest.version} has no model card")
        return PlainTextResponse((directory / CARD).read_text(), media_type="text/markdown")

"""The endpoint that HTTP and FastAPI alone allow: it reads the same body and returns ready bytes.

python -m benchmarks.serving.bare_fastapi --port PORT --answer FILE
"""

from __future__ import annotations

import argparse
from pathlib import Path

import uvicorn
from fastapi import FastAPI, Response

from services.recommend.schemas import RecommendationRequest


def main() -> None:
    """Serve the bytes of `--answer`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--answer", type=Path, required=True)
    arguments = parser.parse_args()
    answer: bytes = arguments.answer.read_bytes()
    app = FastAPI()

    @app.post("/v1/recommendations")
    async def recommendations(request: RecommendationRequest) -> Response:
        del request  # read and validated, as ours is
        return Response(answer, media_type="application/json")

    uvicorn.run(app, port=arguments.port, log_level="warning", access_log=False)


if __name__ == "__main__":
    main()

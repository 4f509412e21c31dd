"""What a recommendation's score is made of."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from feature_store.editions.popularity_share import PopularityShare


class Scoring(BaseModel):
    """s(u, i) = u·z_i / temperature + bias_i + Σ_j w_j W_ji: the bias is what popularity is worth.

    u and z_i are the towers' unit vectors, each with a closed-form tail where there is one:
    the user's is Σ_j w_j q_j / (Σ_j w_j)^length_power over the history. W are the neighbour lists
    (`neighbour_lists.py`) of an edition that has some. Of whom little is known,
    the score leans on plain popularity (`popularity_share.py`).

    Attributes:
        temperature: of the softmax that the towers were trained with.
        length_power: of the tail.
        candidates: how many nearest vectors are fetched before the bias and the lists re-rank them.
        tuned_k: the length of the list that `candidates` was measured to be enough for; longer
            lists fetch more in proportion. None where nothing was measured.
        popularity_share: how far short histories lean on popularity.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    temperature: float = Field(gt=0)
    length_power: float = Field(0.0, ge=0, le=1)
    candidates: int = Field(1_000, ge=1)
    tuned_k: int | None = Field(None, ge=1)
    popularity_share: PopularityShare = PopularityShare()

    def fetched(self, k: int) -> int:
        """How many nearest vectors to fetch for a list of `k`."""
        if self.tuned_k is None:
            return max(self.candidates, 4 * k)
        return max(self.candidates, -(-self.candidates * k // self.tuned_k))

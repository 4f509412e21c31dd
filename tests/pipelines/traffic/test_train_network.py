import numpy as np
import pytest
import torch

from pipelines.progress import Silent
from pipelines.traffic.config import TrafficConfig
from pipelines.traffic.dataset import LabelledFlows, LabelledPart
from pipelines.traffic.train_network import fine_tune, new_network, pretrain


@pytest.mark.parametrize("frozen", [True, False])
def test_a_frozen_encoder_stays_as_pretraining_left_it(
    labelled: LabelledFlows, small: TrafficConfig, frozen: bool
) -> None:
    config = small.changed(
        **{"network.frozen": frozen, "network.epochs": 2, "pretraining.epochs": 1}
    )
    part = LabelledPart(labelled.flows, labelled.label.astype(np.int64), labelled.capture)
    network = new_network(config, len(labelled.classes), seed=0)
    given = {"seed": 0, "device": "cpu", "checkpoint": None, "reporter": Silent()}
    pretrain(network, part.flows, config, **given)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    fine_tune(network, part, part[:0], config, **given)
    for name, value in network.state_dict().items():
        assert torch.equal(value, before[name]) == (frozen and not name.startswith("head")), name

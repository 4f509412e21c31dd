"""Whole captures under atheris: no bytes may raise anything but `NotACaptureError`.

    pip install '.[fuzz]'
    NUMBA_BOUNDSCHECK=1 python tests/feature_store/traffic/fuzz_capture.py -max_total_time=600 \
        NEW CAPTURES

CAPTURES has small captures to begin from; what reaches new code is added to the folder NEW. Atheris
cannot see into compiled code: the slow decoder, which must give the same, leads it.
"""

import inspect
import io
import sys

import atheris
import numpy as np

from feature_store.traffic.capture import NotACaptureError, PacketBatch, open_capture
from feature_store.traffic.features import Tier, feature_table
from feature_store.traffic.flows import FlowBatch, FlowSettings
from feature_store.traffic.meter import FlowMeter, read_flows
from feature_store.traffic.packets import PacketDecoder
from feature_store.traffic.packets.reference import (
    Packet,
    decode_for_flows_reference,
    decode_reference,
)
from feature_store.traffic.packets.reference_layer import Layer

SETTINGS = FlowSettings(max_flows=8)


def read(file: bytes) -> None:
    try:
        capture = open_capture(io.BytesIO(file), chunk_bytes=256)
    except NotACaptureError:
        return
    batches: list[PacketBatch] = list(capture)
    for batch in batches:
        assert np.array_equal(PacketDecoder().decode(batch), decode_reference(batch))
        _, packets = PacketDecoder(fragments=4).decode_for_flows(batch)
        assert np.array_equal(packets, decode_for_flows_reference(batch, fragments=4)[1])
    meter = FlowMeter(SETTINGS)
    flows = FlowBatch.concatenate([FlowBatch.empty(20), *read_flows(batches, meter)])
    feature_table(flows, Tier.T2)
    assert flows.flow["packets"].sum() == meter.outcomes[1]


if __name__ == "__main__":
    for kind in (Layer, Packet):
        for name, member in list(vars(kind).items()):
            if inspect.isfunction(member):
                setattr(kind, name, atheris.instrument_func(member))
    atheris.Setup(sys.argv, read)
    atheris.Fuzz()

"""IoT Sentinel: which device is it? Later set-up captures, ours beside every baseline.

    python -m benchmarks.traffic_iot [--data DIR] [--seeds N] [--quick] [--arms ARM …]

DIR holds a folder of captures per device, with the device's address in a *mac*.txt; flows of other
hosts have no label. Devices with fewer than 80 flows are left out, or with fewer than 10 where less
than two would stay. Figures are at tier T1 on captures that come after the training ones;
`capture_vote` is the accuracy of one verdict per capture.
"""

from __future__ import annotations

from benchmarks import traffic_protocol

# A round of boosting is a tree per device, and flows are long here: fewer, larger steps.
SETTINGS = {
    "labels.least_flows": 80,
    "tree.rounds": 80,
    "tree.learning_rate": 0.1,
    "network.epochs": 6,
    "pretraining.epochs": 3,
}


def main() -> None:
    """Run the benchmark."""
    traffic_protocol.run(
        "traffic_iot",
        __doc__,
        data="traffic/iot_sentinel",
        settings=SETTINGS,
    )


if __name__ == "__main__":
    main()

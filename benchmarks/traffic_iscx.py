"""ISCX VPN-nonVPN 2016, 12 classes, split by recording and time: ours beside every baseline.

    python -m benchmarks.traffic_iscx [--data DIR] [--seeds N] [--quick] [--arms ARM …]

DIR holds captures named after their class (Chat_lt1.pcap, VPN_Chat_lt101.pcap …) or a folder per
class. Figures are at tier T1 on test recordings that come after the training ones: no address,
port, sequence number or host name is seen. `parts` are our network and our tree alone; `tiers` has
macro F1 at T0 and T1.
"""

from __future__ import annotations

from benchmarks import traffic_protocol


def main() -> None:
    """Run the benchmark."""
    traffic_protocol.run("traffic_iscx", __doc__, data="traffic/iscx_vpn2016", settings={})


if __name__ == "__main__":
    main()

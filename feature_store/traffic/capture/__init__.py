"""Where packets come from: files, streams and live interfaces, as batches of arrays.

Enter through `open_capture` (pcap, pcapng, gzip of both, followed files, pipes) or
`open_interface` (Linux). `packet_batch` is what both give; `damage` is what they count.
"""

from feature_store.traffic.capture.capture import Capture, NotACaptureError, open_capture
from feature_store.traffic.capture.damage import Damage
from feature_store.traffic.capture.interface import (
    InterfaceCapture,
    InterfaceUnavailableError,
    open_interface,
)
from feature_store.traffic.capture.packet_batch import PacketBatch

__all__ = [
    "Capture",
    "Damage",
    "InterfaceCapture",
    "InterfaceUnavailableError",
    "NotACaptureError",
    "PacketBatch",
    "open_capture",
    "open_interface",
]

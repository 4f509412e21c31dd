"""What a packet is: its layers, its flow's key, or the reason why it has none.

Enter through `decoder.PacketDecoder`; `packet.PACKET` is what it gives, `outcome.Outcome` the
reasons. `reference` is the slow twin that tests compare it with.
"""

from feature_store.traffic.packets.decoder import PacketDecoder
from feature_store.traffic.packets.outcome import Outcome
from feature_store.traffic.packets.packet import PACKET, address_text

__all__ = ["PACKET", "Outcome", "PacketDecoder", "address_text"]

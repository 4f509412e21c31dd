"""What can be wrong with a capture without stopping the reading of it."""

from enum import StrEnum


class Damage(StrEnum):
    """A reason why part of a capture was lost. Counted on `Capture.damage`."""

    CUT_SHORT = "cut_short"  # the file ends inside a record
    BAD_RECORD = "bad_record"  # a record header that cannot be true: nothing after it is read
    BAD_BLOCK = "bad_block"  # a pcapng block whose contents contradict its length: skipped
    BAD_TIMESTAMP = "bad_timestamp"  # outside 1970 to 2116: the packet before lends its own
    GZIP_CORRUPT = "gzip_corrupt"  # the compressed stream breaks off or fails its checksum
    KERNEL_DROPPED = "kernel_dropped"  # the live ring was full

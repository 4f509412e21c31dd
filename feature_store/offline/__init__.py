"""What happened online, kept on disk for the next training.

`feedback_log.py` is an append-only log of feedback, partitioned by day; `spool.py` holds feedback
that could not reach Redis yet.
"""

from feature_store.offline.feedback_log import FeedbackLog, FeedbackRecord
from feature_store.offline.spool import Spool

__all__ = ["FeedbackLog", "FeedbackRecord", "Spool"]

"""Who may ask what, how often; and which request a log line belongs to.

`keys.py` is the file of hashed keys, read again when it changes; `limits.py` the rate of each key;
`middleware.py` holds both before the routes of whatever application it is put around;
`request_id.py` names requests, `tracing.py` makes a span of each. Knows nothing of what the routes
do.
"""

from services.access.keys import (
    ApiKey,
    InvalidKeyFileError,
    KeyFile,
    Scope,
    issue,
    read_keys,
    write_keys,
)
from services.access.middleware import Access
from services.access.request_id import JsonFormatter, RequestId
from services.access.tracing import Traced

__all__ = [
    "Access",
    "ApiKey",
    "InvalidKeyFileError",
    "JsonFormatter",
    "KeyFile",
    "RequestId",
    "Scope",
    "Traced",
    "issue",
    "read_keys",
    "write_keys",
]

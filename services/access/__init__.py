"""Who may ask what, how often; and which request a log line belongs to.

`keys.py` is the file of hashed keys, read again when it changes; `limits.py` the rate of each key;
`middleware.py` holds both before the routes of whatever application it is put around;
`admin_port.py` keeps what needs `admin` to a port of its own; `request_id.py` names requests,
`tracing.py` makes a span of each. Knows nothing of what the routes do.
"""

from services.access.admin_port import AdminPort
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
    "AdminPort",
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

"""Names of users that only who holds a key can make of their ids."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import polars as pl

SECRET_CHARACTERS = 32
# Of a pseudonym, with the id of its key as the one group.
SHAPE = r"~([0-9a-f]{8})\.[0-9a-f]{32}"
# Who names users: the store that serving and loading share, of a tenant.
ONLINE = "Redis (tenant {}) names"
_SHAPE = re.compile(SHAPE)


class Pseudonyms:
    """Keyed BLAKE2b (RFC 7693) of a user's id, 128 bits of it.

    A pseudonym is `~KEY.NAME`: eight hexadecimal digits that tell keys apart, and of which the key
    cannot be found, and 32 of the hash. What this key has made is left as it is, so that tables
    may be read again and a listed user be asked for; what another key has made is an id like any
    other.

    Example:
        >>> named = Pseudonyms(b"0123456789abcdef0123456789abcdef")
        >>> named("ann@example.com") == named(named("ann@example.com"))
        True
    """

    def __init__(self, secret: bytes) -> None:
        """`secret`: at least 32 characters that nobody can guess.

        Raises:
            ValueError: it is shorter.
        """
        secret = secret.strip()
        if len(secret) < SECRET_CHARACTERS:
            raise ValueError(
                f"a key for user ids has at least {SECRET_CHARACTERS} characters, not "
                f"{len(secret)}: make one with `errata users key FILE`"
            )
        self._secret = secret
        # Of any length to the 64 bytes that BLAKE2b takes.
        key = hashlib.blake2b(secret, person=b"errata-key").digest()
        self.key_id = hashlib.blake2b(key=key, digest_size=4, person=b"errata-key-id").hexdigest()
        self._prefix = f"~{self.key_id}."
        self._keyed = hashlib.blake2b(key=key, digest_size=16, person=b"errata-user")

    @classmethod
    def read(cls, path: Path) -> Pseudonyms:
        """With the secret that a file holds; white space around it does not count.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: it holds no key.
        """
        try:
            return cls(path.read_bytes())
        except FileNotFoundError as error:
            raise FileNotFoundError(
                f"{path} holds no key for user ids: make one with `errata users key {path}`"
            ) from error
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error

    def __reduce__(self) -> tuple[type[Pseudonyms], tuple[bytes]]:
        return Pseudonyms, (self._secret,)  # to a process of one's own: the hash cannot be sent

    def __repr__(self) -> str:
        return f"Pseudonyms(key {self.key_id})"

    def __call__(self, user_id: str) -> str:
        """The pseudonym of an id, or of a pseudonym of this key itself."""
        if user_id.startswith(self._prefix) and _SHAPE.fullmatch(user_id):
            return user_id
        keyed = self._keyed.copy()
        keyed.update(user_id.encode("utf-8", "surrogatepass"))
        return self._prefix + keyed.hexdigest()

    def column(self, ids: pl.Series) -> pl.Series:
        """Of every id in a column.

        Raises:
            ValueError: some are pseudonyms of another key: of an id that was hashed nobody can
                make the one that this key makes.
        """
        import polars as pl

        distinct = ids.drop_nulls().unique()
        if others := keys_of(distinct) - {self.key_id, None}:
            raise ValueError(
                f"users are named by the key {', '.join(sorted(map(str, others)))}, and the key "
                f"now is {self.key_id}: name that key's file in ERRATA_USER_KEY, or import the "
                "source again"
            )
        named = pl.Series(map(self, distinct), dtype=pl.String)
        return ids.replace_strict(distinct, named, return_dtype=pl.String)


def key_of(ids: pl.Series) -> str | None:
    """Which key made the pseudonyms in a column; None where they are not all of one key."""
    keys = keys_of(ids)
    return keys.pop() if len(keys) == 1 else None


def keys_of(ids: pl.Series) -> set[str | None]:
    """The keys that made what is in a column; None among them where some is no pseudonym."""
    return set(ids.str.extract(f"^{SHAPE}$", 1).unique())


def differs(others: str | None, own: str | None, *, whose: str) -> str | None:
    """Why users whom one part knows are strangers to another; None where they are not.

    Args:
        others: the key that named them there. own: the key that names them here.
        whose: what named them there, with its verb.
    """
    if others == own:
        return None
    before = "as they were sent" if others is None else f"by the key {others}"
    now = "as they are sent" if own is None else f"by the key {own}"
    return (
        f"{whose} users {before}, and here they are named {now}: whom the one knows is a "
        "stranger to the other. Use the same ERRATA_USER_KEY, or import, train, and materialise "
        "under another tenant"
    )

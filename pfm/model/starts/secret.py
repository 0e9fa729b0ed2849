"""Each class starts from a key of its own, N(0, 1): who holds the key can draw the start again, and nobody else can."""

from pfm.model.starts.base import KeySource
from pfm.model.starts.keyed import KeyedStart
from pfm.model.starts.keys import fresh_keys, keys_from


class Secret(KeyedStart):
    """Keys from the system's source of randomness, or from the file that keeps them."""

    keeps_keys = True
    purpose = "secret start"
    follows = (
        "each prompt of this model started from a secret key of its class: whoever kept that key can draw the start "
        "again, and nobody else can"
    )

    def keys(self, source: KeySource) -> list[bytes]:
        return keys_from(source.file, source.names) if source.file else fresh_keys(source.names)


SECRET = Secret()

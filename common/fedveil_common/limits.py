"""Every limit of size and count on what arrives, named once. Bytes unless the name says otherwise."""

MAX_MESSAGE = 4 * 1024 * 1024
"""One gRPC message."""

MAX_BODY = 1024 * 1024
"""The body of one signed blob."""

MAX_PLAN = 256 * 1024
MAX_DOCUMENT = 1024 * 1024
"""A signed roster, a trust chain, a JSON document."""

MAX_STATUS = 3 * 1024 * 1024
"""A status list with the trust chain beside it."""

MAX_MEMBERS = 256
"""Members of a cohort."""

MAX_LENGTH = 2**28
"""Coordinates of a vector."""

MAX_LEAVES = 2**14
MAX_WIDTH = 255
"""Ciphertexts under one header."""

MAX_HOLDERS = 12
MAX_NUMBER = 4096
"""Bytes of a number in a signed body: mod n^(s+1) at 8192 bits and s = 3."""

MAX_KEY_RECORD = 3 * 1024 * 1024
NUMBERS_PER_FRAME = 64

MAX_LEAF = 1024 * 1024
"""One leaf of blocks; so that one fits a gRPC message with room to spare."""

LEAVES_PER_FRAME = 16
PARTS_PER_FRAME = 64
LEAVES_PER_AUDIT = 256
"""Leaves that one call may ask for of every input of a round."""

MAX_ATTEMPTS = 2**16
MAX_EARLIER_ATTEMPTS = 1024
MAX_ROUND = 2**32 - 1
MAX_TEXT = 64
"""Characters of a closed code, an id or a version text."""

SHARE_CIPHERTEXT = 1 + 2 + 33 + 33 + 32 + 16
"""M3: version, x, two shares, kappa, GCM tag."""

"""Writes tests/vectors/*.json: `python -m tests.reference.generate [DIRECTORY]`, run from the top of the repository.

The bytes depend on nothing but this folder; a test regenerates them and compares with what is committed.
"""

import json
import pathlib
import sys
from collections.abc import Callable

from tests.reference import cases_crypto, cases_jose, cases_masking, cases_paillier, packing, published, strategies

Cases = Callable[[], list[dict[str, object]]]

FILES: dict[str, dict[str, Cases]] = {
    "published": {
        "x25519": published.x25519,
        "ed25519": published.ed25519,
        "hkdf": published.hkdf,
        "aes_ctr": published.aes_ctr,
        "flsa1": cases_masking.section_6,
    },
    "crypto": {
        "agreement": cases_crypto.agreement,
        "signing": cases_crypto.signing,
        "prg": cases_crypto.prg,
        "shamir": cases_crypto.shamir,
    },
    "transcript": {
        "transcript": cases_masking.transcript,
        "leaves": cases_masking.leaves,
        "model": cases_masking.model,
    },
    "shares": {"shares": cases_masking.shares},
    "packing": {"packing": packing.cases},
    "strategies": {"strategies": strategies.cases},
    "masking": {
        "masking": cases_masking.masking,
        "recovery": cases_masking.recovery,
        "fixedpoint": cases_masking.fixedpoint,
        "quorum": cases_masking.quorum,
    },
    "checksum": {"checksum": cases_masking.checksums},
    "jose": {"keys": cases_jose.keys, "jws": cases_jose.jws_cases, "jwe": cases_jose.jwe_cases},
    "paillier": {"attempts": cases_paillier.attempts, "refused": cases_paillier.refused},
}


def main(directory: pathlib.Path) -> None:
    """Writes one file per topic, sorted keys, so that equal cases give equal bytes."""
    for name, sections in FILES.items():
        content: dict[str, object] = {"written_by": "python -m tests.reference.generate"}
        content |= {section: cases() for section, cases in sections.items()}
        text = json.dumps(content, indent=1, sort_keys=True, allow_nan=False) + "\n"
        (directory / f"{name}.json").write_text(text, encoding="ascii", newline="\n")


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else pathlib.Path(__file__).parents[1] / "vectors")

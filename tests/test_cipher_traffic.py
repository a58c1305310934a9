"""The bytes that `plan explain` names for a plan under paillier are those that travel in a round of real machines."""

from dataclasses import replace

from encrypted_federation import encrypted_federation, encrypted_plan
from federation import FIVE, RUN, run
from fedveil_cli import cohort_figures
from fedveil_cli.cipher_traffic import traffic
from fedveil_common import plan as plans
from fedveil_common import wire
from fedveil_common.messages import BlobType
from fedveil_common.published import LeafKind
from paillier_holders import terms_of

HASH = 32


def test_the_bytes_are_those_of_a_round() -> None:
    canonical = encrypted_plan()
    cluster = encrypted_federation(FIVE, FIVE, 4, plan=canonical)
    assert run(cluster, canonical) == "finished"
    plan = plans.parse_canonical(canonical)
    assert cluster.book is not None
    found = traffic(plan, cohort_figures.figures(plan, len(FIVE), len(FIVE)), cluster.book.terms.terms)
    uploads = [(wire.parse_blob(header).type, len(data)) for _, header, data in cluster.uploads]
    hashes = HASH * found.blocks
    inputs = [size for kind, size in uploads if kind is BlobType.CIPHER_HEADER]
    answers = [size for kind, size in uploads if kind is BlobType.PARTIAL]
    assert set(inputs[: len(FIVE)]) == {found.input_up - hashes}
    assert set(answers[:4]) == {found.answer_up - hashes}
    published = sum(
        len(data) for kind in LeafKind for _, _, data in cluster.archive.leaves(RUN, 1, range(found.blocks), kind)
    )
    assert published == found.checks_down, "so few blocks are all looked at"
    opened = cluster.memory.open_sum(RUN, 1)
    assert sum(len(opened.packed(index)) for index in range(opened.leaves)) == found.sum_down


def test_under_a_key_of_one_column_every_ciphertext_has_its_header() -> None:
    """Counted here from docs/paillier.md: numbers of 256 bytes mod n and of 512 mod its square."""
    plan = plans.parse_canonical(encrypted_plan())
    figures, terms = cohort_figures.figures(plan, 11, 11), replace(terms_of(5, 4), width=1)
    found = traffic(plan, figures, terms)
    assert found.blocks == found.ciphertexts
    block = 256 + 2 * 512
    assert found.input_up == found.blocks * (block + HASH)
    assert found.headers_down == found.blocks * (11 * 256 + 512)
    assert found.checks_down == found.blocks * (block + 4 * 512) + found.blocks * 11 * block

"""`fedveil verify`: makes the sum of an opened round again from what the coordinator published, and compares.

Promise: nothing is called verified that does not follow from the federation's fingerprint by signatures and hashes, and
from the protected inputs by arithmetic done here: masks taken off, or ciphertexts multiplied and opened with the
holders' answers, each of them proved. A folder written with --export holds all that an auditor needs.
Source: FLSA/1 section 4.2 (docs/protocol.md); docs/paillier.md, section 6.
"""

import contextlib
import io
import pathlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import BinaryIO, Protocol, Self

import grpc
from fedveil_common import audit, cipher_audit, limits, published, published_cipher, transcript, wire
from fedveil_common.errors import ConfigError, PeerError, StorageError
from fedveil_common.gate import Outbox
from fedveil_common.ids import OrgId, RunId
from fedveil_common.masking.packing import size_bytes
from fedveil_common.messages import BlobType, Manifest, Result
from fedveil_common.named_file import open_named
from fedveil_common.pki.governance import verify_chain
from fedveil_common.published import LeafKind, PublishedRound
from fedveil_common.published_cipher import ProvenCipher
from fedveil_common.ringfile import leaf_count, leaf_length
from fedveil_common.secret import Passphrase, Seed
from fedveil_common.succession import roster_of_its_time
from fedveil_common.transcript import LEAF_COORDINATES
from fedveil_common.wire.published import from_file, to_file
from fedveil_coordinator import founding
from fedveil_participant import membership
from fedveil_participant.client import CoordinatorLink

from fedveil_cli import data_home, renewing
from fedveil_cli.files import MAX_MODEL, read_file, unreadable, write_file
from fedveil_cli.operator_line import OperatorLine
from fedveil_cli.output import Output
from fedveil_cli.service_commands import is_operator
from fedveil_cli.unrecorded import Unrecorded
from fedveil_cli.world import World

ROUND, CHAIN, SUM = "round.bin", "trust.json", "sum.bin"
FOLDERS = {LeafKind.INPUT: "inputs", LeafKind.PRODUCT: "product", LeafKind.PARTIAL: "answers"}
"""Where the leaves of each kind lie: one file for each organisation that has some."""


@dataclass(frozen=True, slots=True)
class Shown:
    """A published round, wherever it comes from: the trust chain that goes with it, its sum, leaves of every kind."""

    trust_chain: bytes
    record: PublishedRound
    sum_leaves: Sequence[bytes]
    leaves: cipher_audit.FetchBlocks


@dataclass(frozen=True, slots=True)
class Found:
    """What was established of a round. `checked` of `leaves`: of the sum, or under paillier of the product, made again
    from the inputs; `holders`: who opened it, under paillier.
    """

    manifest: Manifest
    survivors: tuple[OrgId, ...]
    checked: int
    leaves: int
    holders: tuple[OrgId, ...] = ()


def check(shown: Shown, fingerprint: bytes, count: int | None, seed: Seed) -> Found:
    """Verifies the round for whoever pinned `fingerprint`; `count` leaves drawn from `seed` are made again, or all.

    Raises PeerError: those of `verify_chain` and `roster_of_its_time`, `round_not_proved`, `sum_disputed`.
    """
    trust = verify_chain(shown.trust_chain, fingerprint)
    roster = roster_of_its_time(shown.record.signed_roster, trust)
    if published.protection_of(shown.record) == "paillier":
        return _check_cipher(shown, published_cipher.verify(shown.record, roster), count, seed)
    proven = published.verify(shown.record, roster)
    hashes = _sum_hashes(shown, proven.manifest, proven.result)
    if proven.result.tag_sum != proven.tag_sum:
        raise audit.disputed("its tag is not the sum of the tags in the headers")
    chosen = _chosen(len(hashes), count, seed)
    audit.audit(proven, {index: hashes[index] for index in chosen}, lambda wanted: shown.leaves(LeafKind.INPUT, wanted))
    return Found(proven.manifest, proven.unmasking.survivors, len(chosen), len(hashes))


def _check_cipher(shown: Shown, proven: ProvenCipher, count: int | None, seed: Seed) -> Found:
    """Every answer is checked and every leaf of the sum opened again; `count` blocks of the product are made again."""
    hashes = _sum_hashes(shown, proven.manifest, proven.result)
    answered = cipher_audit.download(proven, shown.leaves)
    cipher_audit.check_partials(answered, seed)
    cipher_audit.audit_sum(answered, dict(enumerate(hashes)))
    blocks = len(answered.product)
    chosen = _chosen(blocks, count, seed)
    cipher_audit.audit_product(answered, chosen, shown.leaves)
    return Found(proven.manifest, proven.survivors, len(chosen), blocks, tuple(proven.partials))


def _sum_hashes(shown: Shown, manifest: Manifest, result: Result) -> list[bytes]:
    """The hashes of the sum's leaves, if it is the one that the coordinator signed."""
    hashes = [transcript.sum_leaf(result.t3, index, leaf) for index, leaf in enumerate(shown.sum_leaves)]
    if len(hashes) != leaf_count(manifest.length) or transcript.leaf_root(hashes) != result.leaf_root:
        raise published.not_proved("the sum is not the one whose root the coordinator signed")
    return hashes


def _chosen(leaves: int, count: int | None, seed: Seed) -> list[int]:
    return list(range(leaves)) if count is None else audit.draw(seed, leaves, min(count, leaves))


# --- from the coordinator ---------------------------------------------------------------------------------------------


class Dial(Protocol):
    """Channels with the certificate that lies in a home now."""

    def channel(self) -> grpc.Channel:
        """To the coordinator, with that certificate."""
        ...

    def changed(self) -> bool:
        """Whether another certificate, or other authorities, lie there than the last channel was made with."""
        ...


class MemberDial:
    """Of an organisation's home, whose running participant may renew its certificate while a round is looked at: then
    the older one is no longer to be used.
    """

    def __init__(self, home: pathlib.Path, passphrase: Passphrase | None, world: World) -> None:
        self._home, self._passphrase, self._world = home, passphrase, world
        self._used = b"", b""

    def channel(self) -> grpc.Channel:
        """See `Dial.channel`."""
        member = membership.load_membership(self._home)
        member.check_certificate(self._world.clock.wall_s())
        self._used = member.certificate_pem, member.authority_pem
        return renewing.channel(member, self._passphrase)

    def changed(self) -> bool:
        """See `Dial.changed`."""
        member = membership.load_membership(self._home)
        return (member.certificate_pem, member.authority_pem) != self._used


class Questions:
    """Downloads of one round, each with the certificate of its moment."""

    def __init__(self, dial: Dial, outbox: Outbox) -> None:
        self._dial = dial
        self._link = CoordinatorLink(dial.channel(), outbox)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Every channel is closed."""
        self._link.close()

    def _current(self) -> CoordinatorLink:
        if self._dial.changed():
            self._link.exchange(self._dial.channel())
        return self._link

    def shown(self, run_id: RunId, number: int, trust_chain: bytes) -> Shown:
        """What the coordinator publishes of a round. FedveilError."""
        record = self._current().fetch_round(run_id, number)
        sum_leaves = [data for _, data in self._current().fetch_sum(run_id, number).leaves]

        def leaves(kind: LeafKind, wanted: Sequence[int]) -> Iterator[tuple[OrgId, int, bytes]]:
            for start in range(0, len(wanted), limits.LEAVES_PER_AUDIT):
                part = wanted[start : start + limits.LEAVES_PER_AUDIT]
                yield from self._current().fetch_leaves(run_id, number, part, kind)

        return Shown(trust_chain, record, sum_leaves, leaves)


@contextlib.contextmanager
def asking(home: pathlib.Path, passphrase: Passphrase | None, world: World) -> Iterator[tuple[Questions, bytes, bytes]]:
    """(questions, trust chain, fingerprint) for the coordinator that this home belongs to."""
    if is_operator(home):
        federation = founding.load_federation(home)
        with Questions(OperatorLine(federation), Unrecorded()) as questions:
            yield questions, federation.trust_chain, federation.fingerprint
        return
    member = membership.load_membership(home)
    with (
        data_home.looking(home, passphrase, world) as books,
        Questions(MemberDial(home, passphrase, world), books) as questions,
    ):
        yield questions, member.trust_chain, member.fingerprint


# --- a folder ---------------------------------------------------------------------------------------------------------


def export(shown: Shown, folder: pathlib.Path) -> Shown:
    """Writes everything about the round into `folder`, all leaves; what was written, to be checked in its place."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(
            "folder_not_empty", f"{folder} is no empty folder", next_step="choose another --export folder"
        )
    try:
        for kind, name in FOLDERS.items():
            _write_leaves(shown, kind, folder / name)
    except OSError as error:
        raise StorageError(
            "file_unwritable",
            f"{folder}: {error.strerror or type(error).__name__}",
            not_done="the round was not exported as a whole",
            next_step="check the path and the free space",
        ) from None
    write_file(folder / SUM, "the sum", b"".join(shown.sum_leaves))
    write_file(folder / ROUND, "the round", to_file(shown.record))
    write_file(folder / CHAIN, "the trust chain", shown.trust_chain)
    return read_folder(folder)


def _write_leaves(shown: Shown, kind: LeafKind, folder: pathlib.Path) -> None:
    """Every leaf of a kind, one file for each that has some; no folder for a kind that the round does not have."""
    hashes = shown.record.hashes(kind)
    if not hashes:
        return
    folder.mkdir(parents=True)
    with contextlib.ExitStack() as stack:
        files = {org: stack.enter_context((folder / f"{org}.bin").open("wb")) for org in sorted(hashes)}
        for org, _, data in shown.leaves(kind, range(max(map(len, hashes.values())))):
            if org not in files:
                raise published.not_proved(f"a leaf of {org}, who has none")
            files[org].write(data)


def read_folder(folder: pathlib.Path) -> Shown:
    """What `export` wrote; nothing of it is believed yet. ConfigError, PeerError `round_not_proved`."""
    record = from_file(read_file(folder / ROUND, "the round", MAX_MODEL))
    manifest = _manifest(record)
    sum_leaves = _cut(read_file(folder / SUM, "the sum", MAX_MODEL), manifest)

    def leaves(kind: LeafKind, wanted: Sequence[int]) -> Iterator[tuple[OrgId, int, bytes]]:
        hashes = record.hashes(kind)
        for index in wanted:
            for org in sorted(hashes):
                path = folder / FOLDERS[kind] / f"{org}.bin"
                try:
                    with open_named(path) as file:
                        start, size = _place(file, manifest, index, len(hashes[org]))
                        file.seek(start)
                        data = file.read(size)
                except OSError as error:
                    raise unreadable(path, "the protected input", error) from None
                yield org, index, data

    return Shown(read_file(folder / CHAIN, "the trust chain", MAX_MODEL), record, sum_leaves, leaves)


def _place(file: BinaryIO, manifest: Manifest, index: int, leaves: int) -> tuple[int, int]:
    """(first byte, bytes) of a leaf in its file: packed residues under masked, else blocks of one size."""
    if manifest.protection == "masked":
        size = size_bytes(LEAF_COORDINATES, manifest.ring_bits)
        return index * size, size_bytes(leaf_length(manifest.length, index), manifest.ring_bits)
    size = file.seek(0, io.SEEK_END) // leaves
    return index * size, size


def _cut(data: bytes, manifest: Manifest) -> list[bytes]:
    size = size_bytes(LEAF_COORDINATES, manifest.ring_bits)
    return [data[start : start + size] for start in range(0, len(data), size)]


def _manifest(record: PublishedRound) -> Manifest:
    parsed = wire.parse_body(BlobType.MANIFEST, record.manifest.body)
    if not isinstance(parsed, Manifest):
        raise PeerError("round_not_proved", "the round has no manifest", not_done="nothing was verified")
    return parsed


# --- the command ------------------------------------------------------------------------------------------------------


def report(found: Found, fingerprint: bytes, output: Output) -> None:
    """Says what was established."""
    key, names = found.manifest.key, ", ".join(found.survivors)
    part = "all" if found.checked == found.leaves else f"{found.checked} of {found.leaves}, drawn here"
    value: dict[str, object] = {
        "verified": True,
        "run_id": key.run_id,
        "round": key.round,
        "attempt": key.attempt,
        "purpose": found.manifest.purpose.value,
        "protection": found.manifest.protection,
        "federation_id": found.manifest.federation_id,
        "fingerprint": fingerprint.hex(),
        "coordinates": found.manifest.length,
        "survivors": list(found.survivors),
        "leaves_checked": found.checked,
        "leaves": found.leaves,
    }
    lines = [
        f"verified: the sum of round {key.round} of run {key.run_id} is that of the certified inputs",
        f"inputs    {len(found.survivors)}: {names}; protection {found.manifest.protection}",
    ]
    if found.holders:
        named = found.manifest.encryption[0]
        value |= {"holders": list(found.holders), "key_fingerprint": named.fingerprint.hex()}
        lines += [
            f"key       {named.key_id}, epoch {named.epoch}, {named.fingerprint.hex()}",
            f"opened by {', '.join(found.holders)}: every answer proved, every leaf of the sum opened again",
            f"checked   blocks of the product of the inputs: {part}; {found.manifest.length} coordinates in all",
        ]
    else:
        lines.append(f"checked   leaves of the sum: {part}; {found.manifest.length} coordinates in all")
    output.result(value, lines)


def verify(
    home: pathlib.Path,
    run_id: str,
    number: int,
    count: int | None,
    folder: pathlib.Path | None,
    passphrase: Passphrase | None,
    world: World,
    output: Output,
) -> None:
    """`verify RUN ROUND`: from the coordinator; with `folder` everything is written there first, and checked there."""
    with asking(home, passphrase, world) as (questions, chain, fingerprint):
        shown = questions.shown(RunId(run_id), number, chain)
        if folder is not None:
            shown = export(shown, folder)
        report(check(shown, fingerprint, count, Seed(world.entropy.take(32))), fingerprint, output)


def verify_folder(
    folder: pathlib.Path, run_id: str, number: int, count: int | None, fingerprint: bytes, seed: Seed, output: Output
) -> None:
    """`verify RUN ROUND --from FOLDER`: without a coordinator. PeerError `round_not_proved` if it is another round."""
    found = check(read_folder(folder), fingerprint, count, seed)
    if (found.manifest.key.run_id, found.manifest.key.round) != (run_id, number):
        raise published.not_proved(f"the folder holds round {found.manifest.key.round} of {found.manifest.key.run_id}")
    report(found, fingerprint, output)


__all__ = ["Found", "Shown", "check", "export", "read_folder", "verify", "verify_folder"]

"""`fedveil verify`: makes the sum of an opened round again from what the coordinator published, and compares.

Promise: nothing is called verified that does not follow from the federation's fingerprint by signatures and hashes, and
from the masked inputs by arithmetic done here. A folder written with --export holds all that an auditor needs.
Source: FLSA/1 section 4.2 (docs/protocol.md).
"""

import contextlib
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import grpc
from fedveil_common import audit, limits, published, transcript, wire
from fedveil_common.errors import ConfigError, PeerError, StorageError
from fedveil_common.gate import Outbox
from fedveil_common.ids import OrgId, RunId
from fedveil_common.masking.packing import size_bytes
from fedveil_common.messages import BlobType, Manifest
from fedveil_common.pki.governance import verify_chain
from fedveil_common.published import PublishedRound
from fedveil_common.ringfile import leaf_count, leaf_length
from fedveil_common.secret import Passphrase, Seed
from fedveil_common.succession import roster_of_its_time
from fedveil_common.transcript import LEAF_COORDINATES
from fedveil_common.wire.published import from_file, to_file
from fedveil_coordinator import founding
from fedveil_participant import membership
from fedveil_participant.client import CoordinatorLink
from fedveil_participant.store import journal_key, open_holdings

from fedveil_cli import renewing
from fedveil_cli.files import MAX_MODEL, read_file, unreadable, write_file
from fedveil_cli.operator_line import OperatorLine
from fedveil_cli.output import Output
from fedveil_cli.service_commands import is_operator
from fedveil_cli.world import World

ROUND, CHAIN, SUM, INPUTS = "round.bin", "trust.json", "sum.bin", "inputs"


@dataclass(frozen=True, slots=True)
class Shown:
    """A published round, wherever it comes from: the trust chain that goes with it, its sum, leaves of its inputs."""

    trust_chain: bytes
    record: PublishedRound
    sum_leaves: Sequence[bytes]
    leaves: audit.FetchLeaves


@dataclass(frozen=True, slots=True)
class Found:
    """What was established of a round."""

    manifest: Manifest
    survivors: tuple[OrgId, ...]
    checked: int
    leaves: int


def check(shown: Shown, fingerprint: bytes, count: int | None, seed: Seed) -> Found:
    """Verifies the round for whoever pinned `fingerprint`; `count` leaves drawn from `seed` are made again, or all.

    Raises PeerError: those of `verify_chain` and `roster_of_its_time`, `round_not_proved`, `sum_disputed`.
    """
    trust = verify_chain(shown.trust_chain, fingerprint)
    proven = published.verify(shown.record, roster_of_its_time(shown.record.signed_roster, trust))
    hashes = [transcript.sum_leaf(proven.result.t3, index, leaf) for index, leaf in enumerate(shown.sum_leaves)]
    total = leaf_count(proven.manifest.length)
    if len(hashes) != total or transcript.leaf_root(hashes) != proven.result.leaf_root:
        raise published.not_proved("the sum is not the one whose root the coordinator signed")
    if proven.result.tag_sum != proven.tag_sum:
        raise audit.disputed("its tag is not the sum of the tags in the headers")
    chosen = list(range(total)) if count is None else audit.draw(seed, total, min(count, total))
    audit.audit(proven, {index: hashes[index] for index in chosen}, shown.leaves)
    return Found(proven.manifest, proven.unmasking.survivors, len(chosen), total)


# --- from the coordinator ---------------------------------------------------------------------------------------------


class Unrecorded:
    """An operator's questions are written down nowhere: an operator has no updates that could leave."""

    def record(self, kind: str, size_bytes: int, digest: bytes) -> None:
        """Nothing."""


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

    def _current(self) -> CoordinatorLink:
        if self._dial.changed():
            self._link.exchange(self._dial.channel())
        return self._link

    def shown(self, run_id: RunId, number: int, trust_chain: bytes) -> Shown:
        """What the coordinator publishes of a round. FedveilError."""
        record = self._current().fetch_round(run_id, number)
        sum_leaves = [data for _, data in self._current().fetch_sum(run_id, number).leaves]

        def leaves(wanted: Sequence[int]) -> Iterator[tuple[OrgId, int, bytes]]:
            for start in range(0, len(wanted), limits.LEAVES_PER_AUDIT):
                part = wanted[start : start + limits.LEAVES_PER_AUDIT]
                yield from self._current().fetch_leaves(run_id, number, part)

        return Shown(trust_chain, record, sum_leaves, leaves)

    def close(self) -> None:
        """Every channel is closed."""
        self._link.close()


def connect(home: pathlib.Path, passphrase: Passphrase | None, world: World) -> tuple[Questions, bytes, bytes]:
    """(questions, trust chain, fingerprint) for the coordinator that this home belongs to."""
    if is_operator(home):
        federation = founding.load_federation(home)
        return Questions(OperatorLine(federation), Unrecorded()), federation.trust_chain, federation.fingerprint
    member = membership.load_membership(home)
    outbox = open_holdings(home, journal_key(home, passphrase), world.clock, world.entropy)
    return Questions(MemberDial(home, passphrase, world), outbox), member.trust_chain, member.fingerprint


# --- a folder ---------------------------------------------------------------------------------------------------------


def export(shown: Shown, folder: pathlib.Path) -> Shown:
    """Writes everything about the round into `folder`, all leaves; what was written, to be checked in its place."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(
            "folder_not_empty", f"{folder} is no empty folder", next_step="choose another --export folder"
        )
    try:
        _write_inputs(shown, folder / INPUTS)
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


def _write_inputs(shown: Shown, inputs: pathlib.Path) -> None:
    """Every leaf of every input, one file a survivor."""
    inputs.mkdir(parents=True)
    with contextlib.ExitStack() as stack:
        names = sorted(shown.record.leaf_hashes)
        files = {org: stack.enter_context((inputs / f"{org}.bin").open("wb")) for org in names}
        for org, _, data in shown.leaves(range(leaf_count(_manifest(shown.record).length))):
            if org not in files:
                raise published.not_proved(f"a leaf of {org}, who is no survivor")
            files[org].write(data)


def read_folder(folder: pathlib.Path) -> Shown:
    """What `export` wrote; nothing of it is believed yet. ConfigError, PeerError `round_not_proved`."""
    record = from_file(read_file(folder / ROUND, "the round", MAX_MODEL))
    manifest = _manifest(record)
    sum_leaves = _cut(read_file(folder / SUM, "the sum", MAX_MODEL), manifest)

    def leaves(wanted: Sequence[int]) -> Iterator[tuple[OrgId, int, bytes]]:
        size = size_bytes(LEAF_COORDINATES, manifest.ring_bits)
        for index in wanted:
            for org in sorted(record.leaf_hashes):
                path = folder / INPUTS / f"{org}.bin"
                try:
                    with path.open("rb") as file:
                        file.seek(index * size)
                        data = file.read(size_bytes(leaf_length(manifest.length, index), manifest.ring_bits))
                except OSError as error:
                    raise unreadable(path, "the masked input", error) from None
                yield org, index, data

    return Shown(read_file(folder / CHAIN, "the trust chain", MAX_MODEL), record, sum_leaves, leaves)


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
    part = "all leaves" if found.checked == found.leaves else f"{found.checked} of {found.leaves} leaves, drawn here"
    value: Mapping[str, object] = {
        "verified": True,
        "run_id": key.run_id,
        "round": key.round,
        "attempt": key.attempt,
        "purpose": found.manifest.purpose.value,
        "federation_id": found.manifest.federation_id,
        "fingerprint": fingerprint.hex(),
        "coordinates": found.manifest.length,
        "survivors": list(found.survivors),
        "leaves_checked": found.checked,
        "leaves": found.leaves,
    }
    output.result(
        value,
        [
            f"verified: the sum of round {key.round} of run {key.run_id} is that of the certified inputs",
            f"inputs    {len(found.survivors)}: {names}",
            f"checked   {part}, {found.manifest.length} coordinates in all",
        ],
    )


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
    questions, chain, fingerprint = connect(home, passphrase, world)
    try:
        shown = questions.shown(RunId(run_id), number, chain)
        if folder is not None:
            shown = export(shown, folder)
        report(check(shown, fingerprint, count, Seed(world.entropy.take(32))), fingerprint, output)
    finally:
        questions.close()


def verify_folder(
    folder: pathlib.Path, run_id: str, number: int, count: int | None, fingerprint: bytes, seed: Seed, output: Output
) -> None:
    """`verify RUN ROUND --from FOLDER`: without a coordinator. PeerError `round_not_proved` if it is another round."""
    found = check(read_folder(folder), fingerprint, count, seed)
    if (found.manifest.key.run_id, found.manifest.key.round) != (run_id, number):
        raise published.not_proved(f"the folder holds round {found.manifest.key.round} of {found.manifest.key.run_id}")
    report(found, fingerprint, output)


__all__ = ["Found", "Shown", "check", "export", "read_folder", "verify", "verify_folder"]

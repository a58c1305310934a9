"""How a member or a coordinator lies in an in-memory federation: packets in flight changed, with the liar's own key.

A liar signs what it likes under its own name; under another name it has no key, so there it can only damage, leave out,
repeat and relabel. What an honest process sent is in `Cluster.sent`; lies are put behind it, on the network.
"""

from collections.abc import Callable
from dataclasses import fields, replace

from federation import Said, body_of, parse, rebuilt, resigned, signed
from fedveil_common import wire
from fedveil_common.errors import PeerError
from fedveil_common.ids import COORDINATOR, OrgId
from fedveil_common.messages import (
    AbortMessage,
    AbortOrder,
    AbortRequest,
    AbortVote,
    Advert,
    BlobType,
    Header,
    Manifest,
    ParticipantMessage,
    PlanAnswer,
    Receipt,
    Refusal,
    Result,
    Reveal,
    RunEndedAck,
    ShareAck,
    ShareMsg,
    ShareOpening,
    ShareSet,
    SignedBlob,
    Vote,
    VoteMessage,
)
from fedveil_participant.stages import Idle
from fedveil_simulation.charter import Charter
from fedveil_simulation.cluster import Cluster, Packet

MEMBER_LIES = ("altered", "second", "left_out", "unsigned", "as_another", "garbage")
COORDINATOR_LIES = ("altered", "left_out", "repeated_part", "unsigned", "to_another", "to_all", "garbage")
SAYINGS = ("refusal", "no_plan", "abort_vote", "other_vote", "end_stored")

Change = Callable[[SignedBlob], tuple[SignedBlob, ...]]


def flipped(data: bytes, index: int = -1) -> bytes:
    """The bytes with one bit changed."""
    changed = bytearray(data)
    changed[index % len(changed)] ^= 1
    return bytes(changed)


def altered(charter: Charter, blob: SignedBlob, pick: int) -> SignedBlob:
    """Another body of the same type, signed by the signer."""
    body = body_of(blob)
    changes: dict[str, object]
    match body:
        case Manifest():
            key = body.key
            fewer = {"cohort": body.cohort[1:]} if pick % 2 else {"corrupt": body.corrupt + 1}
            later = {"key": replace(key, attempt=key.attempt + 1)} if pick % 3 else {"nonce": flipped(body.nonce)}
            changes = fewer if pick % 5 == 0 else later
        case Advert():
            changes = {"mask_key": body.channel_key} if pick % 4 == 0 else {"nonce": flipped(body.nonce)}
        case ShareMsg():
            choices = ("ciphertext", "key_share_commit", "self_share_commit", "t1")
            name = choices[pick % len(choices)]
            changes = {name: flipped(getattr(body, name))}
        case ShareAck():
            changes = {"bad_dealers": () if body.bad_dealers else _another(charter, body.org_id, pick)}
        case ShareOpening():
            changes = {"self_share": flipped(body.self_share)}
        case Header():
            changes = {"leaf_root": flipped(body.leaf_root)}
        case Vote():
            changes = {"t3": flipped(body.t3)}
        case AbortVote():
            changes = {"attempt": body.attempt + 1}
        case AbortRequest():
            changes = {"attempt": body.attempt + 1} if pick % 2 else {"t0": flipped(body.t0)}
        case Reveal() if body.self_seed and pick % 2:
            changes = {"self_seed": flipped(body.self_seed)}
        case Reveal():
            (dealer, share), *others = body.self_shares
            changes = {"self_shares": ((dealer, flipped(share)), *others) if pick % 4 else tuple(others)}
        case Result():
            changes = {"leaf_root": flipped(body.leaf_root)} if pick % 2 else {"survivors": body.survivors + 1}
        case Receipt():
            changes = {"digest": flipped(body.digest)}
    return resigned(charter, blob, **changes)


def _another(charter: Charter, org: OrgId, pick: int) -> tuple[OrgId, ...]:
    others = [one for one in charter.roster.participants if one != org]
    return (others[pick % len(others)],)


def over_blob(message: Said, pick: int, change: Change) -> Said:
    """The message with one of its signed blobs changed, left out or repeated; unchanged if it holds none."""
    places = [
        (one.name, index)
        for one in fields(message)
        for value in [getattr(message, one.name)]
        for index in range(len(value) if isinstance(value, tuple) else 1)
        if isinstance(value[index] if isinstance(value, tuple) else value, SignedBlob)
    ]
    if not places:
        return message
    name, index = places[pick % len(places)]
    value = getattr(message, name)
    if isinstance(value, tuple):
        made: object = (*value[:index], *change(value[index]), *value[index + 1 :])
    else:
        made = (change(value) or (value,))[0]
    return replace(message, **{name: made})  # type: ignore[arg-type]


def _safely(packet: Packet, make: Callable[[], Said]) -> Packet:
    """The packet with the message that `make` gives; the old one where there is no such lie about it."""
    try:
        return rebuilt(packet, make())
    except (PeerError, KeyError):
        return packet


def unsigned(blob: SignedBlob) -> tuple[SignedBlob, ...]:
    """With a signature that does not verify."""
    return (replace(blob, sig=flipped(blob.sig, 0)),)


def member_lie(cluster: Cluster, packet: Packet, how: str, pick: int) -> list[Packet]:
    """What becomes of one packet of a lying member."""
    charter, message = cluster.charter, parse(packet)

    def change(blob: SignedBlob) -> tuple[SignedBlob, ...]:
        match how:
            case "left_out":
                return ()
            case "unsigned":
                return unsigned(blob)
            case "as_another":
                return (replace(blob, signer_id=_another(charter, packet.org_id, pick)[0]),)
            case _:
                return (altered(charter, blob, pick),)

    if how == "garbage":
        return [replace(packet, data=flipped(packet.data, pick))]
    bent = _safely(packet, lambda: over_blob(message, pick, change))
    return [packet, bent] if how == "second" else [bent]


def coordinator_lie(cluster: Cluster, packet: Packet, how: str, pick: int) -> list[Packet]:
    """What becomes of one packet of a lying coordinator; members' blobs it can only damage, leave out or repeat."""
    charter, message = cluster.charter, parse(packet)

    def change(blob: SignedBlob) -> tuple[SignedBlob, ...]:
        match how:
            case "left_out":
                return ()
            case "repeated_part":
                return (blob, blob)
            case "altered" if blob.signer_id == COORDINATOR and blob.type is not BlobType.MODEL:
                return (altered(charter, blob, pick),)
            case _:
                return unsigned(blob)

    match how:
        case "garbage":
            return [replace(packet, data=flipped(packet.data, pick))]
        case "to_another" | "to_all":
            others = [org for org in cluster.members if org != packet.org_id]
            chosen = others if how == "to_all" else [others[pick % len(others)]]
            return [packet, *(one for org in chosen for one in addressed(cluster, packet, org))]
        case "left_out" if isinstance(message, ShareSet):
            gone = message.dealers[pick % len(message.dealers)]
            fewer = tuple(org for org in message.dealers if org != gone)
            return [_safely(packet, lambda: replace(message, dealers=fewer))]
        case _:
            return [_safely(packet, lambda: over_blob(message, pick, change))]


def addressed(cluster: Cluster, packet: Packet, org: OrgId) -> list[Packet]:
    """The packet on the session that `org` has now, if it has one."""
    session = cluster.session_of(org)
    return [] if session is None else [replace(packet, org_id=org, session=session)]


def abort_order(cluster: Cluster, org: OrgId) -> list[Packet]:
    """The coordinator's signed wish to end the attempt that `org` is in."""
    stage = cluster.members[org].memory.load()
    if isinstance(stage, Idle):
        return []
    body = AbortRequest(stage.frame.t0, stage.frame.key.attempt, "test")
    order = AbortOrder(signed(cluster.charter, COORDINATOR, BlobType.ABORT_REQUEST, body))
    return addressed(cluster, Packet(org, 0, True, wire.encode_coordinator(order)), org)


def saying(cluster: Cluster, org: OrgId, what: str) -> list[Packet]:
    """Something that a lying member says out of turn, about the attempt that it is in."""
    stage = cluster.members[org].memory.load()
    if isinstance(stage, Idle):
        return []
    frame, charter = stage.frame, cluster.charter
    message: ParticipantMessage
    match what:
        case "refusal":
            message = Refusal(frame.key, "made_up")
        case "no_plan":
            message = PlanAnswer(frame.manifest.plan_hash, False, "model_spent")
        case "abort_vote":
            message = AbortMessage(signed(charter, org, BlobType.ABORT, AbortVote(frame.t0, frame.key.attempt)))
        case "other_vote":
            message = VoteMessage(signed(charter, org, BlobType.VOTE, Vote(frame.t0)))
        case _:
            message = RunEndedAck(frame.key.run_id)
    return addressed(cluster, Packet(org, 0, False, wire.encode_participant(message)), org)

"""Attack 19, exhaustively for N <= 6: whatever the coordinator and any c members do, one set opens or none.

First the graph of the real machine (`machine_graph`): all that one honest member can be brought to say. Then all ways
in which the honest members' votes can fall, for every choice of who is corrupt: corrupt members vote for everything,
and their shares and what honest dealers opened in public are known. Claims, for every honest member j:
- never two certificates over different sets, never a certificate beside an abort certificate (lemma 2.7.1);
- never t shares (or the secret itself) of both kinds.
The control: with certificates of q - 1 votes each claim fails, and the failure found is played on the real machines.
Source: FLSA/1 sections 2.6, 2.7, 2.9, A8, A9, A11 (docs/protocol.md).
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import combinations, product

import pytest
from federation import body_of
from fedveil_common import wire
from fedveil_common.crypto import shamir, signing
from fedveil_common.errors import PeerError
from fedveil_common.ids import OrgId
from fedveil_common.masking import quorum
from fedveil_common.messages import Certificate, Manifest, Reveal, RevealMessage
from fedveil_common.roster import Roster
from fedveil_common.secret import PrivateKey, Seed
from fedveil_participant import checks
from fedveil_participant.stages import Acked, Advertised
from machine_graph import Choice, Graph, Released, explore
from small_attempts import Attempt, Orgs, acknowledged, names

FIGURES = [(n, c) for n in range(3, 7) for c in range(1, n - 1)]


@pytest.fixture(scope="module", autouse=True)
def remembered() -> Iterator[None]:
    """The same few hundred blobs are verified and parsed again and again: each verdict is kept, none is changed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(signing, "verify", lru_cache(None)(signing.verify))
        patch.setattr(wire, "parse_body", lru_cache(None)(wire.parse_body))
        yield


@lru_cache(None)
def graphs(n: int, c: int) -> dict[OrgId, Graph]:
    """The graph of each member after its ack; of five and six the first and the last."""
    attempt = acknowledged(n, c)
    orgs = attempt.orgs if n < 5 else (attempt.orgs[0], attempt.orgs[-1])
    return {org: explore(attempt, org) for org in orgs}


# --- one member -------------------------------------------------------------------------------------------------------


@lru_cache(None)
def expected(me: OrgId, orgs: Orgs, q: int) -> dict[Choice, Released]:
    """What 2.6 lets a member vote and reveal for: dealers with me, q of them, and max(q, 3) survivors of them."""
    found = {}
    for size in range(q, len(orgs) + 1):
        for dealers in combinations(orgs, size):
            if me not in dealers:
                continue
            for count in range(max(q, 3), size + 1):
                for survivors in combinations(dealers, count):
                    seeds = frozenset(survivors) - {me}
                    found[dealers, survivors] = Released(
                        me in survivors, seeds, frozenset(dealers) - frozenset(survivors) - {me}
                    )
    return found


@pytest.mark.parametrize(("n", "c"), FIGURES)
def test_attack_19_all_that_one_member_can_be_brought_to_say(n: int, c: int) -> None:
    """One vote or one abort vote; a reveal only for that vote, under q votes; of each peer one kind of secret."""
    q = quorum.quorum(n, c)
    for me, graph in graphs(n, c).items():
        for history in graph.histories:
            assert len(history.votes) + history.aborted <= 1, history
            assert len(history.revealed) <= 1
            assert {choice for choice, _ in history.revealed} <= history.votes
            for _, released in history.revealed:
                assert not released.seeds & released.keys
        assert graph.votable == expected(me, names(n), q)
        assert any(history.aborted for history in graph.histories)
        assert graph.certified_by == q
        assert graph.opened == quorum.opening_bound(n, c)


# --- all members ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Conflict:
    """What must not exist: the corrupt members, who voted for what, and which claim fails for whom."""

    kind: str
    corrupt: Orgs
    votes: tuple[tuple[OrgId, Choice], ...]
    victim: OrgId | None = None


@dataclass(frozen=True)
class Model:
    """All members of an attempt, of whom each may say what `expected` says (which the graphs of the machine confirm).

    `needed`: votes of a certificate. `opened`: recipients for whom a dealer opens its shares in public.
    """

    orgs: Orgs
    c: int
    needed: int
    opened: int

    @property
    def q(self) -> int:
        """The quorum, which is the threshold of the shares too."""
        return quorum.quorum(len(self.orgs), self.c)

    def certified(self, choice: Choice, voters: int, corrupt: Orgs) -> bool:
        """Whether so many honest votes, and those of the corrupt dealers, make a certificate."""
        return voters + len(set(corrupt) & set(choice[0])) >= self.needed

    def families(self, corrupt: Orgs) -> Iterator[tuple[Choice, ...]]:
        """Every non-empty family of sets that can all be certified at once, each by honest votes of its own."""
        votable = {org: expected(org, self.orgs, self.q) for org in self.orgs if org not in corrupt}
        everything = sorted({choice for may in votable.values() for choice in may})

        def extend(family: tuple[Choice, ...], start: int, taken: frozenset[OrgId]) -> Iterator[tuple[Choice, ...]]:
            for index in range(start, len(everything)):
                choice = everything[index]
                short = max(self.needed - len(set(corrupt) & set(choice[0])), 0)
                free = [org for org in votable if choice in votable[org] and org not in taken]
                for number, voters in enumerate(combinations(free, short)):
                    if number == 0:
                        yield (*family, choice)
                    yield from extend((*family, choice), index + 1, taken | set(voters))

        return extend((), 0, frozenset())

    def ballots(self, family: tuple[Choice, ...], corrupt: Orgs) -> Iterator[tuple[tuple[OrgId, Choice], ...]]:
        """Every way for the honest members to vote within the family, or not at all, that certifies all of it."""
        honest = [org for org in self.orgs if org not in corrupt]
        options = [[None, *(one for one in family if org in one[0])] for org in honest]
        for picked in product(*options):
            if all(self.certified(one, picked.count(one), corrupt) for one in family):
                yield tuple((org, one) for org, one in zip(honest, picked, strict=True) if one is not None)

    def conflicts(self) -> Iterator[Conflict]:
        """Every break of a claim, for every choice of at most c corrupt members."""
        abort = quorum.abort_threshold(len(self.orgs), self.c)
        for corrupt in (some for size in range(self.c, -1, -1) for some in combinations(self.orgs, size)):
            for family in self.families(corrupt):
                for votes in self.ballots(family, corrupt):
                    if len(family) > 1:
                        yield Conflict("two certificates", corrupt, votes)
                    if len(self.orgs) - len(votes) >= abort:  # who did not vote may abort-vote; the corrupt do both
                        yield Conflict("certificate and abort certificate", corrupt, votes)
                    for victim in self.orgs:
                        if victim not in corrupt and self.both_kinds(victim, votes, corrupt):
                            yield Conflict("both kinds", corrupt, votes, victim)

    def both_kinds(self, victim: OrgId, votes: tuple[tuple[OrgId, Choice], ...], corrupt: Orgs) -> bool:
        """Whether both secrets follow from all reveals, the corrupt members' shares and the victim's openings."""
        seeds, keys, own = set(corrupt), set(corrupt), False
        for org, choice in votes:
            released = expected(org, self.orgs, self.q)[choice]
            own = own or (org == victim and released.own_seed)
            seeds |= {org} if victim in released.seeds else set()
            keys |= {org} if victim in released.keys else set()
        return any(
            (own or len(seeds | set(opened)) >= self.q) and len(keys | set(opened)) >= self.q
            for opened in combinations([org for org in self.orgs if org != victim], self.opened)
        )


@pytest.mark.parametrize(("n", "c"), FIGURES)
def test_attack_19_one_set_opens_or_none(n: int, c: int) -> None:
    """Stopped by the quorum: no conflict with q votes; with q - 1 a certificate stands beside an abort certificate."""
    q = quorum.quorum(n, c)
    model = Model(names(n), c, q, quorum.opening_bound(n, c))
    certifiable = {family for corrupt in combinations(model.orgs, c) for family in model.families(corrupt)}
    assert {choice for org in model.orgs for choice in expected(org, model.orgs, q)} == {
        choice for family in certifiable for choice in family
    }, "every set that may be voted for can be opened"
    assert list(model.conflicts()) == []
    fewer = replace(model, needed=q - 1).conflicts()
    assert next(one for one in fewer if one.kind == "certificate and abort certificate")


# --- the control: what the model finds is real ------------------------------------------------------------------------

CHECK = checks.vote_certificate


def one_vote_fewer(
    certificate: Certificate, t3: bytes, members: tuple[OrgId, ...], manifest: Manifest, roster: Roster
) -> None:
    """The check with q - 1 in the place of q."""
    CHECK(certificate, t3, members, replace(manifest, quorum=manifest.quorum - 1), roster)


def play(attempt: Attempt, conflict: Conflict) -> dict[OrgId, Reveal]:
    """The conflict on the real machines: what each voter reveals under a certificate of the votes that there are."""
    cast: dict[Choice, list[OrgId]] = {}
    for org, (dealers, survivors) in conflict.votes:
        attempt.tell(org, attempt.share_set(dealers))
        if org in survivors:
            attempt.masked(org)
            assert attempt.own_header(org) == attempt.header(org, dealers)
        (vote,) = attempt.tell(org, attempt.proposal(dealers, survivors))
        assert vote is not None
        cast.setdefault((dealers, survivors), []).append(org)
    revealed = {}
    for (dealers, survivors), voters in cast.items():
        votes = tuple(sorted({*voters, *(set(conflict.corrupt) & set(dealers))}))
        for org in voters:
            (message,) = attempt.tell(org, attempt.certificate(dealers, survivors, votes))
            assert isinstance(message, RevealMessage)
            body = body_of(message.reveal)
            assert isinstance(body, Reveal)
            revealed[org] = body
    return revealed


def secrets_of(attempt: Attempt, conflict: Conflict) -> tuple[PrivateKey, Seed]:
    """Both secrets of the victim, from what was revealed and from the shares that the corrupt members hold."""
    victim, t = conflict.victim, attempt.body.threshold
    assert victim is not None
    x = {org: index + 1 for index, org in enumerate(attempt.orgs)}
    keys: dict[int, bytes] = {}
    seeds: dict[int, bytes] = {}
    for org in conflict.corrupt:
        stage = attempt.states[org].stage
        assert isinstance(stage, Acked)
        (held,) = [one for one in stage.held if one.dealer == victim]
        keys[x[org]], seeds[x[org]] = held.key_share.expose(), held.self_share.expose()
    seed = b""
    for org, body in play(attempt, conflict).items():
        seed = body.self_seed if org == victim else seed
        if victim in dict(body.self_shares):
            seeds[x[org]] = dict(body.self_shares)[victim]
        if victim in dict(body.key_shares):
            keys[x[org]] = dict(body.key_shares)[victim]
    key = shamir.reconstruct(keys, t)  # type: ignore[arg-type]
    return PrivateKey(key), Seed(seed or shamir.reconstruct(seeds, t))  # type: ignore[arg-type]


@pytest.mark.parametrize(("n", "c"), [(4, 1), (5, 2), (6, 3)])
def test_attack_19_with_one_vote_fewer_both_secrets_are_out(n: int, c: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped by the number of votes in `checks.vote_certificate`. With q - 1 there, the first conflict that the model
    finds, played on the real machines, gives both secrets of an honest member (here without any opening).
    """
    fewer = Model(names(n), c, quorum.quorum(n, c) - 1, opened=0)
    conflict = next(one for one in fewer.conflicts() if one.kind == "both kinds")
    attempt = acknowledged(n, c)
    with pytest.raises(PeerError) as caught:
        play(attempt, conflict)
    assert caught.value.code == "certificate_too_small"
    monkeypatch.setattr(checks, "vote_certificate", one_vote_fewer)
    attempt = acknowledged(n, c)
    assert conflict.victim is not None
    truth = attempt.advertised[conflict.victim]
    assert isinstance(truth, Advertised)
    assert secrets_of(attempt, conflict) == (truth.mask_key, truth.self_seed)

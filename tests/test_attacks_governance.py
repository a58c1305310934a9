"""Attacks on who decides: forged and short links, keys that left, rollback, branches, other federations' documents.

Each test first passes with an honest message, names the check that stops the attack, and shows that the attack succeeds
with that check replaced. Victim: a participant that pinned a chain and a roster (`PinnedTrust`).
"""

from collections.abc import Sequence
from dataclasses import replace

import pytest
from fedveil_common import succession
from fedveil_common.crypto import signing
from fedveil_common.errors import ConfigError, PeerError
from fedveil_common.ids import OrgId
from fedveil_common.pki import bundle, certificates, governance, holders, proposals
from fedveil_common.pki.governance import TRUST_LABEL, GovernanceSet, Signature, Signed, Trust
from fedveil_common.pki.governance_folder import GovernanceFolder
from fedveil_common.pki.proposals import Item, Kind, Proposal
from fedveil_common.roster import Roster
from fedveil_participant import pinned_trust

from tests import governors as g
from tests.enrolment_office import Entropy

OTHERS = g.after(g.FIRST, governance=g.chosen(2, "h1 h2 h3"))
"""All three keys replaced."""

BOTH = "g1 g2 h1 h2"


def refused(victim: g.Participant, signed_roster: bytes, trust_chain: bytes) -> str:
    """The code of the alarm; nothing was pinned."""
    before = victim.pin.trust, victim.roster, list(victim.saved)
    with pytest.raises(PeerError) as caught:
        victim.told(signed_roster, trust_chain)
    assert (victim.pin.trust, victim.roster, victim.saved) == before
    return caught.value.code


def nothing(*args: object, **kwargs: object) -> None:
    """A check that checks nothing."""


# --- the honest way ---------------------------------------------------------------------------------------------------


def test_a_longer_chain_is_pinned_before_the_roster_of_its_set() -> None:
    victim = g.Participant()
    longer = g.chain((OTHERS, BOTH))
    assert victim.told(g.signed(g.ROSTER, "g1 g2"), longer) == g.ROSTER
    assert victim.saved == [longer]
    assert victim.told(g.signed(g.roster(2), "h1 h3"), longer).version == 2
    assert victim.saved == [longer]  # once


# --- links ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("names", ["h1 h2", "g1 h1 h2", "g1 g1 h1 h2", "g1 g2", "g1 g2 h1"])
def test_a_link_needs_k_of_both_sets(names: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped by `governance.verify_by_all`: forged by the new set, k - 1, one signer twice, unproven keys."""
    victim = g.Participant()
    roster = g.signed(g.ROSTER, "g1 g2")
    assert refused(victim, roster, g.chain((OTHERS, names))) == "too_few_signatures"
    monkeypatch.setattr(governance, "verify_by_all", nothing)
    victim.told(roster, g.chain((OTHERS, names)))
    assert victim.pin.trust.governance == OTHERS.governance


def test_one_signer_counts_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped by `governance.signers`, a set: the same signature twice beside one body."""
    victim, once = g.Participant(), governance.sign_trust(OTHERS, g.keys("g1 h1 h2"))
    mine = next(item for item in once.signatures if item.key == g.public("g1"))
    twice = replace(once, signatures=(*once.signatures, mine))
    assert twice.signatures.count(mine) == 2
    data = governance.encode_chain([g.FIRST_LINK, twice])
    assert refused(victim, g.signed(g.ROSTER, "g1 g2"), data) == "too_few_signatures"

    def count_each(signed: Signed, label: str, sets: Sequence[GovernanceSet], what: str) -> None:
        governance.verify_signatures(signed, label, sets, what)
        for one in sets:
            if sum(item.key in one.keys for item in signed.signatures) < one.threshold:
                raise PeerError("too_few_signatures", what)

    monkeypatch.setattr(governance, "verify_by_all", count_each)
    victim.told(g.signed(g.ROSTER, "g1 g2"), data)
    assert victim.pin.trust.governance == OTHERS.governance


def test_a_forged_signature_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped by `signing.verify_bytes`: a stranger writes a governor's key beside its own signature."""
    victim, right = g.Participant(), governance.sign_trust(OTHERS, g.keys("g1 h1 h2"))
    forged = Signature(g.public("g2"), signing.sign_bytes(g.key("mallory"), TRUST_LABEL, OTHERS.body))
    data = governance.encode_chain([g.FIRST_LINK, replace(right, signatures=(*right.signatures, forged))])
    assert refused(victim, g.signed(g.ROSTER, "g1 g2"), data) == "bad_signature"
    monkeypatch.setattr(signing, "verify_bytes", nothing)
    victim.told(g.signed(g.ROSTER, "g1 g2"), data)
    assert victim.pin.trust.governance == OTHERS.governance


def test_keys_of_an_earlier_set_sign_no_link(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped by `governance.link_signers`: g1 and g2, which left, bring themselves back."""
    victim = g.Participant(g.chain((OTHERS, BOTH)))
    back = g.after(OTHERS, governance=g.FIRST.governance)
    own_return = g.chain((OTHERS, BOTH), (back, "g1 g2"))
    assert refused(victim, g.signed(g.ROSTER, "g1 g2"), own_return) == "too_few_signatures"
    honest = g.chain((OTHERS, BOTH), (back, BOTH))
    assert g.Participant(g.chain((OTHERS, BOTH))).told(g.signed(g.ROSTER, "g1 g2"), honest) == g.ROSTER
    plain = governance.link_signers
    own = (back.governance,)
    monkeypatch.setattr(governance, "link_signers", lambda new, before: own if new == back else plain(new, before))
    victim.told(g.signed(g.ROSTER, "g1 g2"), g.chain((OTHERS, BOTH), (back, "g1 g2")))
    assert victim.pin.trust.governance == g.FIRST.governance


def test_a_link_of_another_federation_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped by `governance.check_link`: the same people govern two federations."""
    victim = g.Participant()
    foreign = replace(OTHERS, federation_id=g.BANKS)
    assert refused(victim, g.signed(g.ROSTER, "g1 g2"), g.chain((foreign, BOTH))) == "wrong_federation"
    monkeypatch.setattr(governance, "check_link", nothing)
    victim.told(g.signed(g.ROSTER, "g1 g2"), g.chain((foreign, BOTH)))
    assert victim.pin.trust.governance == OTHERS.governance


def test_a_link_belongs_behind_one_history(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped by `previous` in `governance.check_link`: document 3 of one branch put behind document 2 of another."""
    honest, branch = g.after(g.FIRST, authorities=(b"c" * 32,)), g.after(g.FIRST, authorities=(b"d" * 32,))
    third = g.after(honest, coordinator=g.public("coordinator"))
    assert g.trust((honest, "g1 g2"), (third, "g1 g3")).sequence == 3
    with pytest.raises(PeerError) as caught:
        g.trust((branch, "g2 g3"), (third, "g1 g3"))
    assert caught.value.code == "broken_chain"
    monkeypatch.setattr(governance, "check_link", nothing)
    assert g.trust((branch, "g2 g3"), (third, "g1 g3")).sequence == 3


# --- rollback and branches --------------------------------------------------------------------------------------------


def test_a_shorter_chain_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped by `succession.follow`: an old coordinator, or two stolen old keys, and the chain of before."""
    longer = g.chain((OTHERS, BOTH))
    victim = g.Participant(longer)
    forged = g.signed(g.roster(2, g.member("mallory")), "g1 g2")
    assert victim.told(g.signed(g.ROSTER, "g1 g2"), longer) == g.ROSTER
    assert refused(victim, forged, longer) == "not_governance"  # g1 and g2 are out: they need the shorter chain
    assert refused(victim, forged, g.chain()) == "trust_rollback"
    monkeypatch.setattr(pinned_trust, "follow", lambda pinned, new, roster: new)
    assert "mallory" in victim.told(forged, g.chain()).participants


def test_another_branch_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped by `succession.follow`: two different documents of one number, both with k signatures."""
    victim = g.Participant(g.chain((OTHERS, BOTH)))
    theirs = g.after(g.FIRST, governance=g.chosen(1, "mallory"))
    branch = g.chain((theirs, "g1 g3 mallory"))
    forged = g.signed(g.roster(2, g.member("mallory", "mallory")), "mallory")
    assert refused(victim, forged, branch) == "trust_fork"
    longer = g.chain((theirs, "g1 g3 mallory"), (g.after(theirs), "mallory"))
    assert refused(victim, forged, longer) == "trust_fork"  # a longer one is no better
    assert "mallory" in g.Participant().told(forged, branch).participants  # who never pinned the other one cannot know
    monkeypatch.setattr(pinned_trust, "follow", lambda pinned, new, roster: new)
    assert "mallory" in victim.told(forged, branch).participants


def test_a_link_names_no_other_past_for_my_roster(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped by the roster that `succession.follow` is given: a link on a roster that this member has passed."""
    two, forged = g.roster(2), g.roster(2, g.member("mallory"))
    for named in (g.ROSTER, forged):
        link = g.after(g.FIRST, named, governance=OTHERS.governance)
        victim = g.Participant(pinned=two)
        later = g.signed(g.roster(3), "h1 h2")
        assert refused(victim, later, g.chain((link, BOTH))) == "trust_fork"
    honest = g.chain((g.after(g.FIRST, two, governance=OTHERS.governance), BOTH))
    assert g.Participant(pinned=two).told(later, honest).version == 3
    plain = succession.follow
    monkeypatch.setattr(pinned_trust, "follow", lambda pinned, new, roster: plain(pinned, new))
    assert g.Participant(pinned=two).told(later, g.chain((link, BOTH))).version == 3


# --- rosters under the chain ------------------------------------------------------------------------------------------


def test_a_removed_key_signs_no_later_roster(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped by `Trust.at_roster` in `succession.roster_of_its_time`."""
    longer = g.chain((OTHERS, BOTH))
    victim, later = g.Participant(longer), g.roster(2, g.member("mallory"))
    assert victim.told(g.signed(g.roster(2), "h2 h3"), longer).version == 2
    victim = g.Participant(longer)
    assert refused(victim, g.signed(later, "g1 g2"), longer) == "not_governance"
    assert refused(victim, g.signed(later, "g1 h1"), longer) == "not_governance"
    assert refused(victim, g.signed(later, "h1"), longer) == "too_few_signatures"
    assert refused(victim, g.signed(later, "h1 h1"), longer) == "too_few_signatures"
    monkeypatch.setattr(Trust, "at_roster", lambda self, version: self.documents[0])
    assert "mallory" in victim.told(g.signed(later, "g1 g2"), longer).participants


def test_a_removed_key_rewrites_no_earlier_roster(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped by `succession.check_named`: a joiner has pinned no roster of its own."""
    trust = g.trust((OTHERS, BOTH))
    forged = g.signed(g.roster(1, g.member("mallory")), "g1 g2")
    assert succession.roster_in_force(g.signed(g.ROSTER, "g1 g2"), trust) == g.ROSTER
    with pytest.raises(PeerError) as caught:
        succession.roster_in_force(forged, trust)
    assert caught.value.code == "roster_fork"
    monkeypatch.setattr(succession, "check_named", nothing)
    assert "mallory" in succession.roster_in_force(forged, trust).participants


def test_a_roster_older_than_the_chain_names_is_none_in_force() -> None:
    """A joiner is shown version 1, which k of its time signed, and a chain that follows on version 2."""
    later = g.trust((g.after(g.FIRST, g.roster(2), governance=OTHERS.governance), BOTH))
    assert succession.roster_in_force(g.signed(g.roster(2), "g1 g2"), later).version == 2
    assert succession.roster_of_its_time(g.signed(g.ROSTER, "g1 g2"), later) == g.ROSTER
    with pytest.raises(PeerError) as older:
        succession.roster_in_force(g.signed(g.ROSTER, "g1 g2"), later)
    assert older.value.code == "roster_rollback"


def test_an_older_roster_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped by `roster.accept_roster`: version 2 is pinned, version 1 is offered with the chain in force."""
    victim = g.Participant(pinned=g.roster(2))
    assert victim.told(g.signed(g.roster(2), "g1 g2"), g.chain()).version == 2
    assert refused(victim, g.signed(g.ROSTER, "g1 g2"), g.chain()) == "roster_rollback"
    monkeypatch.setattr(pinned_trust, "accept_roster", nothing)
    assert victim.told(g.signed(g.ROSTER, "g1 g2"), g.chain()).version == 1


def test_a_roster_of_another_federation_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped by `succession.check_federation`: the same keys govern others."""
    others = Roster(g.BANKS, 2, (g.head(), g.member("mallory", federation=g.BANKS)))
    assert succession.roster_in_force(g.signed(g.roster(2), "g1 g2"), g.trust()).version == 2
    with pytest.raises(PeerError) as caught:
        succession.roster_in_force(g.signed(others, "g1 g2"), g.trust())
    assert caught.value.code == "wrong_federation"
    monkeypatch.setattr(succession, "check_federation", nothing)
    assert succession.roster_in_force(g.signed(others, "g1 g2"), g.trust()) == others


def test_a_replaced_coordinator_is_in_no_roster_in_force(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped by `succession.check_coordinator`: the old operator, and k signers without a trust document."""
    link = g.after(g.FIRST, coordinator=g.public("new coordinator"))
    longer = g.chain((link, "g1 g2"))
    new = g.signed(g.roster(2, coordinator="new coordinator"), "g2 g3")
    victim = g.Participant()
    assert refused(victim, new, g.chain()) == "coordinator_not_named"  # a roster alone replaces nobody
    assert refused(victim, g.signed(g.ROSTER, "g1 g2"), longer) == "coordinator_not_named"
    assert refused(victim, g.signed(g.roster(2), "g1 g2"), longer) == "coordinator_not_named"
    assert victim.told(new, longer).coordinator_key == g.public("new coordinator")
    assert refused(victim, g.signed(g.roster(3), "g1 g2"), g.chain()) == "trust_rollback"
    monkeypatch.setattr(succession, "check_coordinator", nothing)
    assert victim.told(g.signed(g.roster(3), "g1 g2"), longer).coordinator_key == g.public("coordinator")


# --- authorities ------------------------------------------------------------------------------------------------------


def test_an_authority_that_the_chain_does_not_name_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped by the digests in `bundle.check_bundle`."""
    own, evil = (certificates.make_authority(g.FEDERATION, 1_800_000_000.0, Entropy(seed)) for seed in (1, 2))
    named = (governance.authority_digest(certificates.certificate_der(own.certificate)),)
    assert bundle.check_bundle(own.pem, named) == (own.certificate,)
    for pem in (evil.pem, own.pem + evil.pem):
        with pytest.raises(PeerError) as caught:
            bundle.check_bundle(pem, named)
        assert caught.value.code == "authority_mismatch"
    monkeypatch.setattr(governance, "authority_digest", lambda der: named[0])
    assert bundle.check_bundle(own.pem + evil.pem, named) == (own.certificate, evil.certificate)


# --- invites and the signers' own checks ------------------------------------------------------------------------------


def test_a_removed_keys_invite_admits_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped by `succession.check_next` at the signer: a member joined on an invite of keys that have left."""
    trust = g.trust((OTHERS, BOTH))
    fresh = g.roster(2, g.member("mallory", "h1 h2"))
    late = g.roster(2, g.member("mallory", "g1 g2"))
    succession.check_next(g.ROSTER, fresh, trust)
    with pytest.raises(PeerError) as caught:
        succession.check_next(g.ROSTER, late, trust)
    assert caught.value.code == "invite_not_governance"
    longer, item = g.chain((OTHERS, BOTH)), Item(Kind.ROSTER, Signed(late.body, ()))
    proposal = Proposal(longer, g.signed(g.ROSTER, "g1 g2"), (item,))
    with pytest.raises(PeerError):
        proposals.examine(proposal, g.PRINT)
    monkeypatch.setattr(proposals, "check_next", nothing)
    assert "mallory" in g.Participant(longer).told(g.signed(late, "h1 h2"), longer).participants
    assert proposals.examine(proposal, g.PRINT).following == late


def test_a_proposal_that_was_altered_verifies_no_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped by `governance.verify_signatures` in `proposals.examine`."""
    honest, altered = g.roster(2), g.roster(2, g.member("mallory"))
    proposal = Proposal(g.chain(), g.signed(g.ROSTER, "g1 g2"), (Item(Kind.ROSTER, Signed(honest.body, ())),))
    one = proposals.sign(proposals.examine(proposal, g.PRINT), g.key("g1"))
    assert not proposals.examine(one, g.PRINT).complete
    assert proposals.examine(proposals.sign(proposals.examine(one, g.PRINT), g.key("g3")), g.PRINT).complete
    swapped = replace(one, items=(Item(Kind.ROSTER, replace(one.items[0].signed, body=altered.body)),))
    with pytest.raises(PeerError) as caught:
        proposals.examine(swapped, g.PRINT)
    assert caught.value.code == "bad_signature"
    monkeypatch.setattr(proposals, "verify_signatures", nothing)
    assert proposals.examine(swapped, g.PRINT).following == altered


def test_a_holder_signs_no_second_document_of_one_number(tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped by `GovernanceFolder.remember_signing`: who collects for two branches gets one signature."""
    folder = GovernanceFolder(tmp_path)  # type: ignore[arg-type]
    folder.remember_signing("trust", 2, OTHERS.digest)
    folder.remember_signing("trust", 2, OTHERS.digest)
    with pytest.raises(ConfigError) as caught:
        folder.remember_signing("trust", 2, b"o" * 32)
    assert caught.value.code == "signed_another"
    folder.remember_signing("trust", 3, b"o" * 32)
    folder.remember_signing("trust", 2, b"o" * 32, again=True)
    monkeypatch.setattr(GovernanceFolder, "_signed", lambda self: {})
    folder.remember_signing("trust", 2, b"p" * 32)


# --- on whom membership rests (A7) ------------------------------------------------------------------------------------


def test_names_beside_the_operators_keys_count_for_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped by `holders.check_holder`: an operator writes members' names beside keys that it made itself."""
    three = tuple(sorted(((g.public(f"g{i + 1}"), org) for i, org in enumerate(g.ORGS))))
    honest = tuple(g.holder(org, f"g{i + 1}") for i, org in enumerate(g.ORGS))
    claimed = tuple(governance.Holder(key, OrgId(org), bytes(64)) for key, org in three)
    replayed = tuple(g.holder(org, f"g{i + 1}", g.BANKS) for i, org in enumerate(g.ORGS))

    def line(said: tuple[governance.Holder, ...], k: int = 2) -> str:
        last = replace(g.FIRST, governance=GovernanceSet(k, g.FIRST.governance.keys), holders=said)
        return holders.membership_line(Trust(g.FEDERATION, g.PRINT, (last,)), g.ROSTER)

    assert line(honest) == "membership rests on 2 of 3 governance keys, held by acme, borealis, cygnus"
    for said, k in ((claimed, 2), (replayed, 2), (honest[:2], 2), (honest, 1), ((), 3)):
        assert line(said, k) == holders.ON_THE_OPERATOR
    assert line(honest[:2], 3) != holders.ON_THE_OPERATOR  # the operator's one key and c = 1 member: two of three
    two_of_one = (honest[0], g.holder("acme", "g2"), honest[2])
    assert line(two_of_one) == holders.ON_THE_OPERATOR
    monkeypatch.setattr(holders, "check_holder", nothing)
    assert line(claimed) != holders.ON_THE_OPERATOR

"""The ledger of one data source, as a value: what was reserved and settled, and what another sum would make of it.

Promise: `Ledger` is a fold of plain entries, so a journal of entries is a ledger. What it says is never below the
truth: an attempt counts in full from its Reserve on; a Settle (once its sum opened) replaces that by what was charged,
never by more; only an abort certificate over the very attempt (Release) takes it back. An entry that is repeated
changes nothing, except that a Reserve repeated after its Release counts in full again until the Release is repeated
too, so a journal that is replayed twice gives the same ledger; an entry that contradicts another is refused.
A source's ledger is over all versions, runs and purposes, and is never reset. It counts a person once: one who is in
the data of k organisations of a federation shifts its sums k times as far (`mechanism.Mechanism.squared_shift`), which
no ledger of a single organisation can know. Two limits: a run's, over all orders at
its plan's delta, and the lifetime's, over a few orders at its own. Nothing here persists, signs or verifies: the caller
has checked the certificate before it makes a Release of it.
Source: amendments D7, D11, D15, D16, A8, A9, A13 (docs/protocol.md).
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from types import MappingProxyType
from typing import TypeAlias, assert_never

from fedveil_common.bodies import AbortCertificate
from fedveil_common.dp.charge import Charge, Spent, of_run, of_runs
from fedveil_common.errors import IntegrityError
from fedveil_common.ids import AttemptKey, RunId

# --- entries ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ChargeKey:
    """Which attempt: its numbers and its transcript hash T0, so two manifests with the same numbers count twice."""

    attempt: AttemptKey
    t0: bytes


@dataclass(frozen=True, slots=True)
class Reserve:
    """Before anything leaves for this attempt: `charge` is the most that it can cost."""

    key: ChargeKey
    charge: Charge


@dataclass(frozen=True, slots=True)
class Settle:
    """The attempt's sum opened: `charge` is what it cost, by the noise that whoever opened it could not remove."""

    key: ChargeKey
    charge: Charge


@dataclass(frozen=True, slots=True)
class Release:
    """No sum of this attempt can ever open: `certificate` says so, and the caller has checked it.

    ValueError for a certificate over another attempt.
    """

    key: ChargeKey
    certificate: AbortCertificate

    def __post_init__(self) -> None:
        if not isinstance(self.certificate, AbortCertificate) or self.certificate.t0 != self.key.t0:
            raise ValueError("only an abort certificate over this very attempt releases it")


Entry: TypeAlias = Reserve | Settle | Release

# --- the ledger -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Unsettled:
    """Reserved, and nothing heard since: counts in full."""

    reserved: Charge


@dataclass(frozen=True, slots=True)
class Settled:
    """Opened; `charged` is within `reserved`."""

    reserved: Charge
    charged: Charge


@dataclass(frozen=True, slots=True)
class Released:
    """Certified never to open: costs nothing."""

    reserved: Charge


Standing: TypeAlias = Unsettled | Settled | Released


@dataclass(frozen=True)
class Account:
    """One run's attempts, and what they come to."""

    attempts: Mapping[ChargeKey, Standing] = field(default_factory=lambda: MappingProxyType({}))

    @cached_property
    def spent(self) -> Spent:
        """Settled and reserved together, to whichever row it costs most at each order."""
        return of_run(charge for charge in map(_counted, self.attempts.values()) if charge is not None)

    @cached_property
    def reserved(self) -> Spent:
        """The unsettled part alone, to whichever row that costs most."""
        return of_run(one.reserved for one in self.attempts.values() if isinstance(one, Unsettled))

    @cached_property
    def settled(self) -> Spent:
        """The settled part alone, to whichever row that costs most."""
        return of_run(one.charged for one in self.attempts.values() if isinstance(one, Settled))


@dataclass(frozen=True, slots=True)
class Fit:
    """What a reservation would make of an epsilon: `before` and `after` it, against `limit`, all at `delta`."""

    before: float
    after: float
    limit: float
    delta: float

    @property
    def fits(self) -> bool:
        """Whether the reservation may be made. An infinite figure fits no finite limit."""
        return self.after <= self.limit


@dataclass(frozen=True)
class Ledger:
    """All that was ever reserved, settled and released on one data source. `Ledger()` is that of a new one."""

    runs: Mapping[RunId, Account] = field(default_factory=lambda: MappingProxyType({}))

    def apply(self, entry: Entry) -> "Ledger":
        """The ledger after `entry`.

        Raises IntegrityError `ledger_conflict`: a Reserve of another charge than before; a Settle of what was not
        reserved, of more than was reserved, of another charge than before or of what was released; a Release of what
        was not reserved or has settled.
        """
        account = self.account(entry.key.attempt.run_id)
        standing = account.attempts.get(entry.key)
        after = _after(standing, entry)
        if after is standing:
            return self
        attempts = MappingProxyType({**account.attempts, entry.key: after})
        return replace(self, runs=MappingProxyType({**self.runs, entry.key.attempt.run_id: Account(attempts)}))

    def account(self, run: RunId) -> Account:
        """The run's account; an empty one for a run that the ledger has not heard of."""
        return self.runs.get(run, Account())

    def spent(self, run: RunId) -> Spent:
        """What the run has spent, reservations included."""
        return self.account(run).spent

    def lifetime(self) -> Spent:
        """What all runs have spent, reservations included."""
        return of_runs(account.spent for account in self.runs.values())

    def fits_run(self, reservation: Reserve, max_epsilon: float, delta: float) -> Fit:
        """What `reservation` makes of its run's epsilon at the plan's delta. Errors as `apply`."""
        run = reservation.key.attempt.run_id
        after = self.apply(reservation).spent(run).epsilon(delta)
        return Fit(self.spent(run).epsilon(delta), after, max_epsilon, delta)

    def fits_lifetime(self, reservation: Reserve, max_epsilon: float, delta: float) -> Fit:
        """What `reservation` makes of the source's lifetime epsilon at the lifetime's delta. Errors as `apply`."""
        after = self.apply(reservation).lifetime().lifetime_epsilon(delta)
        return Fit(self.lifetime().lifetime_epsilon(delta), after, max_epsilon, delta)


def fold(entries: Iterable[Entry]) -> Ledger:
    """The ledger that these entries make, in order. Errors as `Ledger.apply`."""
    runs: dict[RunId, dict[ChargeKey, Standing]] = {}
    for entry in entries:
        attempts = runs.setdefault(entry.key.attempt.run_id, {})
        attempts[entry.key] = _after(attempts.get(entry.key), entry)
    return Ledger(MappingProxyType({run: Account(MappingProxyType(attempts)) for run, attempts in runs.items()}))


def _after(standing: Standing | None, entry: Entry) -> Standing:
    match entry:
        case Reserve():
            return _reserved(standing, entry)
        case Settle():
            return _settled(standing, entry)
        case Release():
            return _released(standing, entry)
        case _ as never:
            assert_never(never)


def _reserved(standing: Standing | None, entry: Reserve) -> Standing:
    match standing:
        case None:
            return Unsettled(entry.charge)
        case known if known.reserved != entry.charge:
            raise _conflict(entry, "was reserved at another price")
        case Released(reserved=reserved):
            return Unsettled(reserved)  # a caller that lost count is about to send: it counts, whatever was certified
        case known:
            return known


def _settled(standing: Standing | None, entry: Settle) -> Standing:
    match standing:
        case None:
            raise _conflict(entry, "was never reserved")
        case Unsettled(reserved=reserved) if not entry.charge.within(reserved):
            raise _conflict(entry, "was reserved at less than it is said to have cost")
        case Unsettled(reserved=reserved):
            return Settled(reserved, entry.charge)
        case Settled(charged=charged) if charged != entry.charge:
            raise _conflict(entry, "was settled at another price")
        case Settled() as known:
            return known
        case Released():
            raise _conflict(entry, "was certified never to open")
        case _ as never:
            assert_never(never)


def _released(standing: Standing | None, entry: Release) -> Standing:
    match standing:
        case None:
            raise _conflict(entry, "was never reserved")
        case Unsettled(reserved=reserved):
            return Released(reserved)
        case Released() as known:
            return known
        case Settled():
            raise _conflict(entry, "has opened, so no certificate can say that it never will")
        case _ as never:
            assert_never(never)


def _counted(standing: Standing) -> Charge | None:
    match standing:
        case Unsettled(reserved=charge) | Settled(charged=charge):
            return charge
        case Released():
            return None
        case _ as never:
            assert_never(never)


def _conflict(entry: Entry, what: str) -> IntegrityError:
    key = entry.key.attempt
    return IntegrityError(
        "ledger_conflict",
        f"attempt {key.attempt} of round {key.round} of run {key.run_id} {what}",
        not_done="the ledger stays as it was, with the larger figure",
        next_step="keep the journal and find out which of the two happened",
    )

"""`fedveil participate`: the composition of a running participant. Outbound connections only."""

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import structlog
from fedveil_common.crypto import signing
from fedveil_common.database import FolderLock
from fedveil_common.errors import ConfigError, LocalRefusal, PolicyRefusal
from fedveil_common.ids import OrgId
from fedveil_common.messages import RosterNotice
from fedveil_common.paillier.public_key import PublicKey
from fedveil_common.paillier.round_shape import RoundShape
from fedveil_common.pki.governance import Trust
from fedveil_common.ports import Clock, Entropy
from fedveil_common.roster import Roster
from fedveil_common.secret import Passphrase, Seed
from fedveil_participant import membership
from fedveil_participant.approval.desk import WITHDRAWN, ConsentDesk, limits_of
from fedveil_participant.approval.orders import Orders
from fedveil_participant.approval.people import MachineAccounts
from fedveil_participant.approval.service import ConsentService, LiveDriver
from fedveil_participant.bench import FindFiles, MaskOf, TableBench, unmasked
from fedveil_participant.client import CoordinatorLink
from fedveil_participant.consent import restored_plan
from fedveil_participant.data.folder import table_files
from fedveil_participant.data.registration import FileSource, Registration
from fedveil_participant.driver import Driver
from fedveil_participant.home_cipher import HomeCipher
from fedveil_participant.isolation import probe
from fedveil_participant.isolation.levels import Confinement
from fedveil_participant.kept_status import KeptStatus
from fedveil_participant.key_ring import KeyRing
from fedveil_participant.mask_pool import MaskPool
from fedveil_participant.mask_source import InlineMasks, MaskSource
from fedveil_participant.membership import Membership
from fedveil_participant.policy import Policy
from fedveil_participant.policy.rules import Countersign, Isolation
from fedveil_participant.ports import Bench
from fedveil_participant.round import State
from fedveil_participant.stages import Idle
from fedveil_participant.state import spent_by
from fedveil_participant.store import ParticipantStore, journal_key, open_store, seal_journal_key
from fedveil_participant.store.holder_files import HolderFiles
from fedveil_participant.store.trainer_files import ApprovalFile, TrainerLogs
from fedveil_participant.store.trainer_notes import ISOLATION, REFUSED, IsolationNote
from fedveil_participant.training import code_tree
from fedveil_participant.training.own_trainer import BUILT_IN, TrainerConfig, Trainers
from fedveil_participant.training.trainer_config import read_config

from fedveil_cli import core_dumps, data_sources, governing, heap, mask_process, organisation_policy, renewing
from fedveil_cli.house_bindings import HouseBindings
from fedveil_cli.organisation_policy import ConsentPlaces
from fedveil_cli.output import Output
from fedveil_cli.record_seal import RecordSeal
from fedveil_cli.workers import ParticipantWorkers, stop_process
from fedveil_cli.world import World

log = structlog.get_logger("fedveil.participate")

Tell = Callable[[str, Mapping[str, str]], None]
MakeBench = Callable[[Mapping[str, Path], ParticipantStore], Bench]


def table_bench(datasets: Mapping[str, Path], store: ParticipantStore, release: bool = False) -> Bench:
    """The bench of the product: data sets registered by name, and `datasets`, files that a start named. `release`:
    thresholds of masking rules hold for training too.
    """
    return _bench(datasets, store, table_files, BUILT_IN, release=release)


def _bench(
    datasets: Mapping[str, Path], store: ParticipantStore, find_files: FindFiles, trainers: Trainers, *, release: bool
) -> TableBench:
    return TableBench(
        datasets,
        store.data_version_key(),
        find_files,
        trainers,
        sources=store.added(),
        open_source=data_sources.opening(store.home, store.clock, find_files),
        mask_of=_masks(store, release=release),
        excluded=store.excluded,
        shelf=store.shelf,
    )


def _masks(store: ParticipantStore, *, release: bool) -> MaskOf:
    """The masks of the registered data sets; read now, so that no key stays in the environment."""
    sources = store.added().values()
    if all(one.rules is None for one in sources):
        return unmasked
    from fedveil_cli.home_masks import masks_of  # pyarrow, which other data sets do without

    output = Output(as_json=False)
    return masks_of(sources, store.entropy, output, store.note, release=release, pin=store.pin_masking_key)


def _under(policy: Policy | None, make_bench: MakeBench) -> MakeBench:
    """The bench of the product holds data to the thresholds of its masking rules where the policy says so; `bench_with`
    looks at the policy by itself.
    """
    if make_bench is table_bench and policy is not None and policy.training_release:
        return partial(table_bench, release=True)
    return make_bench


def bench_with(
    home: Path,
    trainers: Mapping[str, tuple[Path, bytes | None]],
    accept: frozenset[bytes],
    clock: Clock,
    tell: Tell,
    find_files: FindFiles = table_files,
    hidden: Sequence[Path] = (),
    isolation_none: bool = False,
    policy: Policy | None = None,
) -> "OwnBench":
    """`table_bench` that finds files so, with the organisation's own trainers: name -> (description, digest of the
    trainer that is approved for `accept`). `hidden`: what no trainer may reach, beside the home. `isolation_none`: the
    organisation's policy lets a trainer run where nothing keeps it apart. `policy`: whose `isolation` and
    `training_release` hold.

    ConfigError `trainer_config`, `trainer_python`, LocalRefusal `trainer_code`, `trainer_changed`: nothing was started.
    """
    membership.load_membership(home)
    configs = {name: read_config(name, path) for name, (path, _) in trainers.items()}
    approvals = ApprovalFile(home)
    held: dict[str, tuple[TrainerConfig, Confinement]] = {}
    none_allowed = isolation_none or (policy is not None and policy.isolation is Isolation.NONE)
    codes: list[tuple[str, bytes]] = []
    notes: list[IsolationNote] = []
    refusal: PolicyRefusal | None = None
    for name, config in configs.items():
        found, approved = config.digest(code_tree.digest(config.code)), trainers[name][1]
        codes.append((name, found))
        try:
            confinement = probe.find(config.python, (home, *hidden), none_allowed=none_allowed)
            organisation_policy.check_isolation(policy, confinement.level)
        except PolicyRefusal as error:
            refusal = error
            notes.append(IsolationNote(clock.wall_s(), name, REFUSED, error.what))
            continue
        held[name] = config, confinement
        level, why = confinement.level.value, confinement.why_not_better
        notes.append(IsolationNote(clock.wall_s(), name, level, why))
        tell(
            "trainer",
            {"name": name, "entry": config.entry, "digest": found.hex(), "isolation": level, "no_better": why},
        )
        if approved is not None and approved != found:
            raise LocalRefusal(
                "trainer_changed",
                f"the trainer {name}, its code and description, has the digest {found.hex()}, the one given is "
                f"{approved.hex()}",
                not_done="nothing was started",
                next_step="look at what changed; then " + _way_to_approve(policy),
            )
        for plan_hash in accept if approved is not None else ():
            approvals.put(plan_hash, found)
    release = policy is not None and policy.training_release
    own = Trainers(held, approvals, clock, TrainerLogs(home).write)
    return OwnBench(
        lambda datasets, store: _bench(datasets, store, find_files, own, release=release),
        tuple(codes),
        tuple(notes),
        refusal,
        configs,
        approvals,
    )


def _way_to_approve(policy: Policy | None) -> str:
    """How another trainer is approved: where the policy names approvers, by nobody's command line."""
    if policy is not None and policy.approvers:
        return (
            "start with --trainer NAME=CONFIG alone: the plan waits, and an approver gives `fedveil approve PLAN_HASH`"
        )
    return "give the digest of what you approve, with its plan: --accept PLAN_HASH --trainer NAME=CONFIG@DIGEST"


@dataclass(frozen=True, slots=True)
class OwnBench:
    """A bench with own trainers. `codes`: the digest of each. `notes`: how each is kept apart. `refusal`: why they may
    not run. `configs`, `approvals`: what approvals of plans are bound to, and with which trainer each plan runs.
    """

    make: MakeBench
    codes: tuple[tuple[str, bytes], ...] = ()
    notes: tuple[IsolationNote, ...] = ()
    refusal: PolicyRefusal | None = None
    configs: Mapping[str, TrainerConfig] = field(default_factory=dict)
    approvals: ApprovalFile | None = None

    def admit(self, store: ParticipantStore) -> None:
        """Puts it on record, and raises the refusal if there is one. PolicyRefusal `isolation_missing`."""
        for name, code in self.codes:
            store.note("trainer_registered", (("trainer", name), ("digest", code.hex())))
        for note in self.notes:
            store.note(ISOLATION, note.facts())
        if self.refusal is not None:
            raise self.refusal


def participate(
    home: Path,
    data: Mapping[str, Path],
    accept: frozenset[bytes],
    passphrase: Passphrase | None,
    until_ended: bool,
    world: World,
    software: str,
    tell: Tell,
    make_bench: MakeBench | OwnBench = table_bench,
    reuse_key_epoch: bool = False,
    ask_to_countersign: bool = False,
    places: ConsentPlaces | None = None,
) -> dict[str, str]:
    """Take part until SIGTERM, SIGINT, `fedveil leave` or (with `until_ended`) the end of the first run that was taken
    part in; ends by run id. `reuse_key_epoch`: the organisation consents to several runs under one epoch of a key.
    `ask_to_countersign`: final models are countersigned only once the owner says so (`model countersign`). `places`:
    where policy and consent socket are.
    """
    heap.share_one()
    core_dumps.refuse()
    member = membership.load_membership(home)
    places = places or ConsentPlaces.of(home)
    policy = organisation_policy.final_policy(places.policy, accept)
    ask_to_countersign = ask_to_countersign or (policy is not None and policy.countersign is Countersign.ASK)
    with FolderLock(home):
        key = _journal_key(member, passphrase, world.entropy, tell)
        store = open_store(home, key, world.clock, world.entropy)
        try:
            organisation_policy.check_rules(policy, store.added().values())
            member = renewing.usable_membership(home, store, passphrase, world, tell)
            own = make_bench if isinstance(make_bench, OwnBench) else None
            if isinstance(make_bench, OwnBench):
                make_bench.admit(store)
                make_bench = make_bench.make
            make_bench = _under(policy, make_bench)
            keys = KeyRing(HolderFiles(home, key, world.entropy), reuse=reuse_key_epoch)
            tell_keys(keys, tell)
            cipher = HomeCipher(keys, world.entropy, partial(make_masks, world.entropy))
            with contextlib.closing(cipher):
                once = _named_once(store, data)

                def registrations() -> Mapping[str, Registration]:
                    """What this start uses of each name."""
                    return {**store.registrations(), **{one: Registration(one, FileSource(once[one])) for one in once}}

                opened = data_sources.opening(home, world.clock, places.find_files)
                bindings = HouseBindings(
                    registrations, opened, own.configs if own else None, own.approvals if own else None
                )
                desk = ConsentDesk(OrgId(member.org_id), policy, store, bindings, world.clock, cipher)
                return _participate(
                    member,
                    passphrase,
                    store,
                    once,
                    accept,
                    until_ended,
                    world,
                    software,
                    tell,
                    make_bench,
                    cipher,
                    ask_to_countersign,
                    desk,
                    places,
                )
        finally:
            store.close()


FEW_BLOCKS = 8
"""Up to so many blocks, masks are made when they are needed: another process would cost more than it saves."""

WAITING_MASKS = 2048
"""Masks that wait at most: 17 KB each at 2048 bits."""


def make_masks(entropy: Entropy, key: PublicKey, shape: RoundShape) -> MaskSource:
    """Where the masks of inputs of this shape come from."""
    if shape.blocks.count <= FEW_BLOCKS:
        return InlineMasks(key, entropy)
    # of all columns: the blocks of a smaller cohort, or of another sum of the plan, can be wider
    return MaskPool(key, key.terms.width, min(shape.blocks.count, WAITING_MASKS), mask_process.start)


def tell_keys(keys: KeyRing, tell: Tell) -> None:
    """Which keys are pinned here, and which of them no run can use."""
    for key_id in keys.pinned():
        try:
            key = keys.accepted(key_id)
        except PolicyRefusal as refusal:
            tell("key", {"id": key_id, "code": refusal.code, "next": refusal.next_step})
        else:
            tell("key", {"id": key_id, "epoch": str(key.epoch), "fingerprint": key.fingerprint.hex()})


def _journal_key(member: Membership, passphrase: Passphrase | None, entropy: Entropy, tell: Tell) -> Seed:
    """The journal key. A passphrase also seals what this home has in clear: it is never given in vain."""
    if passphrase is None:
        return journal_key(member.home, None)
    sealed = ["journal.key"] if seal_journal_key(member.home, passphrase, entropy) else []
    key = journal_key(member.home, passphrase)  # before anything else is put under a passphrase that may be wrong
    if member.seal_key(passphrase, entropy):
        sealed.append("tls.key")
    if sealed:
        tell("sealed", {"files": ",".join(sealed), "note": "copies made of them before are not"})
    return key


def _named_once(store: ParticipantStore, data: Mapping[str, Path]) -> dict[str, Path]:
    """Files that stand for registered data sets at this start alone; other names are registered by their path.

    ConfigError `dataset_guarded`: a file would come past the masking rules or filters of its registration.
    """
    known = store.added()
    for name in data:
        if name in known and (known[name].rules is not None or known[name].where):
            raise ConfigError(
                "dataset_guarded",
                f"the data set {name} is registered with masking rules or filters, and --data would come past them",
                not_done="nothing was started",
                next_step=f"leave out --data {name}=..., or fedveil data add {name} --replace",
            )
    guarded = {
        one.source.path.resolve(): one.name
        for one in known.values()
        if isinstance(one.source, FileSource) and (one.rules is not None or one.where or store.excluded(one.name))
    }
    for name, path in data.items():
        if name not in known and path.resolve() in guarded:
            raise ConfigError(
                "dataset_guarded",
                f"{path} is the data set {guarded[path.resolve()]}, which has masking rules, filters or exclusions: as "
                f"{name} it would come past them",
                not_done="nothing was started",
                next_step=f"fedveil data add {name} --source ... with rules of its own",
            )
    for name, path in data.items():
        if name not in known:
            store.save_dataset(name, path.absolute())
    return {name: path.absolute() for name, path in data.items() if name in known}


def _participate(
    member: Membership,
    passphrase: Passphrase | None,
    store: ParticipantStore,
    once: Mapping[str, Path],
    accept: frozenset[bytes],
    until_ended: bool,
    world: World,
    software: str,
    tell: Tell,
    make_bench: MakeBench,
    cipher: HomeCipher,
    ask_to_countersign: bool,
    desk: ConsentDesk,
    places: ConsentPlaces,
) -> dict[str, str]:
    for digest in accept:
        if not store.accept_plan(digest):
            note = "this plan was denied here: --accept says nothing of it any more"
            tell("accept_void", {"plan": digest.hex(), "note": note, "next": "fedveil approve PLAN_HASH"})
    signing_key = store.protocol_key()
    own_key = signing.public_key(signing_key)
    pin = renewing.pinned_trust(member, store)
    stage, waiting = store.load(), store.newer_roster()
    roster = pin.roster(store.roster() or member.signed_roster)
    beside = pin.roster(member.signed_roster)
    if beside.version > max(roster.version, pin.roster(waiting).version if waiting else 0):
        waiting = member.signed_roster  # pinned with its chain, by `follow` or before a crash
    newer = pin.roster(waiting) if waiting else None
    if newer is not None and isinstance(stage, Idle):
        roster, newer = newer, None
        store.save_roster(waiting)

    told: set[int] = set()

    def longer(before: Trust, after: Trust) -> None:
        tell("trust", governing.trust_facts(before, after))

    pin.listeners.append(longer)

    def verify(notice: RosterNotice, before: Roster) -> Roster:
        found = pin.accept(notice, before)
        listed = any(_lists(one, member.org_id, own_key) for one in (before, found))
        if not listed and found.version not in told:
            told.add(found.version)
            tell("not_yet_listed", {"roster": str(found.version), "next": "the operator's next `fedveil run start`"})
        return found

    standing = store.standing()
    accepted = {
        stored.run_id: restored_plan(stored.canonical, stored.plan_hash, stored.version, cipher)
        for stored in store.plans()
    }
    consents = store.standing_consents()
    state = State(
        OrgId(member.org_id),
        signing_key,
        roster,
        newer,
        limits=limits_of(desk.policy),
        closed={run_id: WITHDRAWN for run_id, plan in accepted.items() if consents.denial(plan.plan_hash)},
        plans=accepted,
        high_water=standing.high_water,
        spent=standing.spent,
        opened=standing.opened,
        tag_keys=standing.tag_keys,
        disputed=standing.disputed,
        ledgers=spent_by({}, standing.ledger),
        lifetimes=standing.lifetimes,
        sketches=standing.sketches,
        stage=stage,
    )
    seal = RecordSeal(store, signing_key, member)
    seal.put("start")
    link = CoordinatorLink(renewing.channel(member, passphrase), store)
    driver = Driver(
        state,
        desk,
        verify,
        pin.chain,
        pin.roster,
        software,
        store,
        make_bench({**store.datasets(), **once}, store),
        link,
        ParticipantWorkers(),
        world.clock,
        world.entropy,
        world.failpoints,
        cipher,
    )

    driver.results.asks = ask_to_countersign
    kept_status = KeptStatus(member.home, lambda: pin.trust)
    driver.results.take_status = kept_status.take
    driver.results.check_ancestry = kept_status.check_ancestry
    driver.answers.check_first_model = kept_status.check_first_model

    def listen(kind: str, facts: Mapping[str, str]) -> None:
        tell(kind, facts)
        if kind == "run_ended" and until_ended:
            driver.stop()
        if kind == "disconnected" and facts["code"] == "unreachable":
            renewer.lost()

    driver.listeners.append(listen)

    def renewed(member: Membership) -> None:
        link.exchange(renewing.channel(member, passphrase))
        driver.reopen_session()

    renewer = renewing.make_renewer(member, store, pin, link, passphrase, world, renewed, tell)
    failure: list[BaseException] = []

    def drive() -> None:
        try:
            driver.start()
            driver.serve()
        except BaseException as error:  # noqa: BLE001 - the last resort of the driver's thread
            failure.append(error)

    newest = lambda: driver.state.newer or driver.state.roster  # noqa: E731
    orders = Orders(desk, store, LiveDriver(driver), newest, world.clock, os.geteuid())
    gid = organisation_policy.socket_group(desk.policy)
    service = ConsentService(places.socket, orders, MachineAccounts(), world.clock, stop_process, gid)
    thread = threading.Thread(target=drive, name="fedveil-driver", daemon=True)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: driver.stop())
    thread.start()
    service.start()
    while thread.is_alive():
        thread.join(0.5)  # in slices, so that a signal is handled
        renewer.tick()
        seal.tick()
    service.close()
    link.close()
    seal.put("stop")
    if failure:
        stop_process(failure[0])
    return {str(run): code for run, code in driver.ended.items()}


def _lists(roster: Roster, org_id: OrgId, key: bytes) -> bool:
    return org_id in roster.participants and roster.key_of(org_id) == key

"""A coordinator's registry over a simulated federation: the production registry, database and status lists."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from federation import FIVE, RUN, federation, plan_bytes, run
from fedveil_common import modelfile
from fedveil_common.crypto import signing
from fedveil_common.crypto.draws import Draws
from fedveil_common.ids import OrgId, RunId
from fedveil_common.messages import SignedBlob
from fedveil_common.modelfile import ModelFile
from fedveil_common.pki.governance import Trust, TrustDocument, decode_chain, encode_chain, sign_trust
from fedveil_common.ports import Failpoints, NoFailpoints
from fedveil_common.registry import release, status
from fedveil_common.registry.identity import ModelRef
from fedveil_common.registry.stages import Stage
from fedveil_common.registry.status import StatusList
from fedveil_common.roster import Roster
from fedveil_common.secret import PrivateKey, Seed
from fedveil_coordinator.registry import Registry, Version
from fedveil_coordinator.store import CoordinatorStore, open_store
from fedveil_coordinator.trust import TrustInForce
from fedveil_simulation.cluster import Cluster

START_S = 1_800_000_000.0
OPERATOR = "operator"
DAY = 24 * 3600


@dataclass
class WallClock:
    """A wall clock that the test moves."""

    now: float = START_S

    def wall_s(self) -> float:
        return self.now

    def monotonic_s(self) -> float:
        return self.now


@dataclass
class ReleaseOffice:
    """A run that ended, and the registry of its coordinator."""

    cluster: Cluster
    store: CoordinatorStore
    trust: TrustInForce
    key: PrivateKey
    clock: WallClock = field(default_factory=WallClock)
    failpoints: Failpoints = field(default_factory=NoFailpoints)
    published: list[bytes] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.registry = self.open()

    def open(self) -> Registry:
        """The registry as a coordinator that starts reads it."""
        driver = self.cluster.coordinator
        made = Registry(
            driver.state_of,
            driver.sums,
            self.store.stages,
            self.trust,
            lambda version: self.roster,
            self.key,
            self.clock,
            self.failpoints,
            self.published.append,
        )
        driver.registry = made
        return made

    @property
    def roster(self) -> Roster:
        return self.cluster.charter.roster

    @property
    def fingerprint(self) -> bytes:
        return self.cluster.charter.fingerprint

    def countersignature(self, org: OrgId, run_id: RunId = RUN) -> SignedBlob:
        """What this member made when its run ended."""
        (blob,) = self.cluster.members[org].memory.countersignature(run_id)
        return blob

    def countersign(self, *orgs: OrgId, run_id: RunId = RUN) -> None:
        for org in orgs:
            self.registry.countersigned(org, self.countersignature(org, run_id))

    def candidate(self, run_id: RunId = RUN) -> Version:
        return self.registry.promote(run_id, Stage.CANDIDATE, OPERATOR, "")

    def released(self, run_id: RunId = RUN) -> Version:
        self.countersign(*(org for org in self.cluster.members), run_id=run_id)
        self.candidate(run_id)
        return self.registry.promote(run_id, Stage.RELEASED, OPERATOR, "")

    def list(self) -> StatusList:
        """The list in force, verified."""
        return status.read(self.registry.status(), self.fingerprint)

    def model(self, run_id: RunId = RUN) -> ModelFile:
        """The model of a run as its participants store it."""
        return modelfile.read_model(self.cluster.members[FIVE[0]].memory.ends[run_id][2])

    def file(self, version: Version) -> ModelFile:
        """The released file of a version."""
        made = self.model(version.manifest.run_id)
        said = self.registry.releasing(ModelRef.of(version.manifest).model_id)
        assert said is not None
        countersigned = self.registry.countersigners(version.manifest.run_id)
        return release.released_file(made, said, countersigned)

    def handed_over(self) -> "ReleaseOffice":
        """A new coordinator after the old one, in the same database, named by a second trust document."""
        charter = self.cluster.charter
        first = decode_chain(self.trust.trust_chain)
        before = self.trust.trust.last
        key = Draws(Seed(bytes(32))).private_key("another coordinator")
        second = TrustDocument(
            before.federation_id,
            before.sequence + 1,
            before.governance,
            before.authorities,
            signing.public_key(key),
            self.roster.version,
            self.roster.hash,
            before.digest,
        )
        chain = encode_chain([*first, sign_trust(second, [charter.governance_key])])
        trust = TrustInForce(chain, charter.fingerprint)
        return ReleaseOffice(self.cluster, self.store, trust, key, self.clock)

    def verified(self, file: ModelFile, trust: Trust | None = None) -> release.Release | None:
        """What whoever knows the fingerprint alone learns of a file's release."""
        again = modelfile.read_model(modelfile.write_model(file))
        manifest = modelfile.verify_model(again, self.roster.coordinator_key)
        return release.read_release(again, manifest, self.roster, trust or self.trust.trust)


@contextlib.contextmanager
def release_office(folder: Path, members: tuple[OrgId, ...] = FIVE, **settings: object) -> Iterator[ReleaseOffice]:
    """A federation whose run has ended, and its registry."""
    plan = plan_bytes(**settings)
    cluster = federation(members, plan=plan)
    assert run(cluster, plan) == "finished"
    with office_of(cluster, folder) as made:
        yield made


@contextlib.contextmanager
def office_of(cluster: Cluster, folder: Path) -> Iterator[ReleaseOffice]:
    """The registry of a federation whose run has ended."""
    clock = WallClock()
    with contextlib.closing(open_store(folder / "op", clock, create=True)) as store:
        charter = cluster.charter
        trust = TrustInForce(charter.notice.trust_chain, charter.fingerprint)
        yield ReleaseOffice(cluster, store, trust, charter.coordinator_key, clock)


def with_stray_bits(text: str) -> str:
    """Another base64 text of the same bytes, for a reader who does not look at the bits that are over at its end."""
    bare = text.rstrip("=")
    assert bare != text, "no bits are over"
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    return f"{bare[:-1]}{letters[letters.index(bare[-1]) + 1]}{text[len(bare) :]}"

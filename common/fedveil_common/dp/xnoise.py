"""Noise that dropouts do not change: XNoise, as arithmetic of variances and as a chain of seeds.

Promise: of n0 participants of which at most T may drop, each adds a base of variance V'/n0 and components k = 1..T of
variance V'/((n0-k+1)(n0-k)), V'/(n0-T) in all. After D have dropped, the survivors' components above D are taken out
again and what stays is V' exactly, for every D from 0 to T; a survivor whose seeds are missing leaves more, never less.
Integer variances are rounded up, each by less than 1, so the sum holds V' or more, by less than (n0-D)*(D+1).
The seed of a component comes from a link of a hash chain: link D+1 gives all components above D and, since a hash is
not inverted, none up to D. It is shown only once the survivors are certified, and D is counted from that certificate.
Source: Dordis (EuroSys 2024), XNoise; FLSA/1 section 3 item 4, amendments A13, D14, D16 (docs/protocol.md).
"""

import hmac
import math
from dataclasses import dataclass
from fractions import Fraction

from fedveil_common.crypto.kdf import derive
from fedveil_common.crypto.labels import h, u32
from fedveil_common.dp.mechanism import check_variance
from fedveil_common.errors import PeerError
from fedveil_common.ids import OrgId
from fedveil_common.secret import Seed

# --- variances --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Levels:
    """What each of `members` (n0) adds when at most `tolerated` (T) may drop and `target` (V') shall remain.

    `target` in grid units squared, colluders provided for (`with_colluders`).
    """

    target: Fraction
    members: int
    tolerated: int

    def __post_init__(self) -> None:
        if self.target <= 0 or not 0 <= self.tolerated < self.members:
            raise ValueError("noise remains only if a member does")

    @property
    def base(self) -> Fraction:
        """V'/n0: never taken out."""
        return self.target / self.members

    def component(self, k: int) -> Fraction:
        """V'/((n0-k+1)(n0-k)): taken out if fewer than k dropped. ValueError unless 1 <= k <= T."""
        if not 1 <= k <= self.tolerated:
            raise ValueError(f"there is no component {k} of {self.tolerated}")
        return self.target / ((self.members - k + 1) * (self.members - k))

    def remaining(self, dropped: int) -> tuple[int, ...]:
        """Which components stay in after `dropped` (D) members dropped: 1..D. ValueError unless 0 <= D <= T."""
        self._check(dropped)
        return tuple(range(1, dropped + 1))

    def removed(self, dropped: int) -> tuple[int, ...]:
        """Which components are taken out of every survivor's noise after D dropped: D+1..T."""
        self._check(dropped)
        return tuple(range(dropped + 1, self.tolerated + 1))

    def each(self, dropped: int) -> Fraction:
        """V'/(n0-D): what stays of one survivor's noise."""
        return self.base + sum((self.component(k) for k in self.remaining(dropped)), Fraction(0))

    def total(self, dropped: int, absent: int = 0) -> Fraction:
        """What the sum of the n0-D survivors holds; `absent` of them (m) did not show their link, so all of theirs
        stays in. V' exactly for m = 0, else V' + m*V'*(1/(n0-T) - 1/(n0-D)). ValueError for more than all of them.
        """
        survivors = self.members - dropped
        if not 0 <= absent <= survivors:
            raise ValueError(f"{absent} of {survivors} survivors cannot be absent")
        return (survivors - absent) * self.each(dropped) + absent * self.each(self.tolerated)

    def whole(self) -> "WholeLevels":
        """The same in integers, each rounded up. Raises ConfigError `noise_component_too_small` below 16."""
        components = [math.ceil(self.component(k)) for k in range(1, self.tolerated + 1)]
        for variance in (self.base, *map(self.component, range(1, self.tolerated + 1))):
            check_variance(variance)
        return WholeLevels(math.ceil(self.base), tuple(components), self.members)

    def _check(self, dropped: int) -> None:
        if not 0 <= dropped <= self.tolerated:
            raise ValueError(f"{dropped} dropped, of {self.tolerated} that may")


@dataclass(frozen=True, slots=True)
class WholeLevels:
    """Integer variances, grid units squared: what is drawn. `components[k-1]` is component k."""

    base: int
    components: tuple[int, ...]
    members: int

    def each(self, dropped: int) -> int:
        """What stays of one survivor's noise after `dropped` members dropped."""
        if not 0 <= dropped <= len(self.components):
            raise ValueError(f"{dropped} dropped, of {len(self.components)} that may")
        return self.base + sum(self.components[:dropped])

    def total(self, dropped: int) -> int:
        """What the sum of the survivors holds: at least V', and less than (n0-D)*(D+1) above it."""
        return (self.members - dropped) * self.each(dropped)


def with_colluders(variance: int | Fraction, quorum: int, corrupt: int) -> Fraction:
    """V' = V*q/(q-c): what must remain so that V does even after c corrupt members take their own noise out.

    Of n0-D >= q survivors at least n0-D-c are honest, and (n0-D-c)/(n0-D) is least at q. ValueError unless 0 <= c < q.
    """
    if variance <= 0 or not 0 <= corrupt < quorum:
        raise ValueError("noise comes from at least one honest member of the quorum")
    return Fraction(variance) * quorum / (quorum - corrupt)


# --- seeds ------------------------------------------------------------------------------------------------------------


def chain(first: Seed, t2: bytes, org: OrgId, tolerated: int) -> tuple[Seed, ...]:
    """g_1 .. g_(T+1) of `org`, g_1 = `first` uniform and for this T2 only: g_(k+1) = H("xnoise/chain", T2, org, g_k).

    The last stands in the Header; each is its owner's secret until link D+1 is shown.
    """
    links = [first]
    for _ in range(tolerated):
        links.append(_next(links[-1], t2, org))
    return tuple(links)


def component_seed(link: Seed, t2: bytes, org: OrgId, k: int) -> Seed:
    """The seed of component k of `org`, from g_k: KDF(T2, g_k, "xnoise/seed", org, u32be k)."""
    return Seed(derive(t2, link.expose(), "xnoise/seed", org.encode(), u32(k)))


def revealed(links: tuple[Seed, ...], dropped: int) -> Seed:
    """g_(D+1) of `links` (g_1 .. g_(T+1)): gives components D+1..T, hides 1..D. ValueError unless 0 <= D <= T."""
    if not 0 <= dropped < len(links):
        raise ValueError(f"{dropped} dropped, of {len(links) - 1} that may")
    return links[dropped]


def removable(link: Seed, t2: bytes, org: OrgId, dropped: int, tolerated: int, chain_end: bytes) -> tuple[Seed, ...]:
    """The seeds of components D+1..T of `org`, from what it showed as g_(D+1); none if D = T.

    `chain_end`: g_(T+1) as its Header has it. Raises PeerError `noise_chain_broken` if the link does not lead there;
    ValueError unless 0 <= D <= T. That the noise was made of these seeds nothing proves.
    """
    if not 0 <= dropped <= tolerated:
        raise ValueError(f"{dropped} dropped, of {tolerated} that may")
    links = chain(link, t2, org, tolerated - dropped)
    if not hmac.compare_digest(links[-1].expose(), chain_end):
        raise PeerError(
            "noise_chain_broken",
            f"the noise link that {org} showed does not lead to the chain end of its header",
            peer=org,
            not_done="its noise stays in the sum, which has more than it needs",
        )
    return tuple(component_seed(one, t2, org, dropped + 1 + index) for index, one in enumerate(links[:-1]))


def _next(link: Seed, t2: bytes, org: OrgId) -> Seed:
    return Seed(h("xnoise/chain", t2, org.encode(), link.expose()))

"""Noise that dropouts do not change: XNoise, as arithmetic of variances and as a chain of seeds.

Promise: of n0 participants of which at most T may drop, each adds a base of variance V'/n0 and components, one for each
group of dropouts: component k stands for the dropouts above cuts[k-1] up to cuts[k], with a variance of
V'/(n0-cuts[k]) - V'/(n0-cuts[k-1]), so V'/(n0-T) in all. After D have dropped, the survivors' components that stand for
dropouts above D alone are taken out again, and what stays is V' where D ends a group (always, up to MOST_COMPONENTS
dropouts), more within one; a survivor whose seeds are missing leaves more, never less.
Integer variances are rounded up, each by less than 1, so the sum holds V' or more.
The seed of a component comes from a link of a hash chain: link k gives the components from k on and, since a hash is
not inverted, none before. It is shown only once the survivors are certified, and D is counted from that certificate.
Source: Dordis (EuroSys 2024), XNoise; FLSA/1 section 3 item 4, amendments A13, D14, D16 (docs/protocol.md).
"""

import hmac
import math
from dataclasses import dataclass
from fractions import Fraction

from fedveil_common.crypto.kdf import derive
from fedveil_common.crypto.labels import h, u32
from fedveil_common.dp.mechanism import LEAST_VARIANCE
from fedveil_common.errors import PeerError
from fedveil_common.ids import OrgId
from fedveil_common.secret import Seed

MOST_COMPONENTS = 8
"""Of one member: each is drawn by the member and, if it goes, by everybody who settles the sum."""

# --- variances --------------------------------------------------------------------------------------------------------


def cuts(tolerated: int) -> tuple[int, ...]:
    """Where the groups of T = `tolerated` dropouts end: each dropout its own group up to MOST_COMPONENTS, then as many
    groups of nearly one size. The last is T; none for T = 0.
    """
    groups = min(tolerated, MOST_COMPONENTS)
    return tuple(-(-tolerated * number // groups) for number in range(1, groups + 1))


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
    def components(self) -> int:
        """How many there are."""
        return len(cuts(self.tolerated))

    @property
    def base(self) -> Fraction:
        """V'/n0: never taken out."""
        return self.target / self.members

    def component(self, k: int) -> Fraction:
        """V'/(n0-cuts[k]) - V'/(n0-cuts[k-1]), cuts[0] = 0: taken out if at most cuts[k-1] dropped. ValueError unless
        1 <= k <= `components`.
        """
        if not 1 <= k <= self.components:
            raise ValueError(f"there is no component {k} of {self.components}")
        ends = (0, *cuts(self.tolerated))
        return self.target / (self.members - ends[k]) - self.target / (self.members - ends[k - 1])

    def each(self, dropped: int) -> Fraction:
        """What stays of one survivor's noise: V'/(n0-D) if D ends a group, more within one. ValueError unless
        0 <= D <= T.
        """
        stay = staying(dropped, self.tolerated)
        return self.base + sum((self.component(k) for k in range(1, stay + 1)), Fraction(0))

    def total(self, dropped: int, absent: int = 0) -> Fraction:
        """What the sum of the n0-D survivors holds, never less than V'; `absent` of them (m) did not show their link,
        so all of theirs stays in. ValueError for more than all of them.
        """
        survivors = self.members - dropped
        if not 0 <= absent <= survivors:
            raise ValueError(f"{absent} of {survivors} survivors cannot be absent")
        return (survivors - absent) * self.each(dropped) + absent * self.each(self.tolerated)

    def whole(self) -> "WholeLevels":
        """The same in integers, each rounded up, and to LEAST_VARIANCE if it is less (D14)."""
        every = (self.base, *(self.component(k) for k in range(1, self.components + 1)))
        base, *components = (max(LEAST_VARIANCE, math.ceil(one)) for one in every)
        return WholeLevels(base, tuple(components), self.members, self.tolerated)


def staying(dropped: int, tolerated: int) -> int:
    """How many components stay in after `dropped` (D) of at most `tolerated` (T) dropped: those that stand for any of
    1..D, which are the first. ValueError unless 0 <= D <= T.
    """
    if not 0 <= dropped <= tolerated:
        raise ValueError(f"{dropped} dropped, of {tolerated} that may")
    return sum(begin < dropped for begin in (0, *cuts(tolerated))[:-1])


@dataclass(frozen=True, slots=True)
class WholeLevels:
    """Integer variances, grid units squared: what is drawn. `components[k-1]` is component k."""

    base: int
    components: tuple[int, ...]
    members: int
    tolerated: int

    def each(self, dropped: int) -> int:
        """What stays of one survivor's noise after `dropped` members dropped, if it showed its link."""
        return self.base + sum(self.components[: staying(dropped, self.tolerated)])

    def total(self, dropped: int, absent: int = 0) -> int:
        """What the sum of the survivors holds, at least V'; `absent` as for `Levels.total`."""
        survivors = self.members - dropped
        if not 0 <= absent <= survivors:
            raise ValueError(f"{absent} of {survivors} survivors cannot be absent")
        return (survivors - absent) * self.each(dropped) + absent * (self.base + sum(self.components))


def with_colluders(variance: int | Fraction, quorum: int, corrupt: int) -> Fraction:
    """V' = V*q/(q-c): what must remain so that V does even after c corrupt members take their own noise out.

    Of n0-D >= q survivors at least n0-D-c are honest, and (n0-D-c)/(n0-D) is least at q. ValueError unless 0 <= c < q.
    """
    if variance <= 0 or not 0 <= corrupt < quorum:
        raise ValueError("noise comes from at least one honest member of the quorum")
    return Fraction(variance) * quorum / (quorum - corrupt)


# --- seeds ------------------------------------------------------------------------------------------------------------


def chain(first: Seed, t2: bytes, org: OrgId, components: int) -> tuple[Seed, ...]:
    """g_1 .. g_(G+1) of `org` for G `components`, g_1 = `first` uniform and for this T2 only: g_(k+1) =
    H("xnoise/chain", T2, org, g_k).

    The last stands in the Header; each is its owner's secret until a link before it is shown.
    """
    links = [first]
    for _ in range(components):
        links.append(_next(links[-1], t2, org))
    return tuple(links)


def component_seed(link: Seed, t2: bytes, org: OrgId, k: int) -> Seed:
    """The seed of component k of `org`, from g_k: KDF(T2, g_k, "xnoise/seed", org, u32be k)."""
    return Seed(derive(t2, link.expose(), "xnoise/seed", org.encode(), u32(k)))


def removable(link: Seed, t2: bytes, org: OrgId, stay: int, components: int, chain_end: bytes) -> tuple[Seed, ...]:
    """The seeds of components stay+1 .. G of `org`, from what it showed as g_(stay+1); G = `components`.

    `chain_end`: g_(G+1) as its Header has it. Raises PeerError `noise_chain_broken` if the link does not lead there;
    ValueError unless 0 <= stay <= G. That the noise was made of these seeds nothing proves.
    """
    if not 0 <= stay <= components:
        raise ValueError(f"{stay} components stay, of {components}")
    links = chain(link, t2, org, components - stay)
    if not hmac.compare_digest(links[-1].expose(), chain_end):
        raise broken(org)
    return component_seeds(links[:-1], t2, org, stay + 1)


def broken(org: OrgId) -> PeerError:
    """What `org` showed is no link of the chain that its header ends."""
    return PeerError(
        "noise_chain_broken",
        f"the noise link that {org} showed does not lead to the chain end of its header",
        peer=org,
        not_done="its noise stays in the sum, which has more than it needs",
    )


def component_seeds(links: tuple[Seed, ...], t2: bytes, org: OrgId, first: int) -> tuple[Seed, ...]:
    """The seeds of the components from `first` on, from their links."""
    return tuple(component_seed(one, t2, org, first + index) for index, one in enumerate(links))


def _next(link: Seed, t2: bytes, org: OrgId) -> Seed:
    return Seed(h("xnoise/chain", t2, org.encode(), link.expose()))

"""The seeds of noise that may leave a sum again: what a member commits to, what it shows, what the result says of it.

Promise: a function of the manifest and the certified sets alone. A member's header carries the end of a hash chain;
after the certificate a survivor shows one link of it, from which the seeds of those components follow that no dropout
used up, and of no other. D is counted from T3, so nobody can claim fewer dropouts to have more noise taken out. The
links are public once the sum is opened; before, each is its owner's secret. A survivor that shows none leaves its
noise in. Source: FLSA/1 section 3 item 4 with A13 (docs/protocol.md); variances: `member_noise`.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from fedveil_common.crypto.kdf import derive
from fedveil_common.dp import xnoise
from fedveil_common.ids import OrgId
from fedveil_common.messages import Manifest, Removal
from fedveil_common.secret import Seed


@dataclass(frozen=True, slots=True)
class Coins:
    """The secret 32 bytes that one attempt's encoding follows from, and the attempt they are for: T2, whose they are,
    and how many members there are in U2.
    """

    secret: Seed
    t2: bytes
    org_id: OrgId
    dealers: int


def components(manifest: Manifest, dealers: int) -> int:
    """How many components each of `dealers` (|U2|) has under this manifest: 0 where its noise has none."""
    if manifest.noise != "participants" or manifest.encryption:
        return 0
    return len(xnoise.cuts(dealers - manifest.quorum))


def chain(manifest: Manifest, coins: Coins) -> tuple[Seed, ...]:
    """The links g_1 .. g_(G+1); their owner's secret but for the last one, which stands in its header. Empty where
    there are no components.
    """
    count = components(manifest, coins.dealers)
    first = Seed(derive(b"", coins.secret.expose(), "dp/xnoise"))
    return xnoise.chain(first, coins.t2, coins.org_id, count) if count else ()


def shown(manifest: Manifest, links: tuple[Seed, ...], dealers: int, survivors: int) -> bytes:
    """What a survivor shows of `links` (`chain`) once T3 is certified: g_(D+1); empty if nothing is to go."""
    stay = _staying(manifest, dealers, survivors) if links else 0
    return links[stay].expose() if stay < len(links) - 1 else b""


def check_chain_end(manifest: Manifest, dealers: int, chain_end: bytes) -> bool:
    """Whether a header carries a chain end exactly where one is due."""
    return bool(chain_end) == bool(components(manifest, dealers))


def check_shown(
    manifest: Manifest, t2: bytes, org: OrgId, dealers: int, survivors: int, link: bytes, chain_end: bytes
) -> None:
    """What `org`, a survivor, showed is the link that T3 asks of it, and none where nothing is to go: there the end of
    the chain, which leads to itself, would pass for one. PeerError `noise_chain_broken`.
    """
    count = components(manifest, dealers)
    stay = _staying(manifest, dealers, survivors) if count else 0
    if bool(link) != (stay < count):
        raise xnoise.broken(org)
    if link:
        xnoise.removable(Seed(link), t2, org, stay, count, chain_end)


def removal(manifest: Manifest, t2: bytes, dealers: int, links: Iterable[tuple[OrgId, bytes]]) -> tuple[Removal, ...]:
    """What a Result says of the noise that goes: empty where none can. `links`: of every survivor, empty if it showed
    none.
    """
    if not components(manifest, dealers):
        return ()
    return (Removal(t2, dealers, tuple(sorted((org, link) for org, link in links if link))),)


def due(manifest: Manifest, dealers: int, survivors: int, shown_links: int) -> bool:
    """Whether a Result of these sets may have a removal with so many links: some only where something is to go."""
    count = components(manifest, dealers)
    if not count or not manifest.quorum <= survivors <= dealers:
        return False
    return shown_links <= (survivors if _staying(manifest, dealers, survivors) < count else 0)


def _staying(manifest: Manifest, dealers: int, survivors: int) -> int:
    return xnoise.staying(dealers - survivors, dealers - manifest.quorum)

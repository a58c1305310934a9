"""k of m governance and another certificate authority in real processes: two runs, between them `ca rotate`, renewal
under the new authority, and `ca retire`, while the participants go on.
"""

import json
from pathlib import Path

import pytest
from cryptography import x509
from fedveil_common.pki import bundle

from tests.processes import NAMES, House, house, plan_text

HOLDERS = NAMES[:2]


@pytest.fixture
def home(tmp_path: Path) -> House:  # type: ignore[misc]
    with house(tmp_path) as made:
        (made.folder / "holder.txt").write_text("a holder's passphrase")
        yield made


def done(home: House, *arguments: str, at: str = "op") -> None:
    """A command that must succeed."""
    made = home.run(*arguments, home=at)
    assert made.returncode == 0, made.stderr


def signed(home: House, file: str) -> None:
    """Both holders sign the proposal, one after the other, each in its own home."""
    for name in HOLDERS:
        done(home, "governance", "sign", file, "--yes", "--governance-passphrase-file", "holder.txt", at=name)


def to_the_holders(home: House) -> None:
    """The operator's one key hands over to two keys at members, both of which must sign."""
    done(home, "governance", "propose", "roster", "--out", "r.proposal")
    done(home, "governance", "sign", "r.proposal", "--yes", "--governance-passphrase-file", "gov.txt")
    done(home, "governance", "publish", "r.proposal")
    cards = []
    for name in HOLDERS:
        card = f"{name}.card"
        done(home, "governance", "key", "--out", card, "--governance-passphrase-file", "holder.txt", at=name)
        cards += ["--add", card]
    own = home.json("governance", "show")["keys"][0]["key"]
    change = ("--threshold", "2", "--remove", own, "--out", "t.proposal", "--governance-passphrase-file", "gov.txt")
    done(home, "governance", "rotate", *cards, *change)
    early = home.run("governance", "publish", "t.proposal")
    assert (early.returncode, "signatures_missing" in early.stderr) == (2, True)
    signed(home, "t.proposal")
    done(home, "governance", "publish", "t.proposal")


def run(home: House, plan: str) -> None:
    """A training run from its start to its end, everybody in it."""
    report = home.json("run", "start", plan)
    assert report["status"] == "finished", report
    assert all(one["survivors"] == list(NAMES) for one in report["rounds"])


def authorities(home: House, name: str) -> list[x509.Certificate]:
    return x509.load_pem_x509_certificates((home.folder / name).read_bytes())


def issuer(home: House, file: str, known: list[x509.Certificate]) -> int:
    """Which of `known` issued the certificate in FILE."""
    found = x509.load_pem_x509_certificate((home.folder / file).read_bytes())
    (number,) = (at for at, authority in enumerate(known) if bundle.issued_by(found, authority))
    return number


def test_governed_by_two_of_two_through_another_authority(home: House) -> None:
    home.found()
    first = home.plan(plan_text(rounds=1))
    (home.folder / "first.yaml").write_text((home.folder / "plan.yaml").read_text())
    second = home.plan(plan_text(rounds=1, seed=8))
    for name in NAMES:
        assert home.run("join", "-", stdin=home.invite(name), home=name).returncode == 0
    to_the_holders(home)
    assert home.json("status")["membership"].endswith("rests on 2 of 2 governance keys, held by acme, borealis")
    for name in NAMES:
        home.participate(name, first, "--accept", second)
    home.until(lambda: home.connected() == list(NAMES), "the organisations' connection")
    run(home, "first.yaml")

    done(home, "ca", "rotate", "--passphrase-file", "ca.txt", "--out", "c.proposal")
    signed(home, "c.proposal")
    done(home, "governance", "publish", "c.proposal")
    home.until(lambda: "authority.changed" in home.err("coordinator"), "the new authority's issuing")
    for name in NAMES:
        home.until(lambda name=name: "authorities_changed" in home.err(name), f"the new authority at {name}")  # type: ignore[misc]
    both = authorities(home, "acme/ca.pem")
    assert len(both) == 2
    assert issuer(home, "acme/certificate.pem", both) == 1  # the old one's, and in use
    assert home.connected() == list(NAMES)

    old = home.json("governance", "show")["authorities"][1]
    done(home, "ca", "retire", old, "--out", "d.proposal")
    signed(home, "d.proposal")
    assert home.end("coordinator") == 0
    used = home.run("governance", "publish", "d.proposal", "--passphrase-file", "ca.txt")
    assert (used.returncode, "authority_in_use" in used.stderr) == (2, True), used.stderr
    home.serve()
    home.until(lambda: home.connected() == list(NAMES), "the connection after a restart")
    for name in NAMES:
        assert "asked" in home.json("renew", home=name)
        home.until(lambda name=name: "certificate_renewed" in home.err(name), f"the renewal of {name}")  # type: ignore[misc]
        assert issuer(home, f"{name}/certificate.pem", both) == 0
    home.until(lambda: home.connected() == list(NAMES), "the connection with the new certificates")
    assert home.end("coordinator") == 0
    done(home, "governance", "publish", "d.proposal", "--passphrase-file", "ca.txt")
    assert not (home.folder / "op" / "authority" / "ca.key").exists()
    assert {issuer(home, f"op/{file}", both) for file in ("coordinator/server.pem", "operator/client.pem")} == {0}

    home.serve()
    home.until(lambda: home.connected() == list(NAMES), "the connection under the new authority alone")
    run(home, "plan.yaml")
    home.until(lambda: authorities(home, "acme/ca.pem") == both[:1], "the old authority's end at acme")
    assert home.json("status")["alarms"] == []
    for name in ("op", *NAMES):
        found = home.json("doctor", home=name)
        assert found["sound"] is True, json.dumps(found)

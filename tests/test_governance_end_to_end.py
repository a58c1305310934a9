"""k of m governance and another certificate authority in real processes: two runs, between them `ca rotate`, renewal
under the new authority, and `ca retire`, while the participants go on.

Coordinator, participants and runs are processes; the short commands run in the test's own, which saves their start.
"""

import io
import json
from pathlib import Path
from typing import Any

import pytest
from berths import free_port
from cryptography import x509
from fedveil_cli import main
from fedveil_common.pki import bundle

from tests.processes import NAMES, House, house, plan_text

HOLDERS = NAMES[:2]
CA, GOV, HOLDER = (
    ("--passphrase-file", "ca.txt"),
    ("--governance-passphrase-file", "gov.txt"),
    ("--governance-passphrase-file", "holder.txt"),
)


class Table:
    """A house, and the commands that somebody at a desk in it gives."""

    def __init__(self, home: House, capsys: pytest.CaptureFixture[str]) -> None:
        self.home, self._capsys = home, capsys

    def __call__(self, *arguments: str, at: str = "op") -> Any:
        """`fedveil --home AT ARGUMENTS --json`, which must succeed; what it prints."""
        self._capsys.readouterr()
        code = main.main(["--home", str(self.home.folder / at), *arguments, "--json"])
        said = self._capsys.readouterr()
        assert code == 0, said.err
        return json.loads(said.out)

    def signed(self, file: str) -> None:
        """Both holders sign the proposal, one after the other, each in its own home; it is published."""
        for name in HOLDERS:
            self("governance", "sign", file, "--yes", *HOLDER, at=name)
        self("governance", "publish", file, *CA)

    def told(self, kind: str, times: int = 1) -> None:
        """Wait until each participant has said it so often."""
        for name in NAMES:
            self.home.until(lambda name=name: self.home.err(name).count(kind) >= times, f"{kind} at {name}")  # type: ignore[misc]

    def connected_since(self, kind: str) -> None:
        """Wait until each participant has connected after it last said so: how often it came back before is its own
        matter, since it also hears of new authorities while it is away.
        """
        for name in NAMES:

            def is_back(name: str = name) -> bool:
                said = self.home.err(name)
                return said.rfind(" connected") > said.rfind(kind) > -1

            self.home.until(is_back, f"a connection of {name} after {kind}")

    def run(self, plan: str) -> None:
        """A training run from its start to its end, everybody in it."""
        report = self.home.json("run", "start", plan)
        assert report["code"] == "finished", report
        assert all(one["survivors"] == list(NAMES) for one in report["rounds"])

    def authorities(self, file: str) -> list[x509.Certificate]:
        return x509.load_pem_x509_certificates((self.home.folder / file).read_bytes())

    def issuer(self, file: str, known: list[x509.Certificate]) -> int:
        """Which of `known` issued the certificate in FILE."""
        found = x509.load_pem_x509_certificate((self.home.folder / file).read_bytes())
        (number,) = (at for at, authority in enumerate(known) if bundle.issued_by(found, authority))
        return number


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Table:  # type: ignore[misc]
    monkeypatch.chdir(tmp_path)
    for name, words in (
        ("ca", "certificate authority"),
        ("gov", "governance passphrase"),
        ("holder", "a holder's own"),
    ):
        (tmp_path / f"{name}.txt").write_text(words)
    with house(tmp_path) as home:
        made = Table(home, capsys)
        made("init", "hospitals", "--address", f"127.0.0.1:{free_port()}", *CA, *GOV)
        home.serve()
        yield made


def to_the_holders(table: Table) -> None:
    """The operator's one key hands over to two keys at members, both of which must sign."""
    table("governance", "propose", "roster", "--out", "r.proposal")
    table("governance", "sign", "r.proposal", "--yes", *GOV)
    table("governance", "publish", "r.proposal")
    cards = []
    for name in HOLDERS:
        table("governance", "key", "--out", f"{name}.card", *HOLDER, at=name)
        cards += ["--add", f"{name}.card"]
    own = table("governance", "show")["keys"][0]["key"]
    table("governance", "rotate", *cards, "--threshold", "2", "--remove", own, "--out", "t.proposal", *GOV)
    table.signed("t.proposal")


def test_governed_by_two_of_two_through_another_authority(table: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    home, hashes = table.home, []
    for seed in (7, 8):
        (home.folder / f"{seed}.yaml").write_text(plan_text(rounds=1, seed=seed))
        hashes.append(table("plan", "check", f"{seed}.yaml")["plan_hash"])
    for name in NAMES:
        monkeypatch.setattr("sys.stdin", io.StringIO(table("invite", name, *GOV)["token"]))
        table("join", "-", at=name)
    to_the_holders(table)
    assert table("status")["membership"] == "membership rests on 2 of 2 governance keys, held by acme, borealis"
    for name in NAMES:
        home.participate(name, hashes[0], "--accept", hashes[1])
    table.told(" connected")
    table.run("7.yaml")

    table("ca", "rotate", *CA, "--out", "c.proposal")
    table.signed("c.proposal")
    table.told("authorities_changed")
    home.until(lambda: "authority.changed" in home.err("coordinator"), "the new authority's issuing")
    both = table.authorities("acme/ca.pem")
    assert len(both) == 2
    assert table.issuer("acme/certificate.pem", both) == 1  # the old one's, and in use
    for name in NAMES:
        table("renew", at=name)
    table.told("certificate_renewed")
    assert {table.issuer(f"{name}/certificate.pem", both) for name in NAMES} == {0}
    table.connected_since("certificate_renewed")  # with the new certificate: now the old one is over

    old = table("governance", "show")["authorities"][1]
    table("ca", "retire", old, "--out", "d.proposal")
    assert home.end("coordinator") == 0
    table.signed("d.proposal")
    assert not (home.folder / "op" / "authority" / "ca.key").exists()
    assert {table.issuer(f"op/{file}", both) for file in ("coordinator/server.pem", "operator/client.pem")} == {0}
    home.serve()
    table.told("authorities_changed", 2)
    assert table.authorities("acme/ca.pem") == both[:1]
    table.connected_since("authorities_changed")  # with the new authority alone
    table.run("8.yaml")
    assert table("status")["alarms"] == []
    assert table("doctor", at="acme")["sound"] is True
    assert table("doctor")["sound"] is True

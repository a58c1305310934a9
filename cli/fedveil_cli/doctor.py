"""`fedveil doctor`: looks at a home of either side, and at the coordinator from there; names mistakes and their cure.

It repairs nothing, and takes no lock: it runs beside `serve` and `participate`.
"""

import contextlib
import pathlib

from cryptography.hazmat.primitives.asymmetric import ec
from fedveil_common.errors import FedveilError
from fedveil_common.gate import Outbox
from fedveil_common.pki.invites import OPERATOR, split_address
from fedveil_common.secret import Passphrase
from fedveil_coordinator import founding, rotation
from fedveil_participant import membership
from fedveil_participant.client import CoordinatorLink
from fedveil_participant.store import Books

from fedveil_cli import doctor_findings, doctor_home, doctor_isolation, doctor_network, renewing
from fedveil_cli.doctor_findings import Report
from fedveil_cli.output import Output
from fedveil_cli.run_commands import connect
from fedveil_cli.unrecorded import Unrecorded
from fedveil_cli.world import World


def examine(home: pathlib.Path, passphrase: Passphrase | None, world: World) -> Report:
    """Everything that can be found out about this home now."""
    report = Report(_facts(home, "", "your organisation", doctor_findings.RENEW))
    if not home.is_dir() or not ((home / "federation.json").exists() or membership.has_membership(home)):
        report.add("no_home", f"{home} belongs to no federation", str(home))
        return report
    doctor_home.check_folder(home, report)
    with report.check("home", str(home)):
        if (home / "federation.json").exists():
            _examine_operator(founding.load_federation(home), world, report)
        else:
            _examine_participant(membership.load_membership(home), passphrase, world, report)
    return report


def _facts(home: pathlib.Path, address: str, org: str, renew: str) -> dict[str, str]:
    port = split_address(address)[1] if address else 0
    thaw = doctor_findings.REISSUE if org == OPERATOR else doctor_findings.REKEY.replace("{org}", org)
    return {
        "home": str(home),
        "org": org,
        "renew": renew,
        "thaw": thaw,
        "behind": doctor_findings.RESTORED.replace("{home}", str(home)) if org == OPERATOR else doctor_findings.FOLLOW,
        "replaced": doctor_findings.STEPPED_DOWN if org == OPERATOR else doctor_findings.FOLLOW_HANDOVER,
        "port": str(port),
        "enrolment": str(port + 1),
    }


def _examine_participant(
    member: membership.Membership, passphrase: Passphrase | None, world: World, report: Report
) -> None:
    report.facts = _facts(member.home, member.address, member.org_id, doctor_findings.RENEW)
    key, books = doctor_home.check_participant(member, passphrase, world, report)
    with contextlib.nullcontext() if books is None else contextlib.closing(books):
        _examine_membership(member, passphrase, key, books, world, report)


def _examine_membership(
    member: membership.Membership,
    passphrase: Passphrase | None,
    key: ec.EllipticCurvePrivateKey | None,
    books: Books | None,
    world: World,
    report: Report,
) -> None:
    """What journal and network say. `key`, `books`: if they opened; what is sent has a row in the latter's outbox."""
    report.isolation = doctor_isolation.check_isolation(books, report)
    outbox: Outbox = Unrecorded() if books is None else books

    def call() -> tuple[str, str, str]:
        with contextlib.closing(CoordinatorLink(renewing.channel(member, passphrase), outbox)) as link:
            return link.who_am_i()

    asked = doctor_network.Asked(
        member.address,
        member.fingerprint,
        member.trust_chain,
        member.federation_id,
        member.certificate_pem,
        key,
        call,
        outbox,
    )
    doctor_network.check_coordinator(asked, world.clock, report)


def _examine_operator(federation: founding.Federation, world: World, report: Report) -> None:
    report.facts = _facts(federation.home, federation.admin_address, OPERATOR, doctor_findings.REISSUE)
    key = doctor_home.check_operator(federation, world, report)

    def call() -> tuple[str, str, str]:
        with contextlib.closing(connect(federation.home)) as admin:
            return admin.who_am_i()

    pem = b""
    with contextlib.suppress(FedveilError):
        pem = rotation.operator_files(federation.home).certificate()
    asked = doctor_network.Asked(
        federation.admin_address,
        federation.fingerprint,
        federation.trust_chain,
        federation.federation_id,
        pem,
        key,
        call,
        Unrecorded(),
    )
    doctor_network.check_coordinator(asked, world.clock, report)


def doctor(home: pathlib.Path, passphrase: Passphrase | None, world: World, output: Output) -> bool:
    """The command: prints what was found; whether the home is sound."""
    report = examine(home, passphrase, world)
    findings = [
        {
            "code": one.code,
            "severity": "advice" if one.advice else "problem",
            "what": one.what,
            "where": one.where,
            "mend": one.mend,
        }
        for one in report.findings
    ]
    lines: list[str] = []
    for one in report.findings:
        place = f" ({one.where})" if one.where else ""
        lines.append(f"{'advice' if one.advice else 'PROBLEM'} [{one.code}] {one.what}{place}")
        lines.append(f"  mend: {one.mend}")
    if report.isolation is not None:
        lines += report.isolation.lines()
    lines.append("sound" if report.sound else f"{sum(not one.advice for one in report.findings)} problems")
    checked = list(dict.fromkeys(report.checked))
    value: dict[str, object] = {"sound": report.sound, "findings": findings, "checked": checked}
    if report.isolation is not None:
        value["isolation"] = report.isolation.to_json()
    output.result(value, lines)
    return report.sound

"""The long-running commands and what looks at them: serve, participate, status, health; models of a home.

A home belongs to an operator (`federation.json`) or to an organisation (`participant.json`); commands that serve both
look which it is.
"""

import contextlib
import fcntl
import logging
import os
import pathlib
import sys
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from fedveil_common.errors import ConfigError, Unreachable
from fedveil_common.ids import RunId
from fedveil_common.pki import invites
from fedveil_common.pki.holders import membership_line
from fedveil_common.plan import Kind
from fedveil_common.secret import Passphrase
from fedveil_common.succession import roster_of_its_time

from fedveil_cli.files import check_writable
from fedveil_cli.output import Output, TextTable
from fedveil_cli.world import real_world

if TYPE_CHECKING:
    from fedveil_common.registry.status import Listed
    from fedveil_participant.bench import FindFiles

HEALTH_TIMEOUT_S = 5.0


def software() -> str:
    """What we call ourselves to the other side."""
    import importlib.metadata

    return f"fedveil/{importlib.metadata.version('fedveil')}"


class StandardError:
    """stderr as it is at each call. A log that cannot be written is lost; it never stops a round or refuses a call."""

    def write(self, text: str) -> None:
        """Errors of the stream (closed, full, broken pipe) are not passed on."""
        with contextlib.suppress(OSError, ValueError):
            sys.stderr.write(text)

    def flush(self) -> None:
        """As `write`."""
        with contextlib.suppress(OSError, ValueError):
            sys.stderr.flush()


def configure_logging(level: int = logging.INFO) -> None:
    """Events with fields as JSON lines on stderr; stdout belongs to results."""
    import structlog

    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(StandardError()),  # type: ignore[arg-type]  # print() needs no more,
    )


def is_operator(home: pathlib.Path) -> bool:
    """Whether `home` holds a federation (an operator's home) rather than a membership."""
    return (home / "federation.json").exists()


def serve(home: pathlib.Path, passphrase: Passphrase, keep_bytes: int | None, output: Output) -> None:
    """`serve`: until SIGTERM or SIGINT; prints where it listens. `keep_bytes`: see `serving.serve`."""
    from fedveil_cli import serving

    check_writable(home)
    configure_logging()

    def ready(where: dict[str, str | int]) -> None:
        output.result(dict(where), [f"serving {where['federation_id']} on {where['address']}"])

    serving.serve(home, passphrase, real_world(), software(), ready, keep_bytes=keep_bytes)


def participate(
    home: pathlib.Path,
    data: Mapping[str, pathlib.Path],
    accept: frozenset[bytes],
    passphrase: Passphrase | None,
    until_ended: bool,
    output: Output,
    trainers: Mapping[str, tuple[pathlib.Path, bytes | None]] | None = None,
    reuse_key_epoch: bool = False,
    data_key: tuple[pathlib.Path, Passphrase | None] | None = None,
    isolation_none: bool = False,
    ask_to_countersign: bool = False,
    policy: pathlib.Path | None = None,
    consent_socket: pathlib.Path | None = None,
) -> None:
    """`participate`: until SIGTERM, SIGINT, `leave` or, with `until_ended`, the end of a run. `data_key`: of sealed
    tables. `policy`, `consent_socket`: where they are, if not in the home.
    """
    from fedveil_cli import participating
    from fedveil_cli.organisation_policy import ConsentPlaces

    check_writable(home)
    configure_logging(logging.WARNING)  # what happens is told below, in words
    for name, path in data.items():
        if not path.is_file() and not path.is_dir():
            raise ConfigError(
                "file_unreadable",
                f"the data set {name}: {path} is no file and no folder",
                next_step="--data NAME=FILE, a CSV or Parquet file or a folder of them",
            )

    def tell(kind: str, facts: Mapping[str, str]) -> None:
        for line in told_lines(kind, facts):
            output.note(line)

    world = real_world()
    make_bench: participating.MakeBench | participating.OwnBench = participating.table_bench
    places = ConsentPlaces.of(home, policy, consent_socket)
    if trainers or data_key is not None:
        find_files = _finding(home, data_key)
        hidden = [*data.values(), *([] if data_key is None else [data_key[0]])]
        make_bench = participating.bench_with(
            home, trainers or {}, accept, world.clock, tell, find_files, hidden, isolation_none, places.rules()
        )
        places = replace(places, find_files=find_files)
    ended = participating.participate(
        home,
        data,
        accept,
        passphrase,
        until_ended,
        world,
        software(),
        tell,
        make_bench,
        reuse_key_epoch,
        ask_to_countersign,
        places,
    )
    output.result({"ended": dict(ended)}, [f"run {run} ended: {code}" for run, code in ended.items()])


def _finding(home: pathlib.Path, data_key: tuple[pathlib.Path, Passphrase | None] | None) -> "FindFiles":
    """How tables are found, whose files may be sealed for the key that was given."""
    from fedveil_participant import membership
    from fedveil_participant.data.folder import table_files

    if data_key is None:
        return table_files
    from fedveil_cli.data_keys import reveal_with

    reveal = reveal_with(*data_key, membership.load_membership(home).federation_id)
    return lambda found: table_files(found, reveal)


def told_lines(kind: str, facts: Mapping[str, str]) -> list[str]:
    """What happened, for people: one line, and one for each further line of a fact (the problems of a table)."""
    first: list[str] = [kind]
    further: list[str] = []
    for name, value in facts.items():
        head, *rest = value.rstrip("\n").split("\n")
        first += [f"{name}={head}"] if value else []
        further += [f"  {line.removeprefix('; ')}" for line in rest if line]
    return [" ".join(first), *further]


def status(home: pathlib.Path, output: Output) -> None:
    """`status`: the federation on the operator's side, the membership on an organisation's."""
    if is_operator(home):
        from fedveil_cli import run_commands

        run_commands.status(home, output)
        return
    from fedveil_participant import membership

    member = membership.load_membership(home)
    trust = member.trust
    roster = roster_of_its_time(member.signed_roster, trust)
    rests = membership_line(trust, roster)
    value = {"federation_id": member.federation_id, "org_id": member.org_id, "address": member.address}
    lines = [
        f"{member.org_id}, member of {member.federation_id}",
        f"coordinator {member.address}",
        f"{rests} (trust document {trust.sequence}, with roster version {roster.version})",
    ]
    output.result({**value, "membership": rests, "trust_sequence": trust.sequence}, lines)


def health(home: pathlib.Path, output: Output) -> None:
    """`health`: whether the coordinator of this home answers and, in an organisation's home, its participant runs.

    Unreachable `participant_not_running`, and those of `check_health`.
    """
    if is_operator(home):
        address = check_health(home)
        output.result({"address": address, "serving": True}, [f"{address} serves"])
        return
    from fedveil_participant import membership

    member = membership.load_membership(home)
    if not is_held(home):
        raise Unreachable(
            "participant_not_running",
            f"no participant of {member.org_id} runs in {home}",
            next_step="`fedveil participate` starts it",
        )
    address = check_health(home)
    lines = [f"the participant of {member.org_id} runs", f"{address} serves"]
    output.result({"address": address, "serving": True, "org_id": member.org_id, "running": True}, lines)


def is_held(home: pathlib.Path) -> bool:
    """Whether a process holds the `FolderLock` of `home`. The lock is tried only if the process that took it last is
    there, so that a look does not stand in the way of one that starts.
    """
    try:
        with (home / "lock").open("rb") as stream:
            holder = stream.read(32).strip()
            if not holder.isdigit() or not _is_alive(int(holder)):
                return False
            try:
                fcntl.flock(stream, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
    except OSError:
        return False
    return False


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except PermissionError:
        return True
    except (ProcessLookupError, OverflowError):
        return False
    return True


def check_health(home: pathlib.Path) -> str:
    """The address of this home's coordinator, if it answers; pinned to the federation's authority. Unreachable."""
    import ssl
    from http.client import HTTPException, HTTPSConnection

    if is_operator(home):
        from fedveil_coordinator import founding

        federation = founding.load_federation(home)
        address, authority = federation.admin_address, federation.authority_pem
    else:
        from fedveil_participant import membership

        member = membership.load_membership(home)
        address, authority = member.address, member.authority_pem
    host, port = invites.split_address(address)
    context = ssl.create_default_context(cadata=authority.decode("ascii"))
    connection = HTTPSConnection(host, port + 1, timeout=HEALTH_TIMEOUT_S, context=context)
    try:
        connection.request("GET", "/healthz")
        answer = connection.getresponse()
        answer.read(1024)
    except (OSError, HTTPException) as error:
        raise Unreachable(
            "unreachable",
            f"the coordinator at {address} does not answer ({type(error).__name__})",
            not_done="nothing was changed",
            next_step="is `fedveil serve` running there?",
        ) from None
    finally:
        connection.close()
    if answer.status != 200:
        raise Unreachable("not_serving", f"the coordinator at {address} answers that it does not serve")
    return address


def model_list(home: pathlib.Path, passphrase: Passphrase | None, output: Output) -> None:
    """`model list`: finished runs and whether they left a model."""
    if is_operator(home):
        from fedveil_cli import run_commands

        admin = run_commands.connect(home)

        def has_model(run: Mapping[str, str]) -> bool:
            """A budget that was spent before the first step leaves none, and answers are no model."""
            if run["kind"] != Kind.TRAIN:
                return False
            code = run["code"]
            return code == "finished" or (code == "budget_spent" and admin.get_run(run["run_id"])["steps"] > 0)

        ended = [(run["run_id"], run["code"], "yes" if has_model(run) else "") for run in admin.list_runs()]
        known = {one["run_id"]: one for one in admin.list_models()}
        stages = {run: str(one["stage"] or "") for run, one in known.items()}
        found = [{"run_id": run, "code": code, **known.get(run, {})} for run, code, _ in ended]
    else:
        from fedveil_cli import data_home

        with data_home.looking(home, passphrase, real_world()) as books:
            ends = books.ends()
        ended = [(str(end.run_id), end.code, "yes" if end.has_model else "") for end in ends]
        stages = {str(one.model.run_id): one.stage.value for one in _kept_list(home)}
        found = [{"run_id": run, "code": code, "stage": stages.get(run)} for run, code, _ in ended]
    rows = [(run, code, model, stages.get(run, "")) for run, code, model in ended]
    output.result({"models": [dict(one) for one in found]}, [TextTable(("run", "end", "model", "stage"), rows)])


def _kept_list(home: pathlib.Path) -> "tuple[Listed, ...]":
    """What the newest status list that this organisation took names; it was verified before it was kept."""
    from fedveil_common.registry import status
    from fedveil_participant import membership
    from fedveil_participant.kept_status import KeptStatus

    document = KeptStatus(home, lambda: membership.load_membership(home).trust).document()
    return status.contents(document).models if document else ()


def final_model(home: pathlib.Path, run: str | None, passphrase: Passphrase | None) -> tuple[str, bytes, bytes]:
    """(run, model file, newest status list or empty) of a version, by default of the last run that has a model.
    ConfigError `no_model`, `unknown_run`.
    """
    document = b""
    if is_operator(home):
        from fedveil_cli import run_commands

        admin = run_commands.connect(home)
        chosen = run or next(
            (
                str(one["run_id"])
                for one in reversed(admin.list_runs())
                if one["status"] == "ended" and one["kind"] == Kind.TRAIN
            ),
            None,
        )
        if chosen is None:
            raise _no_model()
        data, document = admin.export_model(chosen), admin.model_status()
    else:
        from fedveil_participant import membership
        from fedveil_participant.kept_status import KeptStatus

        from fedveil_cli import data_home

        membership.load_membership(home)
        document = KeptStatus(home, lambda: membership.load_membership(home).trust).document()
        with data_home.looking(home, passphrase, real_world()) as books:
            chosen = run or next((str(end.run_id) for end in reversed(books.ends()) if end.has_model), None)
            if chosen is None:
                raise _no_model()
            data = books.model(RunId(chosen))
    return chosen, data, document


def _no_model() -> ConfigError:
    return ConfigError("no_model", "no finished run left a model here", next_step="fedveil model list")


def home_fingerprint(home: pathlib.Path) -> bytes | None:
    """The fingerprint that this home pins, if it is one."""
    if is_operator(home):
        from fedveil_coordinator import founding

        return founding.load_federation(home).fingerprint
    from fedveil_participant import membership

    return membership.load_membership(home).fingerprint if membership.has_membership(home) else None

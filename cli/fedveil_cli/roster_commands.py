"""`roster show`, `roster confirm`.

Promise: an organisation's home answers from the newest roster that governance signed and that this home has seen; an
operator's from the one that governance signed last. Check words are of hashes; nothing secret is shown.
"""

from fedveil_common.jcs import Json
from fedveil_common.pki.words import check_words
from fedveil_common.succession import roster_of_its_time
from fedveil_participant import membership

from fedveil_cli.consent_commands import Answer, House
from fedveil_cli.output import Output, TextTable


def show(house: House, output: Output) -> None:
    """`roster show`. ConfigError `not_joined`, `not_initialised` and those of `House.order`."""
    if membership.has_membership(house.home):
        found = house.order("roster")
        output.result(found, _lines(found))
        return
    from fedveil_coordinator import founding

    federation = founding.load_federation(house.home)
    roster = roster_of_its_time(federation.last_roster(), federation.trust)
    members: list[Json] = [
        {"name": one.org_id, "role": str(one.role), "key_words": check_words(one.protocol_key)}
        for one in roster.members
    ]
    value: Answer = {
        "version": roster.version,
        "hash": roster.hash.hex(),
        "words": check_words(roster.hash),
        "members": members,
    }
    output.result(value, _lines(value))


def confirm(house: House, words: str, output: Output) -> None:
    """`roster confirm`. ConfigError `roster_words_differ`; PolicyRefusal `not_an_approver`."""
    sayable = words.encode("ascii", "replace").decode()  # an argument may be what no frame can carry
    found = house.order("confirm_roster", words=sayable)
    note = "" if found["asked"] else "; the policy does not ask for it: `roster: confirm` would"
    output.result(found, [f"roster version {found['version']} is confirmed{note}"])


def _lines(found: Answer) -> list[str | TextTable]:
    members = found["members"]
    assert isinstance(members, list), "made by Orders.roster, or above"
    rows = [one for one in members if isinstance(one, dict)]
    columns = ("name", "role", "words of its key", *(("state",) if "asked" in found else ()))
    fields = ("name", "role", "key_words", *(("state",) if "asked" in found else ()))
    lines: list[str | TextTable] = [
        f"roster version {found['version']}, words: {found['words']}",
        TextTable(columns, [tuple(str(one[name]) for name in fields) for one in rows]),
    ]
    gone = found.get("gone")
    if isinstance(gone, list) and gone:
        lines.append(f"confirmed earlier and no member any more: {', '.join(map(str, gone))}")
    if found.get("asked") and not found["confirmed"]:
        lines += [
            "compare the names and how many there are, and with each that is not confirmed the words of its key",
            "no input is given until somebody here has confirmed it: fedveil roster confirm --words WORDS",
        ]
    return lines

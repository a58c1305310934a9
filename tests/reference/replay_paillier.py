"""The checks of a receiver on one case of paillier.json as it stands: nothing is taken from its seeds or nonces."""

from tests.reference import paillier_textbook as textbook
from tests.reference.cases_crypto import Case
from tests.reference.paillier_textbook import Header, Key, Proof, Refused

CHECKS = ("input", "lifts", "partial", "open")


def key_of(case: Case) -> Key:
    """Everything public that is agreed beforehand."""
    given = case["in"]
    holders = [i.encode() for i in given["holders"]]
    names = (given["federation"].encode(), given["key_id"].encode())
    return Key(*names, textbook.RSA_2048, given["s"], given["K"], given["l"], holders, given["t"], given["epoch"])


def lists_of(case: Case) -> dict[tuple[int, ...], list[int]]:
    """h_A,k."""
    return {tuple(int(i) for i in a): numbers(row) for a, row in case["key"]["h_A"].items()}


def numbers(row: list[str]) -> list[int]:
    """Of hexadecimal."""
    return [int(text, 16) for text in row]


def grid(rows: list[list[str]]) -> list[list[int]]:
    """Of hexadecimal, blocks outside."""
    return [numbers(row) for row in rows]


def context_of(case: Case, sender: str) -> bytes:
    """ctx of one sender's input."""
    given, count, width = case["in"], case["layout"]["B"], case["layout"]["width"]
    if sender != "coordinator":
        return textbook.input_context(bytes.fromhex(given["T0"]), sender.encode(), given["d"], count, width)
    noise, federation = given["noise"], given["federation"].encode()
    nonce = bytes.fromhex(noise["offer_nonce"])
    return textbook.noise_context(
        federation, noise["run"].encode(), noise["round"], noise["attempt"], nonce, count, width
    )


def header_of(made: Case) -> Header:
    """What a participant signs."""
    t_base, t_bodies, z = (int(made[name], 16) for name in ("T", "T'", "z"))
    return Header(numbers(made["c"]), t_base, t_bodies, z, bytes.fromhex(made["bodies_hash"]))


def check_input(case: Case, sender: str) -> None:
    """P1 and the sender's own lifts (with the weights of the case): what the coordinator does on receipt."""
    key, made, layout = key_of(case), case["inputs"][sender], case["layout"]
    fp, ctx, header = bytes.fromhex(case["key"]["fp"]), context_of(case, sender), header_of(made)
    textbook.check_header(key, fp, ctx, header, layout["B"])
    keys = numbers(case["key"]["H"])
    textbook.check_bodies(key, fp, ctx, keys, header, grid(made["bodies"]), layout["width"])
    textbook.check_lifts(key, header.headers, numbers(made["C"]), numbers(case["in"]["weights"]))


def check_lifts(case: Case) -> None:
    """P2 on the products."""
    product = case["product"]
    textbook.check_lifts(key_of(case), numbers(product["c"]), numbers(product["L"]), numbers(case["in"]["weights"]))


def check_partial(case: Case, label: str, holder: str) -> None:
    """P3."""
    key, answer, quorum, j = key_of(case), case["partials"][label][holder], tuple(map(int, label)), int(holder)
    fp, ctx = bytes.fromhex(case["key"]["fp"]), textbook.partial_context(bytes.fromhex(case["in"]["T3"]), quorum, j)
    proof = Proof(*(int(answer[name], 16) for name in ("T1", "T2", "z")))
    joined = textbook.public_share(key, lists_of(case), quorum, j)
    lifts, made = numbers(case["product"]["L"]), grid(answer["D"])
    textbook.check_partial(key, fp, ctx, j, lifts, made, joined, proof, case["layout"]["width"])


def opened(case: Case, label: str) -> list[int]:
    """The sum, by one quorum's partials."""
    key, given = key_of(case), case["in"]
    made = [grid(answer["D"]) for answer in case["partials"][label].values()]
    plain = textbook.combine(key, grid(case["product"]["bodies"]), made)
    survivors = len([sender for sender in case["inputs"] if sender != "coordinator"])
    caps = (given["V"], given["W"], given["W_c"])
    return textbook.unpack(key, plain, given["d"], case["layout"]["sb"], survivors, *caps)


def refused_at(case: Case, check: list[str]) -> str | None:
    """The step at which `check` (a name of CHECKS, then its arguments) refuses; None if it does not."""
    checks = dict(zip(CHECKS, (check_input, check_lifts, check_partial, opened), strict=True))
    try:
        checks[check[0]](case, *check[1:])
    except Refused as refusal:
        return refusal.step
    return None


def changed(case: Case, changes: list[Case]) -> Case:
    """The case with other values `at` some paths."""
    for change in changes:
        case = _placed(case, change["at"], change["value"])
    return case


def _placed(where: object, path: list[str | int], value: object) -> object:
    if not path:
        return value
    copy = list(where) if isinstance(where, list) else dict(where)
    copy[path[0]] = _placed(copy[path[0]], path[1:], value)
    return copy

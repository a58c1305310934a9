"""Each masking operator against values worked out by hand or by a second implementation."""

import base64
import datetime
import hashlib
import hmac
import math
from collections.abc import Sequence

import numpy as np
import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from fedveil_participant.masking import BadCellsError, MaskingKey
from fedveil_participant.masking.numbers import microaggregated
from fedveil_participant.masking.rules import Fpe
from fedveil_participant.masking.texts import coarse_date, parse_date
from fedveil_participant.masking.tokens import BadText, FormatCipher
from fedveil_participant.masking.typed_text import typed
from ffx import FF1
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.masked_tables import KEY, OTHER_KEY, masked, one, texts

steady = settings(derandomize=True, deadline=None, max_examples=60)


def derived(key: MaskingKey, use: str, scope: str, domain: str) -> bytes:
    """The derivation once more, from the documents: HKDF-SHA256 without salt, info of length-prefixed fields."""

    def hkdf(*fields: bytes) -> bytes:
        info = b"".join(len(field).to_bytes(4, "big") + field for field in fields)
        return HKDF(hashes.SHA256(), 32, b"", info).derive(key.expose())

    key_id = hkdf(b"FLSA/1/masking/key-id")[:8].hex()
    assert key_id == key.key_id
    return hkdf(f"FLSA/1/masking/{use}".encode(), key_id.encode(), scope.encode(), domain.encode())


def pseudonym(text: bytes, key: bytes, length: int = 26) -> str:
    return base64.b32encode(hmac.new(key, text, hashlib.sha256).digest()).decode().lower()[:length]


# --- pseudonyms -------------------------------------------------------------------------------------------------------


def test_a_pseudonym_is_the_hmac_of_the_typed_value() -> None:
    key = derived(KEY, "pseudonym", "project", "visits/a")
    found = one("class: identifier, do: pseudonym", ["p1", "5.0", "5", "007", None, "p1", " p1 "])
    p1, five = pseudonym(b"tp1", key), pseudonym(b"n5", key)
    assert found == [p1, five, five, pseudonym(b"t007", key), None, p1, p1]


@pytest.mark.parametrize("length", [26, 31, 51, 52])
def test_pseudonyms_of_every_length(length: int) -> None:
    key = derived(KEY, "pseudonym", "project", "visits/a")
    wanted = (base64.b32encode(hmac.new(key, b"tx", hashlib.sha256).digest()).decode().lower())[:length]
    assert one(f"class: identifier, do: pseudonym, length: {length}", ["x"]) == [wanted]
    assert len(wanted) == length


def test_untyped_pseudonyms_tell_texts_apart() -> None:
    found = one("class: identifier, do: pseudonym, typed: false", ["250.1", "250.10"])
    key = derived(KEY, "pseudonym", "project", "visits/a")
    assert found == [pseudonym(b"t250.1", key), pseudonym(b"t250.10", key)]


def test_domains_scopes_and_keys_are_apart() -> None:
    """Only a name shares: two columns, two scopes, two keys have nothing in common."""
    table = texts({"a": ["x"], "b": ["x"]})

    def found(rule: str, key: MaskingKey = KEY) -> list[str]:
        columns = dict.fromkeys(("a", "b"), f"class: identifier, {rule}")
        return [str(column.to_pylist()[0]) for column in masked(columns, table, key=key).table.columns]

    own = found("do: pseudonym")
    shared = found("do: pseudonym, domain: people")
    scoped = found("do: pseudonym, domain: people, scope: other")
    foreign = found("do: pseudonym, domain: people", OTHER_KEY)
    assert own[0] != own[1]
    assert shared[0] == shared[1] == pseudonym(b"tx", derived(KEY, "pseudonym", "project", "people"))
    assert len({*own, *shared, *scoped, *foreign}) == 5


def test_what_is_equal_for_a_pseudonym() -> None:
    composed, decomposed = "Jos\u00e9", "Jose\u0301"
    found = one("class: identifier, do: pseudonym", [composed, decomposed, "Jose"])
    assert found[0] == found[1] != found[2]


@pytest.mark.parametrize(
    ("left", "right", "same"),
    [
        ("5", "5.0", True),
        ("5.10", "5.1", True),
        ("-0", "0", True),
        ("-0.00", "0", True),
        ("1e+22", "10000000000000000000000", True),
        ("1e-07", "0.0000001", True),
        ("12345678901234567890", "12345678901234567891", False),
        ("0.1000000000000000055511151231257827", "0.1", False),
        ("007", "7", False),
        ("+5", "5", False),
        ("1E5", "100000", False),
        ("5.", "5", False),
        ("n5", "5", False),
    ],
)
def test_typed_values(left: str, right: str, same: bool) -> None:
    assert (typed(left) == typed(right)) is same


# --- surrogates -------------------------------------------------------------------------------------------------------


def test_surrogates_are_of_one_output_only() -> None:
    rule, table = {"a": "class: identifier, do: surrogate"}, texts({"a": ["x", "y", "x", None, "5", "5.0"]})
    first, second = (masked(rule, table, key=None, seed=seed).table.column("a").to_pylist() for seed in (1, 2))
    assert first[0] == first[2]
    assert first[4] == first[5]
    assert first[3] is None
    assert len({*first, *second} - {None}) == 6
    assert all(len(str(value)) == 26 for value in first if value)


# --- format-preserving encryption -------------------------------------------------------------------------------------

AES_128 = "2B7E151628AED2A6ABF7158809CF4F3C"
AES_192 = AES_128 + "EF4359D8D580AA4F"
AES_256 = AES_192 + "7F036D6F04FC6A94"
BASE36 = "0123456789abcdefghijklmnopqrstuvwxyz"
NIST = [
    (AES_128, BASE36[:10], "", "0123456789", "2433477484"),
    (AES_128, BASE36[:10], "9876543210", "0123456789", "6124200773"),
    (AES_128, BASE36, "7777pqrs777", "0123456789abcdefghi", "a9tv40mll9kdu509eum"),
    (AES_192, BASE36[:10], "", "0123456789", "2830668132"),
    (AES_192, BASE36[:10], "9876543210", "0123456789", "2496655549"),
    (AES_192, BASE36, "7777pqrs777", "0123456789abcdefghi", "xbj3kv35jrawxv32ysr"),
    (AES_256, BASE36[:10], "", "0123456789", "6657667009"),
    (AES_256, BASE36[:10], "9876543210", "0123456789", "1001623463"),
    (AES_256, BASE36, "7777pqrs777", "0123456789abcdefghi", "xs8a0azh2avyalyzuwd"),
]
"""NIST, "FF1samples", samples 1 to 9: key, alphabet, tweak (as text), plaintext, ciphertext."""


@pytest.mark.parametrize(("key", "alphabet", "tweak", "plain", "cipher"), NIST)
def test_ff1_of_sp_800_38g(key: str, alphabet: str, tweak: str, plain: str, cipher: str) -> None:
    ff1 = FormatCipher(Fpe(alphabet, "", tweak, "", None), bytes.fromhex(key))
    assert ff1.encrypt(plain) == cipher
    assert ff1.decrypt(cipher) == plain


def test_the_engine_encrypts_under_the_columns_own_key() -> None:
    found = one('class: identifier, do: fpe, alphabet: digits, separators: "-", tweak: ssn/v1', ["123-45-6789", None])
    cipher = FF1(derived(KEY, "fpe", "project", "visits/a"), alphabet="0123456789").encrypt(
        "123456789", tweak=b"ssn/v1"
    )
    assert found == [f"{cipher[:3]}-{cipher[3:5]}-{cipher[5:]}", None]


@steady
@given(st.text("0123456789-/", min_size=0, max_size=30))
def test_encryption_is_undone_and_keeps_the_form(text: str) -> None:
    ff1 = FormatCipher(Fpe("0123456789", "-/", "t", "", None), bytes(32))
    digits = [character for character in text if character not in "-/"]
    if len(digits) < 6:
        with pytest.raises(BadText) as caught:
            ff1.encrypt(text)
        assert caught.value.code == "fpe_domain"
        return
    hidden = ff1.encrypt(text)
    assert ff1.decrypt(hidden) == text
    assert [place for place, c in enumerate(hidden) if c in "-/"] == [p for p, c in enumerate(text) if c in "-/"]


def test_fpe_refuses_small_domains_and_other_characters_by_place() -> None:
    """10^5 forms could be tried out; a letter between digits is no digit."""
    with pytest.raises(BadCellsError) as caught:
        one("class: identifier, do: fpe, alphabet: digits", ["123456", "12345", "1234567", "12A4567", "12345"])
    found = [(problem.row, problem.code) for problem in caught.value.problems]
    assert found == [(2, "fpe_domain"), (4, "fpe_character"), (5, "fpe_domain")]
    assert "12A4567" not in str(caught.value)
    assert "12345" not in str(caught.value)


# --- texts ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rule", "given_", "wanted"),
    [
        ("do: keep", [" a ", "?", "", "NA", None, "b"], ["a", None, None, None, None, "b"]),
        ("do: truncate, keep: 3", ["12345", "12", "ab c", "NAM"], ["123", "12", "ab", "NAM"]),
        ("do: truncate, keep: 2", ["NAME", "-- x"], [None, "--"]),
        ("do: mask, keep_last: 2", ["0170123", "12", "1"], ["*****23", "**", "*"]),
        ('do: mask, keep_first: 1, keep_last: 1, char: "#"', ["abcd", "abc", "ab"], ["a##d", "a#c", "##"]),
        ("do: mask", ["abc", "äöü"], ["***", "***"]),
        ("do: redact, patterns: [all]", ["x", None], ["[redacted]", None]),
        ("do: suppress, values: [x, 5]", ["x", "5.0", "y", "X"], [None, None, "y", "X"]),
        ("do: suppress, below: 10, above: 20", ["9", "10", "20", "20.5", "x"], [None, "10", "20", None, "x"]),
        ("do: suppress, rarer_than: 2", ["a", "b", "a", None], ["a", None, "a", None]),
    ],
)
def test_steps_on_texts(rule: str, given_: Sequence[str | None], wanted: Sequence[str | None]) -> None:
    assert one(f"class: feature, {rule}", given_) == wanted


@pytest.mark.parametrize(
    ("pattern", "text", "wanted"),
    [
        ("email", "to jo.doe+x@mail.example.org, ok", "to [email], ok"),
        ("email", "müller@exämple.de", "[email]"),
        ("email", "at 5 @ home", "at 5 @ home"),
        ("phone", "ring +49 (170) 123-4567 now", "ring [phone] now"),
        ("phone", "0170/1234567", "[phone]"),
        ("phone", "room 12, bed 3", "room 12, bed 3"),
        ("iban", "DE44 5001 0517 5407 3249 31", "[iban]"),
        ("iban", "gb29nwbk60161331926819", "[iban]"),
        ("iban", "ward DE4", "ward DE4"),
        ("date", "born 1984-03-05, seen 3.4.2024 and 04/05/24", "born [date], seen [date] and [date]"),
        ("date", "on 3 March 2024, March 3, 2024 and 3. Oktober 2024", "on [date], [date] and [date]"),
        ("date", "2024-01-02T10:30:00 admitted", "[date] admitted"),
        ("date", "dose 3.5 mg", "dose 3.5 mg"),
    ],
)
def test_patterns(pattern: str, text: str, wanted: str) -> None:
    assert one(f"class: free_text, do: redact, patterns: [{pattern}]", [text]) == [wanted]


def test_patterns_take_linear_time() -> None:
    """What would send a backtracking matcher away for good."""
    hostile = ["1 " * 20_000 + "x", "a" * 50_000 + "@", "DE44" + " 5001" * 10_000, "1-" * 30_000]
    found = one("class: free_text, do: redact, patterns: [email, phone, iban, date]", hostile)
    assert len(found) == 4


# --- dates ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rule", "given_", "wanted"),
    [
        ("to: year", ["1984-03-05", "1984-3-5", "1984-03-05T23:59:59Z", None], ["1984", "1984", "1984", None]),
        ("to: decade", ["1984-03-05", "1990-01-01"], ["1980", "1990"]),
        ("to: month", ["1984-12-05"], ["1984-12"]),
        ("to: day", ["1984-12-05 10:00"], ["1984-12-05"]),
        ("to: quarter", [f"2024-{m:02}-01" for m in (1, 3, 4, 12)], ["2024-Q1", "2024-Q1", "2024-Q2", "2024-Q4"]),
        ("to: day, order: dmy", ["5.3.1984", "05/03/1984"], ["1984-03-05"] * 2),
        ("to: day, order: mdy", ["3/5/1984"], ["1984-03-05"]),
    ],
)
def test_dates(rule: str, given_: Sequence[str | None], wanted: Sequence[str | None]) -> None:
    assert one(f"class: quasi, do: generalise, {rule}", given_) == wanted


@pytest.mark.parametrize("text", ["05.03.1984", "1984-13-01", "1984-02-30", "84-03-05", "soon", "1984", "1984-03-05x"])
def test_what_is_no_date_is_refused(text: str) -> None:
    with pytest.raises(BadCellsError) as caught:
        one("class: quasi, do: generalise, to: year", ["1984-03-05", text])
    assert [(problem.row, problem.code) for problem in caught.value.problems] == [(2, "not_a_date")]


@steady
@given(st.dates())
def test_levels_of_dates_only_join(date: datetime.date) -> None:
    again = parse_date(date.isoformat(), "ymd")
    assert again == date
    year = coarse_date(date, "year")
    assert coarse_date(date, "month").startswith(year)
    assert coarse_date(date, "quarter").startswith(year)
    assert int(coarse_date(date, "decade")) == int(year) - int(year) % 10


# --- hierarchies ------------------------------------------------------------------------------------------------------


def test_hierarchies() -> None:
    def beside(name: str) -> bytes:
        assert name == "job.csv"
        return "nurse,care,any\ndoctor,care,any\nJosé,x,any\n".encode()

    rule = "class: quasi, do: hierarchy, file: job.csv, level: "
    assert one(rule + "1", ["nurse", " doctor", "Jose\u0301", None], beside) == ["care", "care", "x", None]
    assert one(rule + "2", ["nurse"], beside) == ["any"]
    assert one(rule + "1, other: else", ["nurse", "cook"], beside) == ["care", "else"]
    with pytest.raises(BadCellsError) as caught:
        one(rule + "1", ["nurse", "cook", "cook"], beside)
    assert [(p.row, p.code) for p in caught.value.problems] == [(2, "not_in_hierarchy"), (3, "not_in_hierarchy")]


# --- numbers ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rule", "given_", "wanted"),
    [
        ("do: clamp, min: 30, max: 70", ["29", "30", "70.5", "1e3", None], ["30", "30", "70", "70", None]),
        ("do: clamp, max: 70", ["-1e300", "71"], ["-1e+300", "70"]),
        ("do: generalise, width: 10", ["29.999999999999996", "30", "-1", "-10", "0"], ["20", "30", "-10", "-10", "0"]),
        ("do: generalise, width: 10, origin: 5", ["4", "5", "14.5", "15"], ["-5", "5", "5", "15"]),
        ("do: generalise, width: 0.1", ["0.3", "0.29", "0.35", "0.7"], ["0.3", "0.2", "0.3", "0.7"]),
        ("do: generalise, width: 10, show: middle", ["31"], ["35"]),
        ("do: generalise, width: 10, show: range", ["31", "-3"], ["[30, 40)", "[-10, 0)"]),
        ("do: generalise, width: 0.5, show: range", ["0.75"], ["[0.5, 1)"]),
        ("do: [{generalise: {width: 10}}, {clamp: {min: 30, max: 70}}]", ["12", "34", "99"], ["30", "30", "70"]),
        ("do: microaggregate, k: 2", ["1", "2", "10", "11", "12"], ["1.5", "1.5", "11", "11", "11"]),
        ("do: microaggregate, k: 2", ["4", "4", "4", "9", None], ["5.25", "5.25", "5.25", "5.25", None]),
        ("do: microaggregate, k: 2", ["4", "9", "4", "4", "9.0"], ["4", "9", "4", "4", "9"]),
    ],
)
def test_steps_on_numbers(rule: str, given_: Sequence[str | None], wanted: Sequence[str | None]) -> None:
    assert one(f"class: feature, {rule}", given_) == wanted


@pytest.mark.parametrize("rule", ["do: clamp, min: 1", "do: generalise, width: 10", "do: microaggregate, k: 2"])
def test_texts_among_numbers_are_named_by_row(rule: str) -> None:
    with pytest.raises(BadCellsError) as caught:
        one(f"class: feature, {rule}", ["1", "two", "3", "inf", None, "4", "nan"])
    assert [(p.row, p.code) for p in caught.value.problems] == [(r, "not_a_number") for r in (2, 4, 7)]
    assert "two" not in str(caught.value)


def test_a_suppress_before_takes_what_is_no_number() -> None:
    found = one("class: feature, do: [{suppress: {values: [unknown]}}, {clamp: {max: 5}}]", ["3", "unknown", "9"])
    assert found == ["3", None, "5"]


@steady
@given(st.lists(st.integers(-50, 50), min_size=3, max_size=60), st.integers(2, 6))
def test_groups_have_k_members_and_keep_sum_and_order(values: list[int], k: int) -> None:
    if len(values) < k:
        return
    distinct, counts = np.unique(np.array(values, dtype=np.float64), return_counts=True)
    means = microaggregated(distinct, counts, k)
    per_mean: dict[float, int] = {}
    for mean, count in zip(means.tolist(), counts.tolist(), strict=True):
        per_mean[mean] = per_mean.get(mean, 0) + count
    assert min(per_mean.values()) >= k
    assert list(means) == sorted(means)
    assert math.isclose(float(means @ counts), sum(values), abs_tol=1e-9)


def test_too_few_numbers_for_one_group_are_refused() -> None:
    with pytest.raises(BadCellsError) as caught:
        one("class: feature, do: microaggregate, k: 4", ["1", "2", "3", None])
    assert {(p.row, p.code) for p in caught.value.problems} == {(row, "group_too_small") for row in (1, 2, 3)}


# --- keys -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("value", "code"), [(b"x" * 31, "masking_key_short"), (b"ab" * 32, "masking_key_weak")])
def test_keys_that_are_none(value: bytes, code: str) -> None:
    from fedveil_common.errors import ConfigError

    with pytest.raises(ConfigError) as caught:
        MaskingKey(value)
    assert caught.value.code == code
    assert "ab" * 8 not in str(caught.value)
    assert "x" * 8 not in str(caught.value)


def test_a_key_says_nothing_but_its_id() -> None:
    assert "redacted" in repr(KEY)
    assert KEY.key_id != OTHER_KEY.key_id
    assert len(KEY.key_id) == 16
    uses = {KEY.derive(*fields) for fields in (("a", "b", "c"), ("a", "bc", ""), ("ab", "", "c"), ("a", "b", "d"))}
    assert len(uses) == 4

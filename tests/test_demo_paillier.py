"""`fedveil demo --protection paillier --json`, once, as typed: the claims of its report, computed here from its copies.

The bounds on correlations are those of `test_demo`.
"""

import math

import numpy as np
import pytest
from fedveil_cli import demo as demos
from fedveil_cli import demo_record, demo_split
from fedveil_cli.demo_coordinator import Copy
from fedveil_cli.simulating import play_in_memory
from fedveil_cli.world import SystemClock
from fedveil_common import layout
from fedveil_common import plan as plans
from fedveil_common.messages import Purpose
from fedveil_common.paillier.modulus_record import adopt_rsa_2048
from numpy.typing import NDArray
from test_demo import HOSPITALS, Shown, play
from test_simulate import check_shape

LIMIT_S = 60.0
NUMBER = 256
"""Bytes of a number mod n."""


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Shown:
    """The demo, run once."""
    return play(tmp_path_factory, "--protection", "paillier", "--noise", "coordinator")


def copies(demo: Shown) -> list[Copy]:
    """Of every upload in the training: the run that comes first and lasts longest."""
    found = [Copy.of(path.name) for path in demo.kept.glob("*.*-*.*")]
    training = max({one.run_id for one in found}, key=lambda run: max(one.round for one in found if one.run_id == run))
    return [one for one in found if one.run_id == training]


def test_keys_types_and_who_holds_the_keys(demo: Shown) -> None:
    check_shape(demo.value, "mtls", "paillier")
    assert [key["id"] for key in demo.value["keys"]] == list(demos.KEYS)
    for key, columns in zip(demo.value["keys"], (2, 2, 1), strict=True):  # the private sums count no rows
        assert (set(key["holders"]), key["threshold"], key["bits"], key["columns"]) == (HOSPITALS, 4, 2048, columns)
        assert 0 < key["seconds"] < LIMIT_S
    assert len({key["fingerprint"] for key in demo.value["keys"]}) == 3


def test_encrypted_updates_are_added_with_the_coordinators_noise_under_encryption(demo: Shown) -> None:
    private = demo.value["privacy"]
    assert private["noise"] == "coordinator"
    assert 1.9 < private["epsilon"] <= 2.0
    assert private["steps"] == 8
    assert private["accuracy"] > 0.85


def test_the_model_is_that_of_masked_but_for_rounding(demo: Shown) -> None:
    """Against masked in memory, where nobody was killed."""
    plan = plans.parse_plan(demo_split.plan_text(), "demo_plan.yaml")
    divided = demo_split.split(plan.training.seed)
    tables = {name: demo_split.rows_csv(rows) for name, rows in divided.hospitals.items()}
    played = play_in_memory(plan, plans.canonical(plan), tables, 1, SystemClock())
    federated, pooled, local = demos.compare(plan, tables, demo_split.rows_csv(divided.test), played.model_file)
    value = demo.value
    assert value["accuracy"]["federated"] == pytest.approx(federated.accuracy, abs=2 / len(divided.test))
    assert value["log_loss"]["federated"] == pytest.approx(federated.loss, abs=0.01)
    assert value["accuracy"]["pooled"] == pooled.accuracy
    assert value["accuracy"]["local"] == {name: score.accuracy for name, score in local.items()}


def test_the_killed_hospital_is_missing_once_and_the_others_open_that_sum(demo: Shown) -> None:
    rounds = demo.value["rounds"]
    without = [one for one in rounds if one["dropped"]]
    assert [one["dropped"] for one in without] == [["lakeview"]]
    assert set(without[0]["opened_by"]) == HOSPITALS - {"lakeview"}
    assert 1 < without[0]["number"] < len(rounds)
    assert rounds[-1]["survivors"] == sorted(HOSPITALS)


def test_nothing_was_uploaded_but_ciphertexts_and_partial_decryptions(demo: Shown) -> None:
    """An input is a header, a lift and two ciphertexts; an answer is two numbers of the ciphertexts' size."""
    found = copies(demo)
    sizes = {(bool(one.quorum), (demo.kept / one.name).stat().st_size) for one in found}
    assert sizes == {(False, 7 * NUMBER), (True, 4 * NUMBER)}
    inputs = [one for one in found if not one.quorum]
    told = demo.value["uploads"]
    assert (told["inputs"], told["partial_decryptions"]) == (len(inputs), len(found) - len(inputs))
    assert (told["ciphertexts"], told["input_bytes"]) == (2 * len(inputs), 7 * NUMBER * len(inputs))
    for one in demo.value["rounds"]:
        here = [copy for copy in found if copy.round == one["number"]]
        assert {copy.org_id for copy in here if not copy.quorum} == set(one["survivors"])
        assert {copy.org_id for copy in here if copy.quorum} >= set(one["opened_by"])
        assert len(one["opened_by"]) == 4


def test_the_attack_reads_everything_without_randomness_and_nothing_with_it(demo: Shown) -> None:
    attack = demo.value["attack"]
    assert attack["randomness_found"] == {"protected": False, "unprotected": True}
    for name in ("update_correlation", "record_correlation"):
        assert attack[name]["unprotected"] > 0.9999
        assert abs(attack[name]["protected"]) < 0.75
    assert set(demo_record.SHOWN) < set(attack["record"])
    for name, column in attack["record"].items():
        assert column["unprotected"] == pytest.approx(column["true"], rel=0.02), name


def test_ciphertexts_look_like_numbers_drawn_at_random(demo: Shown) -> None:
    """Neither the upload as it is nor its plaintext part under the factor 1 shows an update of 16 bits in its slots."""
    n = int(adopt_rsa_2048(1).modulus.n)
    data = demo.upload("protected", 0).read_bytes()
    bits = np.unpackbits(np.frombuffer(data, np.uint8))
    assert abs(bits.mean() - 0.5) < 5 * 0.5 / math.sqrt(len(bits))
    body = int.from_bytes(data[3 * NUMBER : 5 * NUMBER], "big")
    assert np.count_nonzero(slots(body // n) >= 2**16) > 0.9 * 85


def slots(plaintext: int) -> NDArray[np.int64]:
    """The 85 slots of 3 bytes."""
    words = np.zeros((85, 8), np.uint8)
    words[:, :3] = np.frombuffer(plaintext.to_bytes(NUMBER, "little")[: 85 * 3], np.uint8).reshape(85, 3)
    return words.view("<i8").reshape(-1)


def test_the_slots_hold_what_one_coordinate_takes() -> None:
    """What the tests above count with."""
    plan = plans.parse_plan(demo_split.plan_text(), "demo_plan.yaml")
    assert 85 < layout.layout_for(plan, Purpose.TRAIN, 0).length <= 2 * 85


def test_it_says_how_long_it_took_and_nothing_is_left(demo: Shown) -> None:
    assert 0 < demo.value["first_round_s"] < demo.value["total_s"]
    assert (demo.processes, demo.files) == ([], [])

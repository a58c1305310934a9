"""Registered data sets behind their masking rules: in training, in the commands, and what is refused."""

import contextlib
import json
import os
import sqlite3
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fedveil_cli import data_sources, organisation_policy, participating
from fedveil_cli.data_sources import opening
from fedveil_cli.house_bindings import HouseBindings
from fedveil_cli.organisation_policy import check_isolation
from fedveil_cli.world import real_world
from fedveil_common import plan as plans
from fedveil_common.errors import ConfigError, FedveilError
from fedveil_common.messages import Purpose
from fedveil_participant.bench import TableBench
from fedveil_participant.data.registration import FileSource, Registration, Rules
from fedveil_participant.events import SpentKey
from fedveil_participant.isolation.levels import Isolation
from fedveil_participant.policy import parse_policy
from fedveil_participant.store import ParticipantStore, journal_key
from fedveil_simulation.ports import SimulatedClock
from pyarrow import csv
from test_data_set_commands import Capture, Home, plan_file
from test_data_set_commands import home as home  # noqa: PLC0414 - a fixture

RULES = """\
version: 1
dataset: d
key_ref: file:masking.key
columns:
  id: {class: identifier, do: pseudonym}
  a: {class: quasi, do: [{clamp: {min: 2, max: 7}}, {generalise: {width: 2, show: middle}}]}
  c: {class: quasi, do: keep}
  note: {class: free_text, do: drop}
  y: {class: sensitive, do: keep}
"""
PRIVATE = (
    (
        "privacy: none",
        "privacy: {unit: record, rows: 40, clip_norm: 1, noise_multiplier: 9, delta: 1.0e-3, "
        "sample_rate: 1.0, max_epsilon: 9}",
    ),
    ("range: [0, 10]", "range: [0, 10], clamp: true"),
    (", weight_cap: 100", ""),
)


def rules(home: Home, text: str = RULES) -> Path:
    path = home.folder / "masking.yaml"
    path.write_text(text)
    key = home.folder / "masking.key"
    key.write_bytes(bytes(range(100, 132)).hex().encode())
    key.chmod(0o600)
    return path


def code_of(call: Any) -> str:
    with pytest.raises(FedveilError) as caught:
        call()
    return caught.value.code


def accepted(store: ParticipantStore, plan: plans.Plan, **options: Any) -> tuple[TableBench, bytes]:
    bench = participating.table_bench({}, store, **options)
    assert isinstance(bench, TableBench)
    return bench, bench.accept(plan)


def test_a_plan_sees_the_masked_table_and_the_version_is_of_the_true_one(home: Home, capsys: Capture) -> None:
    plain = home.json(capsys, "add", "e", "--source", home.table)
    found = home.json(capsys, "add", "d", "--source", home.table, "--rules", rules(home))
    assert len(found["rules_digest"]) == 64
    assert found["version"] == plain["version"]
    plan = plans.parse_plan(plan_file(home.folder).read_bytes(), "p")
    store = home.store()
    bench, version = accepted(store, plan)
    assert version.hex().startswith(found["version"])
    source = bench._accepted(plan, version)
    assert set(source.table.numbers["a"].tolist()) == {3.0, 5.0, 7.0}, "middles of the ranges, none of the true values"
    (note,) = [dict(row.facts) for row in store.trail() if row.kind == "data_masked"]
    assert (note["dataset"], note["rows"], note["rows_left"], note["noise"]) == ("d", "40", "40", "[]")
    assert note["masking"] == found["rules_digest"]
    assert json.loads(note["columns"])["a"] == ["clamp", "generalise"]
    # after a restart the rounds go on from what was masked then, also if key and rules are gone
    (home.folder / "masking.key").unlink()
    again = participating.table_bench({}, store)
    assert isinstance(again, TableBench)
    assert again._accepted(plan, version).table.numbers["a"].tolist() == source.table.numbers["a"].tolist()
    assert code_of(lambda: participating.table_bench({}, store).accept(plan)) == "file_unreadable"
    assert home.json(capsys, "check", "e", "--plan", plan_file(home.folder, ("dataset: d", "dataset: e")))["fulfils"]
    store.close()


def test_a_run_that_goes_on_reads_anew_once_other_rules_are_registered(home: Home, capsys: Capture) -> None:
    plan = plans.parse_plan(plan_file(home.folder).read_bytes(), "p")
    for old, new, before, after in (
        ("width: 2", "width: 5", {3.0, 5.0, 7.0}, {2.5, 7.5}),  # the approval after it is for the rules as they are now
        ("width: 5", "width: 5", {2.5, 7.5}, {2.5, 7.5}),
    ):
        home.json(
            capsys,
            "add",
            "d",
            "--replace",
            "--source",
            home.table,
            "--rules",
            rules(home, RULES.replace("width: 2", old)),
        )
        store = home.store()
        bench, version = accepted(store, plan)
        assert set(bench._accepted(plan, version).table.numbers["a"].tolist()) == before
        store.put_update(SpentKey("d", version, Purpose.TRAIN, b"model"), b"model", [np.ones(3)])
        store.close()
        home.json(
            capsys,
            "add",
            "d",
            "--replace",
            "--source",
            home.table,
            "--rules",
            rules(home, RULES.replace("width: 2", new)),
        )
        store = home.store()
        again = participating.table_bench({}, store)
        assert isinstance(again, TableBench)
        kept = store.shelf.get(plans.plan_hash(plans.canonical(plan)), version)
        assert (kept is None) == (old != new), "with the same rules what was drawn stays as it was drawn"
        assert (store.open_update(SpentKey("d", version, Purpose.TRAIN, b"model")) is None) == (old != new)
        assert set(again._accepted(plan, version).table.numbers["a"].tolist()) == after
        store.close()


def test_other_rules_than_those_that_were_registered_mask_nothing(home: Home, capsys: Capture) -> None:
    path = rules(home)
    home.json(capsys, "add", "d", "--source", home.table, "--rules", path)
    plan = plan_file(home.folder)
    path.write_text(RULES + "# a remark changes nothing\n")
    assert home.json(capsys, "check", "d", "--plan", plan)["fulfils"] is True
    path.write_text(RULES.replace("min: 2", "min: 1"))
    assert home.refused(capsys, "check", "d", "--plan", plan) == (2, "masking_changed")
    for words in (("preview", "d"), ("check", "d"), ("mask", "d", "--out", home.folder / "out.csv")):
        assert home.refused(capsys, *words) == (2, "masking_changed")
    assert not (home.folder / "out.csv").exists()
    store = home.store()
    bench = participating.table_bench({}, store)
    found = plans.parse_plan(plan.read_bytes(), "p")
    assert code_of(lambda: bench.accept(found)) == "masking_changed"
    with pytest.raises(ConfigError) as caught:
        participating._named_once(store, {"d": home.table})
    assert caught.value.code == "dataset_guarded"
    store.close()
    home.json(capsys, "add", "d", "--source", home.table, "--rules", path, "--replace")
    assert home.json(capsys, "check", "d", "--plan", plan)["fulfils"] is True


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("version: 1\n", "bad_masking_rules"),
        (RULES.replace("dataset: d", "dataset: other"), "masking_dataset"),
    ],
)
def test_rules_that_cannot_be_are_not_registered(home: Home, capsys: Capture, text: str, code: str) -> None:
    assert home.refused(capsys, "add", "d", "--source", home.table, "--rules", rules(home, text)) == (2, code)
    assert home.json(capsys, "list") == {"datasets": []}


def test_a_broken_mask_holds_up_its_own_data_set_alone(home: Home, capsys: Capture) -> None:
    home.json(capsys, "add", "d", "--source", home.table, "--rules", rules(home))
    home.json(capsys, "add", "e", "--source", home.table)
    (home.folder / "masking.yaml").unlink()
    store = home.store()
    other = plans.parse_plan(plan_file(home.folder, ("dataset: d", "dataset: e")).read_bytes(), "p")
    accepted(store, other)
    bench = participating.table_bench({}, store)
    assert (
        code_of(lambda: bench.accept(plans.parse_plan(plan_file(home.folder).read_bytes(), "p"))) == "file_unreadable"
    )
    store.close()


MIXING = {
    "microaggregate of a": RULES.replace("{generalise: {width: 2, show: middle}}", "{microaggregate: {k: 4}}"),
    "suppress of c": RULES.replace("c: {class: quasi, do: keep}", "c: {class: quasi, do: suppress, rarer_than: 3}"),
    "noise of a": RULES.replace(
        "{generalise: {width: 2, show: middle}}", "{noise: {discrete_laplace: {scale: 0.1, grid: 1}}}"
    ),
}


@pytest.mark.parametrize("what", MIXING)
def test_what_looks_beyond_a_row_is_refused_where_single_records_are_protected(
    home: Home, capsys: Capture, what: str
) -> None:
    """Adding one record would move what others contribute, and the epsilon that is charged would be too small."""
    home.json(capsys, "add", "d", "--source", home.table, "--rules", rules(home, MIXING[what]))
    exact = plan_file(home.folder)
    assert home.json(capsys, "check", "d", "--plan", exact)["fulfils"] is True
    private = plan_file(home.folder, *PRIVATE)
    code, out, err = home.run(capsys, "check", "d", "--plan", private)
    assert (code, out) == (4, "")
    assert "mask_mixes_rows" in err
    assert what in err
    store = home.store()
    bench = participating.table_bench({}, store)
    assert code_of(lambda: bench.accept(plans.parse_plan(private.read_bytes(), "p"))) == "mask_mixes_rows"
    store.close()
    home.json(capsys, "add", "d", "--source", home.table, "--rules", rules(home), "--replace")
    assert home.json(capsys, "check", "d", "--plan", private)["fulfils"] is True


def test_two_data_sets_share_a_key_of_the_environment(
    home: Home, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, other = rules(home, RULES.replace("file:masking.key", "env:MASKS")), home.folder / "other.yaml"
    other.write_text(path.read_text().replace("dataset: d", "dataset: e"))
    home.json(capsys, "add", "d", "--source", home.table, "--rules", path)
    home.json(capsys, "add", "e", "--source", home.table, "--rules", other)
    monkeypatch.setenv("MASKS", bytes(range(100, 132)).hex())
    store = home.store()
    bench = participating.table_bench({}, store)
    assert "MASKS" not in os.environ
    for name in ("d", "e"):
        bench.accept(plans.parse_plan(plan_file(home.folder, ("dataset: d", f"dataset: {name}")).read_bytes(), "p"))
    store.close()


def test_no_output_takes_the_place_of_what_is_read(home: Home, capsys: Capture) -> None:
    """Nor does it lie in the folder of the table, which would have its rows twice then."""
    text = RULES.replace("c: {class: quasi, do: keep}", "c: {class: quasi, do: hierarchy, file: c.csv, level: 1}")
    (home.folder / "c.csv").write_text("F,x\nM,x\n")
    base, folder = home.folder / "t.db", home.folder / "folder"
    folder.mkdir()
    (folder / "one.csv").write_text(home.table.read_text())
    with contextlib.closing(sqlite3.connect(base)) as connection, connection:
        connection.execute("CREATE TABLE t (id TEXT, a REAL, c TEXT, note TEXT, y INT)")
        connection.execute("INSERT INTO t VALUES ('p1', 3, 'F', 'n', 1)")
    home.json(capsys, "add", "d", "--source", f"sqlite:///{base}", "--table", "t", "--rules", rules(home, text))
    for out in (base, home.folder / "masking.key", home.folder / "c.csv"):
        before = out.read_bytes()
        assert home.refused(capsys, "mask", "d", "--out", out) == (2, "output_refused"), out
        assert home.refused(capsys, "check", "d", "--report", out) == (2, "output_refused"), out
        assert out.read_bytes() == before
    home.json(capsys, "add", "d", "--source", folder, "--rules", rules(home, text), "--replace")
    assert home.refused(capsys, "mask", "d", "--out", folder / "two.csv") == (2, "output_refused")
    assert [one.name for one in folder.iterdir()] == ["one.csv"]
    home.json(capsys, "mask", "d", "--out", home.folder / "two.csv")


def test_an_approval_is_for_the_query_that_was_registered(home: Home, capsys: Capture) -> None:
    """A query is the filter of a database: without its condition other people's rows are read."""
    base, plan = home.folder / "t.db", plans.parse_plan(plan_file(home.folder).read_bytes(), "p")
    with contextlib.closing(sqlite3.connect(base)) as connection, connection:
        connection.execute("CREATE TABLE t (id TEXT, a REAL, c TEXT, y INT, agreed INT)")
        connection.execute("INSERT INTO t VALUES ('p1', 3, 'F', 1, 1)")
    found = []
    for condition in (" WHERE agreed = 1", "", ""):
        query = f"SELECT id, a, c, y FROM t{condition}"
        home.json(capsys, "add", "d", "--source", f"sqlite:///{base}", "--query", query, "--replace")
        store = home.store()
        opened = data_sources.opening(home.home, SimulatedClock())
        found.append(HouseBindings(store.registrations, opened).of(plan).schema)
        store.close()
    assert found[0] != found[1] == found[2]


def test_one_row_more_gives_all_others_new_noise(home: Home, capsys: Capture) -> None:
    """Why noise counts as looking beyond a row: whether a row came shows in what the others contribute."""
    text = RULES.replace("{generalise: {width: 2, show: middle}}", "{noise: {discrete_laplace: {scale: 2, grid: 1}}}")
    home.json(capsys, "add", "d", "--source", home.table, "--rules", rules(home, text))
    plan = plans.parse_plan(plan_file(home.folder, ("range: [0, 10]", "range: [-99, 99]")).read_bytes(), "p")
    store = home.store()
    bench, version = accepted(store, plan)
    before = bench._accepted(plan, version).table.numbers["a"]
    lines = home.table.read_text().splitlines()
    home.table.write_text("\n".join([*lines, lines[1].replace("p0", "p99")]) + "\n")
    bench, version = accepted(store, plan)
    after = bench._accepted(plan, version).table.numbers["a"][: len(before)]
    assert (before != after).sum() > 20
    store.close()


def test_thresholds_hold_for_training_where_the_policy_says_so(home: Home, capsys: Capture) -> None:
    text = RULES + "release: {k: 9, on_fail: refuse}\n"
    home.json(capsys, "add", "d", "--source", home.table, "--rules", rules(home, text))
    plan = plans.parse_plan(plan_file(home.folder).read_bytes(), "p")
    store = home.store()
    accepted(store, plan)
    strict = participating.table_bench({}, store, release=True)
    assert code_of(lambda: strict.accept(plan)) == "release_below_thresholds"
    private = plans.parse_plan(plan_file(home.folder, *PRIVATE).read_bytes(), "p")
    assert code_of(lambda: strict.accept(private)) == "mask_mixes_rows", "a refusal by other rows is about them too"
    accepted(store, private)
    store.close()
    assert home.run(capsys, "check", "d", "--plan", plan_file(home.folder))[0] == 0
    budget = "privacy: {exact_sums: allow, max_epsilon: 4, max_delta: 1.0e-5}\n"
    policy = f"version: 1\n{budget}data: {{d: {{min_rows: 1}}}}\ntraining_release: true\n"
    (home.home / "policy.yaml").write_text(policy)
    code, _, err = home.run(capsys, "check", "d", "--plan", plan_file(home.folder))
    assert (code, "release_below_thresholds" in err) == (4, True), "what a check says holds for the training"


def test_the_commands_take_a_registered_name_with_its_filters(home: Home, capsys: Capture) -> None:
    home.json(capsys, "add", "d", "--source", home.table, "--rules", rules(home), "--where", "c=F")
    home.json(capsys, "add", "e", "--source", home.table)
    shown = home.json(capsys, "preview", "d")
    assert (len(shown["rows"]), shown["rows_masked"], shown["dropped"]) == (5, 20, ["note"])
    assert home.json(capsys, "check", "d")["rows"] == 20
    out = home.folder / "out.csv"
    assert home.json(capsys, "mask", "d", "--out", out)["report"]["rows"] == 20
    masked = csv.read_csv(out)
    assert set(masked["c"].to_pylist()) == {"F"}
    assert not any(one.startswith("p1") and len(one) < 5 for one in masked["id"].to_pylist())
    (home.folder / "ids.txt").write_text("p3\n")
    home.json(capsys, "exclude", "d", "--ids", home.folder / "ids.txt", "--column", "id")
    assert home.json(capsys, "check", "d")["rows"] == 19
    for words, code in (
        (("check", "e"), "rules_missing"),
        (("check", "nobody"), "unknown_dataset"),
        (("check", "d", "--data-key", home.table), "usage"),
        (("check", "d", "--plan", home.table, "--rules", home.folder / "masking.yaml"), "usage"),
        (("mask", "d", "--out", home.table), "output_refused"),
        (("mask", "d", "--out", home.folder / "masking.yaml"), "output_refused"),
    ):
        assert home.refused(capsys, *words) == (2, code), words
    assert home.table.read_text().startswith("a,c,y")


def test_without_a_mask_at_hand_rules_are_never_passed_by(home: Home) -> None:
    """A bench that was built without masks: nothing of such a data set is read."""
    store = home.store()
    registration = Registration("d", FileSource(home.table), Rules(home.folder / "r", bytes(32)))
    bench = TableBench({}, store.data_version_key(), sources={"d": registration})
    plan = plans.parse_plan(plan_file(home.folder).read_bytes(), "p")
    assert code_of(lambda: bench.accept(plan)) == "mask_missing"
    store.close()


def test_a_plan_that_is_read_meanwhile_lends_no_other_plan_its_rows(home: Home, capsys: Capture) -> None:
    """Two threads read the same version for two plans: what was read last may be another plan's at any step."""
    home.json(capsys, "add", "d", "--source", home.table, "--rules", rules(home))
    one = plans.parse_plan(plan_file(home.folder).read_bytes(), "p")
    other = plans.parse_plan(plan_file(home.folder, ("seed: 7", "seed: 8")).read_bytes(), "p")
    store = home.store()
    bench, version = accepted(store, one)
    own = bench._accepted(one, version).positions

    class Meanwhile(tuple[Any, ...]):
        __slots__ = ()

        def __getitem__(self, place: Any) -> Any:
            if place == 0:
                bench.accept(other)
            return super().__getitem__(place)

    bench._loaded = Meanwhile(bench._loaded or ())
    assert bench._accepted(one, version).positions.tolist() == own.tolist()
    store.close()


def test_an_approval_is_bound_to_the_registered_rules(home: Home, capsys: Capture) -> None:
    plan = plans.parse_plan(plan_file(home.folder).read_bytes(), "p")
    found = []
    for text in (RULES, RULES + "# a remark\n", RULES.replace("min: 2", "min: 1"), ""):
        masked = ("--rules", rules(home, text)) if text else ()
        home.json(capsys, "add", "d", "--source", home.table, *masked, "--replace")
        store = home.store()
        found.append(HouseBindings(store.registrations, opening(home.home, store.clock)).of(plan).masking)
        registered = store.added()["d"].rules
        assert found[-1] == (bytes(32) if registered is None else registered.bound)
        store.close()
    assert found[0] == found[1], "what means the same is the same"
    assert len({found[0], found[2], found[3]}) == 3


def another_key(home: Home, first: int = 50) -> None:
    (home.folder / "masking.key").write_bytes(bytes(range(first, first + 32)).hex().encode())


def test_an_approval_is_for_the_key_that_masks(home: Home, capsys: Capture) -> None:
    """Another key means other pseudonyms and other noise, and whoever has it can undo them."""
    plan, path = plans.parse_plan(plan_file(home.folder).read_bytes(), "p"), rules(home)
    found, version = [], b""
    for _ in range(2):
        registered = home.json(capsys, "add", "d", "--source", home.table, "--rules", path, "--replace")
        assert len(registered["masking_key"]) == 16
        store = home.store()
        if found:
            kept = store.shelf.get(plans.plan_hash(plans.canonical(plan)), version)
            assert kept is None, "what was masked under the key before is read anew"
        found.append(HouseBindings(store.registrations, opening(home.home, store.clock)).of(plan).masking)
        _, version = accepted(store, plan)
        another_key(home, 50 + len(found))
        assert code_of(lambda store=store: accepted(store, plan)) == "masking_key_changed"  # type: ignore[misc]
        assert store.shelf.get(plans.plan_hash(plans.canonical(plan)), version) is not None, "an open run goes on"
        store.close()
        assert home.refused(capsys, "mask", "d", "--out", home.folder / "out.csv") == (2, "masking_key_changed")
    assert found[0] != found[1]


def test_no_start_with_rules_that_the_participant_could_rewrite(
    home: Home, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with the policy, where that names approvers; here the policy itself is taken to be out of reach."""
    home.json(capsys, "add", "d", "--source", home.table, "--rules", rules(home))
    text = "version: 1\nprivacy: {exact_sums: allow, max_epsilon: 4, max_delta: 1.0e-5}\ndata: {d: {min_rows: 1}}\n"
    (home.home / "policy.yaml").write_text(text + "approvers: [{user: alice}]\n")
    monkeypatch.setattr(organisation_policy, "check_unwritable", lambda *given: None)
    monkeypatch.setattr(participating, "_journal_key", lambda *given: journal_key(home.home, None))
    world = real_world()

    def start() -> None:
        participating.participate(home.home, {}, frozenset(), None, True, world, "test", lambda kind, facts: None)

    assert code_of(start) == "rules_writable"


def test_a_key_that_was_not_at_hand_is_fixed_by_the_first_start(home: Home, capsys: Capture) -> None:
    plan, path = plans.parse_plan(plan_file(home.folder).read_bytes(), "p"), rules(home)
    (home.folder / "masking.key").rename(home.folder / "elsewhere")
    assert home.json(capsys, "add", "d", "--source", home.table, "--rules", path)["masking_key"] == ""
    (home.folder / "elsewhere").rename(home.folder / "masking.key")
    store = home.store()
    bindings = HouseBindings(store.registrations, opening(home.home, store.clock))
    before = bindings.of(plan).masking
    accepted(store, plan)
    pinned = bindings.of(plan).masking
    assert pinned != before, "what was approved without knowing the key is not for it"
    another_key(home)
    assert code_of(lambda: accepted(store, plan)) == "masking_key_changed"
    assert bindings.of(plan).masking == pinned
    assert [row.kind for row in store.trail()].count("masking_key_pinned") == 1
    store.close()


def test_a_policy_reaches_the_bench_and_the_isolation_of_trainers(home: Home, capsys: Capture) -> None:
    text = "version: 1\nprivacy: {exact_sums: allow, max_epsilon: 4, max_delta: 1.0e-5}\ndata: {d: {min_rows: 1}}\n"
    plain = parse_policy(text.encode(), "policy.yaml")
    strict = parse_policy((text + "training_release: true\nisolation: bwrap\n").encode(), "policy.yaml")
    home.json(
        capsys, "add", "d", "--source", home.table, "--rules", rules(home, RULES + "release: {k: 9, on_fail: refuse}\n")
    )
    plan = plans.parse_plan(plan_file(home.folder).read_bytes(), "p")
    store = home.store()
    for policy in (None, plain):
        participating._under(policy, participating.table_bench)({}, store).accept(plan)
    bench = participating._under(strict, participating.table_bench)({}, store)
    assert code_of(lambda: bench.accept(plan)) == "release_below_thresholds"
    store.close()
    for policy, level, refused in (
        (None, Isolation.NONE, False),
        (plain, Isolation.LANDLOCK, False),
        (plain, Isolation.BWRAP, False),
        (plain, Isolation.NONE, True),
        (strict, Isolation.LANDLOCK, True),
        (strict, Isolation.BWRAP, False),
    ):
        if refused:
            assert (
                code_of(lambda level=level, policy=policy: check_isolation(policy, level)) == "isolation_below_policy"
            )  # type: ignore[misc]
        else:
            check_isolation(policy, level)

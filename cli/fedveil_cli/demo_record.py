"""The record attack of the demo: what one upload says about the single record it was trained on.

A federation of three in memory (the production machines and wire bytes): one member holds a single record and trains
one step on it. The same code reads the upload that the coordinator received and the unprotected form of it.
"""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from fedveil_common import layout
from fedveil_common import plan as plans
from fedveil_common.ids import OrgId, RunId
from fedveil_common.initial import initial_model
from fedveil_common.messages import Purpose
from fedveil_common.modelfile import read_model
from fedveil_common.plan import Plan
from fedveil_participant import update as updates
from fedveil_participant.data.prepare import prepare
from fedveil_simulation.charter import make_charter
from fedveil_simulation.cluster import Cluster

from fedveil_cli import demo_attack, scoring

RUN = RunId("record")
SOLO, OTHERS = OrgId("solo"), (OrgId("others-1"), OrgId("others-2"))


def attack_record(plan: Plan, files: Mapping[str, bytes], seed: int) -> tuple[float, float]:
    """(protected, unprotected) correlation of the record read from the upload with the record itself (standardised)."""
    small = one_step(plan)
    canonical = plans.canonical(small)
    names = sorted(files)
    header, *rows = files[names[0]].decode().splitlines()
    table = training_row(small, header, rows)
    data = {SOLO: table, OTHERS[0]: files[names[1]], OTHERS[1]: files[names[2]]}
    cluster = Cluster(
        make_charter([*data], seed), seed, {org: {plan.data.dataset: rows} for org, rows in data.items()}, canonical
    )
    for org in data:
        cluster.start_member(org)
    cluster.settle()
    cluster.start_run(RUN, canonical)
    cluster.play(lambda: cluster.ended(RUN))
    stored = read_model(cluster.members[SOLO].memory.ends[RUN][2])
    shape = layout.layout_for(small, Purpose.TRAIN, 0)
    upload = next(data for org, _, data in cluster.uploads if org == SOLO and len(data) == 4 * shape.length)
    source = scoring.source_of(table, "solo.csv", small)
    blocks = updates.contribution(small, Purpose.TRAIN, 0, source, initial_model(small), stored.standardisation)
    plain = updates.encode(shape, blocks, bytes(32), small.protection.value_bits).ring.astype("<u4").tobytes()
    record = prepare(small, source, stored.standardisation).train.inputs[0]
    return tuple(  # type: ignore[return-value]
        float(np.corrcoef(demo_attack.read_record(data, shape), record)[0, 1]) for data in (upload, plain)
    )


def one_step(plan: Plan) -> Plan:
    """The demo's plan, but one step on one record, sent at full weight and fine resolution."""
    return plans.with_seed(
        replace(
            plan,
            data=replace(plan.data, min_rows=1),
            model=replace(plan.model, l2=0.0),
            cohort=replace(plan.cohort, min_participants=3),
            training=replace(plan.training, rounds=1, local_epochs=1, batch_size=1, weight_cap=1),
        ),
        plan.training.seed,
    )


def training_row(plan: Plan, header: str, rows: list[str]) -> bytes:
    """A table of the first row that the holdout rule leaves for training."""
    from fedveil_participant.data import holdout

    for row in rows:
        table = f"{header}\n{row}\n".encode()
        source = scoring.source_of(table, "solo.csv", plan)
        if not holdout.held_out(source.positions, plan.evaluation.holdout).any():
            return table
    raise ValueError("every row is held out")

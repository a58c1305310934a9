"""What a participant still does once its organisation said no, or holds its inputs back. Pure, a part of `round`.

Promise: a withdrawal takes effect before the next input. Before its header a participant sits the attempt out, and
whatever it made for it is erased; after the header and before its vote it does not vote; after the vote the sum may be
certified without it, so the reveal goes on (A9). A hold (pause, hours) ends no attempt whose header is out: what was
given stays given. What changed while no process ran counts like a withdrawal. Source: docs/consent.md.
"""

from dataclasses import replace

from fedveil_common.errors import PolicyRefusal
from fedveil_common.ids import RunId
from fedveil_common.messages import Manifest, Refusal

from fedveil_participant import within_policy
from fedveil_participant.events import Action, Note, Send
from fedveil_participant.stages import (
    Acked,
    Advertised,
    Announced,
    BeforeVote,
    Decrypting,
    Encoding,
    Encrypting,
    Preparing,
    Revealed,
    Shared,
    Voted,
)
from fedveil_participant.state import State, Step, close

LEAVING = "leaving"
"""Why no input is made in a new attempt while the open one is finished."""

BeforeHeader = Preparing | Advertised | Shared | Acked | Encoding | Announced | Encrypting
"""The stages in which no commitment to an input is out."""

Admitted = Advertised | Shared | Acked | Encoding | Announced | Encrypting
"""Of these, those that an admission was written for: `Preparing` asks for one before its advert."""


def hold(state: State, code: str) -> Step:
    """No input from now on, in any run; "" lifts it. While leaving, the open attempt goes on to its end."""
    state = replace(state, held=code)
    if code and code != LEAVING and isinstance(state.stage, BeforeHeader):
        return _sit_out(state, code)
    return state, ()


def change(state: State, run_id: RunId, code: str) -> Step:
    """No input from now on in `run_id`, and no vote; "" lifts it."""
    closed = {run: why for run, why in state.closed.items() if run != run_id}
    state = replace(state, closed=closed | {run_id: code} if code else closed)
    stage = state.stage
    if code and isinstance(stage, BeforeVote) and stage.frame.key.run_id == run_id:
        return _sit_out(state, code)
    return state, ()


def resume(state: State, refused: str) -> Step | None:
    """After a restart: an attempt whose header is not out is sat out if consent (`refused`) or the policy, as they are
    now, would not let it begin; None if they would, and where none is open.
    """
    stage = state.stage
    if not isinstance(stage, BeforeHeader):
        return None
    code, text = refused, f"round {stage.frame.key.round} is sat out: {refused}"
    if not code:
        code, text = _outside(state, stage.frame.manifest)
    if not code:
        return None
    return close(state, "sat_out", (Send(Refusal(stage.frame.key, code)), Note(code, text)))


def too_late_for(state: State, run_id: RunId) -> int | None:
    """The round of `run_id` whose sum this participant has voted for and that may still open; None if there is none."""
    match state.stage:
        case Voted() | Revealed() | Decrypting() as stage if stage.frame.key.run_id == run_id:
            return stage.frame.key.round
    return None


def refusal_of(state: State, manifest: Manifest) -> tuple[Action, ...]:
    """What is answered to a manifest that consent, a hold or the policy does not let through; nothing if they do."""
    code = state.closed.get(manifest.key.run_id) or state.held
    text = f"round {manifest.key.round} is sat out: {code}"
    if not code:
        code, text = _outside(state, manifest)
    return (Send(Refusal(manifest.key, code)), Note(code, text)) if code else ()


def _outside(state: State, manifest: Manifest) -> tuple[str, str]:
    """Why the policy does not let a manifest through, as a code and in words; empty if it does."""
    try:
        within_policy.manifest_within_policy(manifest, state.limits, state.me)
    except PolicyRefusal as error:
        return error.code, error.what
    return "", ""


def _sit_out(state: State, code: str) -> Step:
    stage = state.stage
    assert isinstance(stage, BeforeVote), "nothing was voted for"
    key = stage.frame.key
    note = Note(code, f"round {key.round} is sat out: {code}")
    return close(state, "sat_out", (Send(Refusal(key, code)), note))

"""What people bring as it is: estimators of scikit-learn, modules of PyTorch, clients of Flower.

scikit-learn is the real one. The real torch is in `make torch-check`, the real flwr in `make flower-check`, which CI
runs; here stands what an adapter does with a client whatever library is around it.
"""

import hashlib
import pathlib
import textwrap
from dataclasses import replace

import numpy as np
import pytest
from confinements import best
from fedveil_common import initial
from fedveil_common.errors import ConfigError, LocalRefusal
from fedveil_common.plan import Plan, parse_plan
from fedveil_participant.data.prepare import Rows
from fedveil_participant.training.own_trainer import OwnTrainer
from fedveil_participant.training.trainer_config import read_config
from numpy.typing import NDArray
from sklearn.linear_model import LinearRegression, LogisticRegression
from test_own_trainers import LookedAt

ROOT = pathlib.Path(__file__).parent.parent
SKLEARN, FLOWER = ROOT / "examples" / "sklearn_trainer", ROOT / "examples" / "flower_trainer"
TEXT = (SKLEARN / "plan.yaml").read_text()


def plan_of(*changes: tuple[str, str]) -> Plan:
    text = TEXT
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    return parse_plan(text.encode(), "plan.yaml")


PLAN = plan_of()
FLOAT = plan_of(
    ("{column: ill, type: binary}", "{column: ill, type: float, range: [0, 1]}"),
    ("[loss, accuracy, auc]", "[loss]"),
)
CLASSES = plan_of(
    ("{column: ill, type: binary}", "{column: ill, type: category, values: [a, b, c]}"),
    ("[loss, accuracy, auc]", "[loss, accuracy]"),
    ("parameters: 4}", "parameters: 12}"),
)


def rows(kind: str = "binary", count: int = 60) -> Rows:
    draw = np.random.default_rng(8)
    inputs = draw.uniform(-1, 1, (count, 3))
    score = inputs @ np.array([2.0, -1.0, 0.5]) + 0.2
    target = {
        "binary": (score > 0).astype(float),
        "float": np.clip(score / 4, -1, 1),
        "category": np.digitize(score, [-0.7, 0.7]).astype(float),
    }
    return Rows(inputs, target[kind])


class Brought:
    """Code in a folder, and its description."""

    def __init__(self, folder: pathlib.Path, code: str, description: str) -> None:
        (folder / "code").mkdir()
        (folder / "code" / "own.py").write_text(textwrap.dedent(code))
        (folder / "trainer.toml").write_text('code = "code"\n' + textwrap.dedent(description))
        self.log = bytearray()
        config = read_config("risk", folder / "trainer.toml")
        self.trainer = OwnTrainer(config, best(), lambda found: None, LookedAt(), self.log.extend)

    def update(self, plan: Plan, data: Rows, model: NDArray[np.float32] | None = None) -> NDArray[np.float64]:
        given = initial.initial_model(plan) if model is None else model
        return self.trainer.update(plan, given, data)

    def refused(self, plan: Plan, data: Rows) -> str:
        with pytest.raises(LocalRefusal) as caught:
            self.update(plan, data)
        return caught.value.code


MODEL = np.array([0.5, -0.25, 0.125, 0.75], dtype=np.float32)


def in_order(plan: Plan, model: NDArray[np.float32], count: int) -> NDArray[np.intp]:
    """The rows of all passes, in the order in which the adapter takes them."""
    digest = hashlib.sha256(str(plan.training.seed).encode() + model.tobytes()).digest()
    draw = np.random.default_rng(int.from_bytes(digest[:8], "big"))
    return np.concatenate([draw.permutation(count) for _ in range(plan.training.local_epochs)])


def by_hand(plan: Plan, model: NDArray[np.float32], data: Rows, rate: float) -> NDArray[np.float64]:
    """Stochastic gradient descent without a penalty, one row after the other: log-loss, or half the squared error."""
    weights, bias = model[:-1].astype(float), float(model[-1])
    for row in in_order(plan, model, len(data.target)):
        value = float(data.inputs[row] @ weights + bias)
        given = value if plan is FLOAT else 1 / (1 + np.exp(-value))
        slope = given - data.target[row]
        weights, bias = weights - rate * slope * data.inputs[row], bias - rate * slope
    return np.append(weights, bias) - model


# --- scikit-learn -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["binary", "float"])
def test_an_estimator_with_partial_fit_goes_on_from_the_model(tmp_path: pathlib.Path, kind: str) -> None:
    """Against the same descent by hand: nothing is left of the call that makes the estimator's attributes."""
    plan, data = (PLAN, rows()) if kind == "binary" else (FLOAT, rows("float"))
    name = "SGDClassifier(loss='log_loss'," if kind == "binary" else "SGDRegressor(loss='squared_error',"
    code = f"""
    from sklearn import linear_model
    def make():
        return linear_model.{name} penalty=None, learning_rate="constant", eta0=0.1, shuffle=False)
    """
    brought = Brought(tmp_path, code, 'adapter = "sklearn"\nentry = "own:make"')
    found = brought.update(plan, data, MODEL)
    assert found == pytest.approx(by_hand(plan, MODEL, data, 0.1), rel=1e-6)
    assert np.linalg.norm(found) > 0.1
    outputs = brought.trainer.outputs(plan, MODEL, data.inputs)
    assert outputs[:, 0] == pytest.approx(data.inputs @ MODEL[:3].astype(float) + 0.75, rel=1e-12)


@pytest.mark.parametrize("average", [False, True])
def test_several_classes_go_on_too_and_averages_do_not(tmp_path: pathlib.Path, average: bool) -> None:
    """Steps of next to nothing leave the model where it was; an estimator that averages would begin anew."""
    code = f"""
    from sklearn.linear_model import SGDClassifier
    class Still(SGDClassifier):
        def __init__(self):
            super().__init__(loss="log_loss", learning_rate="constant", eta0=1e-12, average={average}, random_state=1)
    """
    brought = Brought(tmp_path, code, 'adapter = "sklearn"\nentry = "own:Still"')
    model = np.linspace(-1, 1, 12).astype(np.float32)
    if average:
        assert brought.refused(CLASSES, rows("category")) == "trainer_failed"
        assert b"averages its steps" in brought.log
    else:
        found = brought.update(CLASSES, rows("category"), model)
        assert 0 < np.abs(found).max() < 1e-6


def test_estimators_without_partial_fit_are_fitted_once(tmp_path: pathlib.Path) -> None:
    code = """
    from sklearn.linear_model import LogisticRegression, LinearRegression
    def logistic():
        return LogisticRegression(max_iter=2)
    """
    brought = Brought(tmp_path, code, 'adapter = "sklearn"\nentry = "own:logistic"')
    data = rows()
    found = brought.update(PLAN, data, MODEL) + MODEL
    direct = LogisticRegression(max_iter=2, warm_start=True)
    direct.coef_, direct.intercept_ = MODEL[np.newaxis, :3].astype(float), MODEL[3:].astype(float)
    with pytest.warns(UserWarning, match="converge"):
        direct.fit(data.inputs, data.target)
    assert found == pytest.approx(np.append(direct.coef_, direct.intercept_), rel=1e-6)
    assert b"ConvergenceWarning" in brought.log
    linear = replace(brought.trainer._config, entry="own:LinearRegression")
    trainer = OwnTrainer(linear, best(), lambda found: None, LookedAt(), brought.log.extend)
    data = rows("float")
    exact = LinearRegression().fit(data.inputs, data.target)
    assert trainer.update(FLOAT, MODEL, data) + MODEL == pytest.approx(np.append(exact.coef_, exact.intercept_))


def test_a_class_that_is_missing_here_keeps_what_was_received(tmp_path: pathlib.Path) -> None:
    code = "from sklearn.linear_model import LogisticRegression as Make\n"
    brought = Brought(tmp_path, code, 'adapter = "sklearn"\nentry = "own:Make"')
    data = rows("category")
    four = plan_of(
        ("{column: ill, type: binary}", "{column: ill, type: category, values: [a, b, c, d]}"),
        ("[loss, accuracy, auc]", "[loss, accuracy]"),
        ("parameters: 4}", "parameters: 16}"),
    )
    found = brought.update(four, data)
    assert not found[9:12].any()
    assert found[15] == 0
    assert np.abs(found[:9]).min() > 0
    one = Rows(data.inputs, np.ones(len(data.target)))
    assert brought.refused(PLAN, one) == "trainer_failed"
    assert b"two classes" in brought.log


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("from sklearn.linear_model import SGDClassifier as Make", "trainer_parameters"),
        ("class Make:\n    def fit(self, inputs, target): pass\n    def get_params(self): return {}", "trainer_failed"),
    ],
)
def test_what_does_not_fit_the_plan_is_refused(tmp_path: pathlib.Path, code: str, expected: str) -> None:
    brought = Brought(tmp_path, code, 'adapter = "sklearn"\nentry = "own:Make"')
    plan = plan_of(("parameters: 4}", "parameters: 7}")) if expected == "trainer_parameters" else PLAN
    assert brought.refused(plan, rows()) == expected


def test_the_example_of_scikit_learn_learns() -> None:
    config = read_config("risk", SKLEARN / "trainer.toml")
    log = bytearray()
    trainer = OwnTrainer(config, best(), lambda found: None, LookedAt(), log.extend)
    model, data = initial.initial_model(PLAN), rows(count=200)
    moved = (model + trainer.update(PLAN, model, data)).astype(np.float32)
    right = (trainer.outputs(PLAN, moved, data.inputs)[:, 0] > 0) == (data.target > 0.5)
    assert right.mean() > 0.9, log


# --- Flower -------------------------------------------------------------------------------------------------------

CLIENT = """
import numpy as np
class Client:
    def __init__(self, path=None):
        self.path = path
    def get_parameters(self, config):
        return [np.zeros((1, 3), dtype=np.float32), np.zeros(1)]
    def fit(self, parameters, config):
        with np.load(self.path, allow_pickle=False) as data:
            inputs, target, names = data["inputs"], data["target"], list(data["names"])
        assert names == ["a", "b", "site=south"], names
        assert [one.shape for one in parameters] == [(1, 3), (1,)] and parameters[0].dtype == np.float32
        assert config["local_epochs"] == 2
        assert not open_for_writing(self.path)
        return [parameters[0] + inputs.sum(axis=0), parameters[1] + target.sum()], 10**9, {"auc": float("nan")}
    def evaluate(self, parameters, config):
        raise AssertionError("it is not called")
    def to_client(self):
        return Wrapped(self)
class Wrapped:
    def __init__(self, numpy_client):
        self.numpy_client = numpy_client
def open_for_writing(path):
    import os
    return os.stat(path).st_mode & 0o222
def client_fn(context):
    assert context.node_config["partition-id"] == 3 and context.node_config["data-path"].endswith("data.npz")
    assert context.run_config["batch-size"] == 16
    return Client(context.node_config["data-path"]).to_client()
def by_cid(cid: str):
    return Client("data.npz")
class App:
    def __init__(self, client_fn):
        def call(message, context):
            return client_fn(context)
        self._call = call
app = App(client_fn)
def outputs(parameters, inputs):
    return inputs @ parameters[0][0].astype(float) + parameters[1][0]
class Own(Client):
    def __init__(self):
        super().__init__("data.npz")
    def outputs(self, parameters, inputs):
        return np.ones(len(inputs))
not_an_app = App(None)
"""
SAID = """
adapter = "flower"
entry = "own:{entry}"
outputs = "own:outputs"
node_config = {{data-path = "{{data}}", partition-id = 3}}
"""


@pytest.mark.parametrize("entry", ["app", "client_fn", "by_cid", "Own"])
def test_a_client_trains_as_it_is(tmp_path: pathlib.Path, entry: str) -> None:
    """What it says of examples and metrics is not looked at: a thousand million of them, and no number."""
    brought = Brought(tmp_path, CLIENT, SAID.format(entry=entry))
    data = rows()
    found = brought.update(PLAN, data, MODEL)
    assert found == pytest.approx([*data.inputs.sum(axis=0), data.target.sum()], rel=1e-6)
    outputs = brought.trainer.outputs(PLAN, MODEL, data.inputs)[:, 0]
    expected = np.ones(60) if entry == "Own" else data.inputs @ MODEL[:3].astype(float) + 0.75
    assert outputs == pytest.approx(expected)


@pytest.mark.parametrize(
    ("entry", "change", "code", "words"),
    [
        ("not_an_app", ("", ""), "trainer_failed", b"was not made with a client_fn"),
        ("outputs", ("", ""), "trainer_failed", b""),
        ("by_cid", ("np.zeros(1)]", "np.zeros(2)]"), "trainer_parameters", b"the code has 5 parameters"),
        ("by_cid", ("return [parameters[0] +", "return [parameters[1] +"), "trainer_failed", b"shapes"),
        ("by_cid", ("target.sum()]", "np.inf]"), "trainer_not_finite", b""),
        ("by_cid", ("def fit(", "def fitted("), "trainer_failed", b"is no NumPyClient: it has no fit"),
    ],
)
def test_a_client_that_errs_is_refused(
    tmp_path: pathlib.Path, entry: str, change: tuple[str, str], code: str, words: bytes
) -> None:
    brought = Brought(tmp_path, CLIENT.replace(*change) if change[0] else CLIENT, SAID.format(entry=entry))
    assert brought.refused(PLAN, rows()) == code
    assert words in brought.log


def test_metrics_need_outputs(tmp_path: pathlib.Path) -> None:
    brought = Brought(tmp_path, CLIENT, SAID.format(entry="by_cid").replace('outputs = "own:outputs"\n', ""))
    assert brought.update(PLAN, rows(), MODEL).shape == (4,)
    with pytest.raises(LocalRefusal) as caught:
        brought.trainer.outputs(PLAN, MODEL, rows().inputs)
    assert caught.value.code == "trainer_failed"
    assert b"metrics need outputs(parameters, inputs)" in brought.log


def test_code_that_cannot_say_progress_is_seen_at_work_and_found_hanging(tmp_path: pathlib.Path) -> None:
    """Work counts, waiting does not: the first answers after a while, the second is silent."""
    working = CLIENT.replace(
        'assert config["local_epochs"] == 2',
        "import time\n        while time.process_time() < BEATS: pass",
    )
    brought = Brought(tmp_path, working.replace("BEATS", "3.5"), SAID.format(entry="by_cid"))
    answers: list[int] = []
    made = brought.trainer._call

    def counted(plan: Plan, model: object, table: object, answer: object, strict: int = 0) -> None:
        made(plan, model, table, answer, strict)  # type: ignore[arg-type]
        answers.append(answer.signs)  # type: ignore[attr-defined]

    brought.trainer._call = counted  # type: ignore[method-assign,assignment]
    brought.update(PLAN, rows(), MODEL)
    assert answers[0] >= 4  # a beat, the start, and the answer's own


# --- descriptions -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        'adapter = "tensorflow"',
        'adapter = "class"\noutputs = "a:b"',
        'adapter = "torch"\nnode_config = {a = 1}',
        'adapter = "flower"\noutputs = "a"',
        'adapter = "flower"\nnode_config = 3',
        'adapter = "flower"\nnode_config = {a = [1]}',
        'adapter = "flower"\nnode_config = {a = "' + 300 * "x" + '"}',
        "scratch_mib = 0",
        "scratch_mib = true",
        'isolation = "none"',
    ],
)
def test_a_description_says_nothing_else(tmp_path: pathlib.Path, text: str) -> None:
    """Least of all that there should be no isolation."""
    (tmp_path / "code").mkdir()
    path = tmp_path / "trainer.toml"
    path.write_text(f'entry = "own:Own"\ncode = "code"\n{text}\n')
    with pytest.raises(ConfigError) as caught:
        read_config("risk", path)
    assert caught.value.code == "trainer_config"


def test_what_a_description_may_say(tmp_path: pathlib.Path) -> None:
    (tmp_path / "code").mkdir()
    path = tmp_path / "trainer.toml"
    path.write_text('entry = "own:Own"\ncode = "code"\nscratch_mib = 3\n' + 'adapter = "flower"\n')
    found = read_config("risk", path)
    assert (found.adapter, found.scratch_bytes, found.more) == ("flower", 3 << 20, {})
    assert read_config("risk", SKLEARN / "trainer.toml").adapter == "sklearn"
    with pytest.raises(ConfigError, match="trainer_config"):
        read_config("risk", FLOWER / "trainer.toml")  # its interpreter is not here

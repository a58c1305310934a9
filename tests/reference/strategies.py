"""What a model becomes after a sum, a second time: Python floats one by one, rounded to float32 by hand.

Source: docs/protocol.md section 2.5, "Strategies". Python's float is the IEEE 754 double; its sums, products, quotients
and square roots are rounded once each, in the order written here.
"""

import math

from tests.reference import flsa

Case = dict[str, object]

KINDS: dict[str, dict[str, float]] = {
    "fedavg": {},
    "fedavgm": {"learning_rate": 1.0, "momentum": 0.9},
    "fedadam": {"learning_rate": 0.1, "beta1": 0.9, "beta2": 0.99, "tau": 1e-3},
    "fedyogi": {"learning_rate": 0.05, "beta1": 0.9, "beta2": 0.99, "tau": 1e-3},
    "fedadagrad": {"learning_rate": 0.1, "beta1": 0.0, "tau": 1e-3},
}


def float32(value: float) -> float:
    """The nearest float32, ties to even, as a double; an infinity where it is too large."""
    if value == 0 or math.isinf(value) or math.isnan(value):
        return value
    _, exponent = math.frexp(value)
    places = 24 - max(exponent, -125)  # 24 significant bits; fewer below the normal numbers
    rounded = math.ldexp(round(math.ldexp(value, places)), -places)
    return math.copysign(math.inf, value) if abs(rounded) >= 2.0**128 else rounded


def packed(values: list[float]) -> bytes:
    """Float32 little-endian, without the library that does it."""
    out = bytearray()
    for value in values:
        sign = int(math.copysign(1.0, value) < 0)
        size = abs(value)
        if size == 0:
            bits = 0
        else:
            _, exponent = math.frexp(size)
            if exponent < -125:
                bits = int(math.ldexp(size, 149))
            else:
                bits = ((exponent + 126) << 23) | (int(math.ldexp(size, 24 - exponent)) - (1 << 23))
        out += (sign << 31 | bits).to_bytes(4, "little")
    return bytes(out)


def moments(kind: str, fields: dict[str, float], count: int) -> list[list[float]]:
    """What the strategy begins with."""
    if kind == "fedavg":
        return []
    if kind == "fedavgm":
        return [[0.0] * count]
    return [[0.0] * count, [float32(fields["tau"] * fields["tau"])] * count]


def coordinate(kind: str, fields: dict[str, float], model: float, kept: list[float], mean: float) -> list[float]:
    """(new model, new moments) of one coordinate, doubles."""
    if kind == "fedavg":
        return [model + mean]
    rate = fields["learning_rate"]
    if kind == "fedavgm":
        velocity = fields["momentum"] * kept[0] + mean
        return [model + rate * velocity, velocity]
    first = fields["beta1"] * kept[0] + (1.0 - fields["beta1"]) * mean
    second, square = kept[1], mean * mean
    if kind == "fedadagrad":
        second = second + square
    elif kind == "fedadam":
        second = fields["beta2"] * second + (1.0 - fields["beta2"]) * square
    else:
        ahead = second - square
        sign = 0.0 if ahead == 0 else math.copysign(1.0, ahead)
        second = second - (1.0 - fields["beta2"]) * square * sign
    return [model + (rate * first) / (math.sqrt(second) + fields["tau"]), first, second]


def walk(kind: str, fields: dict[str, float], model: list[float], sums: list[Case], norm: float, top: int) -> Case:
    """Every model and state hash on the way; `fails_at` where a value is no longer finite."""
    kept, models, states = moments(kind, fields, len(model)), [], []
    for number, one in enumerate(sums):
        update, weight = one["update"], one["weight"]
        assert isinstance(update, list)
        assert isinstance(weight, int)
        stepped = [
            coordinate(kind, fields, value, [moment[i] for moment in kept], update[i] / (top / norm) / (weight / top))
            for i, value in enumerate(model)
        ]
        rounded = [[float32(entry) for entry in row] for row in stepped]
        if any(math.isinf(entry) or math.isnan(entry) for row in rounded for entry in row):
            return {"fails_at": f"sum {number}", "code": "model_rejected"}
        model = [row[0] for row in rounded]
        kept = [[row[1 + m] for row in rounded] for m in range(len(kept))]
        models.append(packed(model).hex())
        states.append(flsa.h("state", *(packed(moment) for moment in kept)).hex() if kept else "")
    return {"out": {"models": models, "states": states}}


def cases() -> list[Case]:
    """Each strategy over four sums, of which one is zero; and one that leaves the finite numbers."""
    found: list[Case] = []
    top, norm = 32_767, 5.0
    model = [float32(value) for value in (0.0, 0.01, -0.013, 1.5, -2.25, 1e-40, 3e-8)]
    sums: list[Case] = [
        {
            "update": [((index + 3) * (7919 * step + 104_729) % 60_001 - 30_000) * (step != 3) for index in range(7)],
            "weight": 20_011 * step + 5,
        }
        for step in (1, 2, 3, 4)
    ]
    for kind, fields in KINDS.items():
        given: Case = {"kind": kind, "fields": fields, "model": model, "sums": sums, "update_norm": norm, "top": top}
        found.append({"name": kind, "in": given, **walk(kind, fields, model, sums, norm, top)})
        far = [float32(3.4e38)] * 2
        steep = {name: 1e6 if name == "learning_rate" else value for name, value in fields.items()}
        big: list[Case] = [{"update": [top, top], "weight": 1}]
        wide: Case = {"kind": kind, "fields": steep, "model": far, "sums": big, "update_norm": 1e9 * 1e25, "top": top}
        found.append({"name": f"{kind} overflows", "in": wide, **walk(kind, steep, far, big, 1e9 * 1e25, top)})
    return found

"""One sentence of `plan explain`, as a value."""

from dataclasses import dataclass

from fedveil_common.jcs import Json


@dataclass(frozen=True, slots=True)
class Statement:
    """One thing that holds under the plan. `id` is stable; `figures` are what `text` was made from."""

    id: str
    topic: str
    text: str
    figures: dict[str, Json]

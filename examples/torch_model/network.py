"""A model from `fedveil model export --to torch` as a torch module: needs torch alone, not Fedveil, not safetensors.

    python network.py model.safetensors          # prints the inputs that the module wants, in order

`load` gives a module in float64 that scales its inputs itself. Their order is that of `inputs`: a number as it is, and
for NAME=VALUE a 1 where the column NAME holds VALUE, else a 0. It answers with logits, or with the scaled target.
"""

import json
import pathlib
import sys


def read(path):
    """(tensors, metadata): name -> (shape, little-endian float32 bytes), and the texts beside them."""
    data = pathlib.Path(path).read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:start])
    metadata = header.pop("__metadata__")
    tensors = {}
    for name, one in header.items():
        assert one["dtype"] == "F32", one["dtype"]
        begin, end = one["data_offsets"]
        tensors[name] = (one["shape"], data[start + begin : start + end])
    return tensors, metadata


def load(path):
    """The module."""
    import torch

    tensors, metadata = read(path)
    state = {
        name: torch.frombuffer(bytearray(raw), dtype=torch.float32).reshape(shape)
        for name, (shape, raw) in tensors.items()
    }
    if "weight" in state:
        network = torch.nn.Linear(state["weight"].shape[1], state["weight"].shape[0])
    else:
        layers = []
        for number in sorted(int(name.split(".")[0]) for name in state if name.endswith("weight")):
            outputs, inputs = state[f"{number}.weight"].shape
            layers += [torch.nn.Linear(inputs, outputs), torch.nn.ReLU()]
        network = torch.nn.Sequential(*layers[:-1])
    network.load_state_dict(state, strict=True)
    mean, std = (torch.tensor(json.loads(metadata[f"fedveil.{name}"]), dtype=torch.float64) for name in ("mean", "std"))

    class Scaled(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.network = network.double()
            self.register_buffer("mean", mean)
            self.register_buffer("std", std)

        def forward(self, values):
            return self.network((values - self.mean) / self.std)

    return Scaled().eval()


if __name__ == "__main__":
    print("\n".join(json.loads(read(sys.argv[1])[1]["fedveil.inputs"])))
    print(load(sys.argv[1]))

"""The formats that a model is written in, by name: imported by every command, so it imports nothing heavy."""

import enum


class Format(enum.StrEnum):
    """`safetensors`: the signed file itself, byte for byte; the only one that `model verify` takes."""

    SAFETENSORS = "safetensors"
    ONNX = "onnx"
    SKLEARN = "sklearn"
    TORCH = "torch"
    CSV = "csv"

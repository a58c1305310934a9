"""`predict` and `model verify`: model files on anyone's machine."""

import os
import pathlib

import numpy as np
from fedveil_common import prediction
from fedveil_common.errors import ConfigError
from fedveil_common.modelfile import ModelFile, model_bytes, read_model
from fedveil_common.plan import canonical, check_release, plan_hash
from fedveil_common.transcript import model_hash
from fedveil_participant.data.csv_source import read_features

from fedveil_cli.files import MAX_MODEL, read_file, unreadable, write_file
from fedveil_cli.output import Output


def load(path: pathlib.Path) -> ModelFile:
    """The model in `path`, its form checked and its signature not. Raises ConfigError or PeerError `bad_model_file`."""
    file = read_model(read_file(path, "the model", MAX_MODEL))
    check_release(file.plan)
    return file


def predict(model: pathlib.Path, data: pathlib.Path, out: pathlib.Path, output: Output) -> None:
    """Writes `out`: `row,prediction` with rows from 1; the prediction is empty where the row lacks a value.

    A probability of the positive class, or a value in natural units; the shortest decimal that is the same double.
    Raises DataError (`bad_data`), PeerError `bad_model_file`, ConfigError, StorageError `file_unwritable`.
    """
    for given in (model, data):
        if out.exists() and given.exists() and os.path.samefile(out, given):
            raise ConfigError("same_file", f"--out is the file {str(given)!r} that is read", next_step="choose another")
    file = load(model)
    try:
        with data.open("rb") as stream:
            table = read_features(stream, str(data), file.plan)
    except OSError as error:
        raise unreadable(data, "the data", error) from None
    values = prediction.predict(file.plan, file.model, file.standardisation, table)
    lines = [f"{row},{'' if np.isnan(value) else repr(float(value))}\n" for row, value in enumerate(values, start=1)]
    write_file(out, "the predictions", "".join(["row,prediction\n", *lines]).encode())
    missing = int(np.isnan(values).sum())
    output.note("the model's signature was not checked here: `fedveil model verify` does that")
    output.result(
        {
            "rows": len(values),
            "missing": missing,
            "out": str(out),
            "model_hash": model_hash(model_bytes(file.model)).hex(),
            "plan_hash": plan_hash(canonical(file.plan)).hex(),
        },
        [f"{len(values)} rows predicted, {missing} of them empty for want of a value: {out}"],
    )

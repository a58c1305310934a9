"""The model file: one byte form, readable by safetensors, and every change to it is noticed."""

import base64
import dataclasses
import functools
import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import safetensors.numpy
from fedveil_cli import demo_split
from fedveil_common import initial, standardisation, transcript
from fedveil_common.crypto import signing
from fedveil_common.errors import FedveilError, PeerError
from fedveil_common.exchange import model_stream
from fedveil_common.ids import COORDINATOR, FederationId, RunId
from fedveil_common.messages import BlobType, SignedBlob
from fedveil_common.modelfile import (
    ModelFile,
    ModelHead,
    ModelManifest,
    hash_of,
    manifest_for,
    model_from_bytes,
    parse_manifest,
    read_model,
    verify_head,
    verify_model,
    write_model,
)
from fedveil_common.plan import parse_plan, with_seed
from fedveil_common.secret import PrivateKey
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

CALM = settings(deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])

PLAN = parse_plan(demo_split.plan_text(), "demo_plan.yaml")
PRIVATE = PrivateKey(b"k" * 32)
PUBLIC = signing.public_key(PRIVATE)


def unsigned() -> ModelFile:
    return ModelFile(
        PLAN, initial.initial_model(PLAN), standardisation.by_range(PLAN), '{"runs":[]}', (), "chain", "roster"
    )


def manifest_of(file: ModelFile) -> ModelManifest:
    return manifest_for(file, FederationId("f-0123"), RunId("run1"), 9, 2, b"t" * 32)


def signed(file: ModelFile, manifest: ModelManifest | None = None, kind: BlobType = BlobType.MODEL) -> ModelFile:
    body = (manifest or manifest_of(file)).to_bytes()
    return dataclasses.replace(file, signatures=(signing.sign(PRIVATE, COORDINATOR, kind, body),))


GOOD = write_model(signed(unsigned()))


def header_of(data: bytes) -> dict[str, object]:
    size = int.from_bytes(data[:8], "little")
    return dict(json.loads(data[8 : 8 + size]))


def with_header(text: bytes, data: bytes = GOOD) -> bytes:
    size = int.from_bytes(data[:8], "little")
    return len(text).to_bytes(8, "little") + text + data[8 + size :]


def code_of(call: Callable[[], object]) -> str:
    with pytest.raises(PeerError) as caught:
        call()
    return caught.value.code


def test_what_was_written_is_read_and_verified() -> None:
    file = read_model(GOOD)
    assert (file.model == initial.initial_model(PLAN)).all()
    assert file.plan == PLAN
    assert file.standardisation == standardisation.by_range(PLAN)
    assert (file.lineage, file.trust_chain, file.roster) == ('{"runs":[]}', "chain", "roster")
    manifest = verify_model(file, PUBLIC)
    assert manifest == manifest_of(unsigned())
    assert parse_manifest(manifest.to_bytes()) == manifest
    assert write_model(file) == GOOD


def test_safetensors_reads_it_too() -> None:
    tensors = safetensors.numpy.load(GOOD)
    assert (np.concatenate([tensors["weight"], tensors["bias"]]) == initial.initial_model(PLAN)).all()


def test_one_changed_parameter_is_a_mismatch_with_the_signed_manifest() -> None:
    file = read_model(GOOD[:-1] + bytes([GOOD[-1] ^ 1]))
    assert code_of(lambda: verify_model(file, PUBLIC)) == "model_mismatch"


@pytest.mark.parametrize(
    "change",
    [
        lambda f: dataclasses.replace(f, plan=with_seed(f.plan, 8)),
        lambda f: dataclasses.replace(f, standardisation=standardisation.identity(f.plan)),
        lambda f: dataclasses.replace(f, model=(f.model * 2).astype(np.float32)),
    ],
)
def test_other_contents_under_the_same_signature(change: Callable[[ModelFile], ModelFile]) -> None:
    file = read_model(write_model(change(read_model(GOOD))))
    assert code_of(lambda: verify_model(file, PUBLIC)) == "model_mismatch"


def test_another_layout_in_the_manifest() -> None:
    manifest = manifest_of(unsigned())
    file = signed(unsigned(), dataclasses.replace(manifest, layout=manifest.layout[::-1]))
    assert code_of(lambda: verify_model(file, PUBLIC)) == "model_mismatch"


def test_signatures_that_do_not_count() -> None:
    other = signing.public_key(PrivateKey(b"o" * 32))
    assert code_of(lambda: verify_model(read_model(GOOD), other)) == "bad_signature"
    assert code_of(lambda: verify_model(signed(unsigned(), kind=BlobType.VOTE), PUBLIC)) == "wrong_type"
    assert code_of(lambda: verify_model(unsigned(), PUBLIC)) == "bad_model_file"
    blob = signed(unsigned()).signatures[0]
    altered = SignedBlob(blob.signer_id, blob.type, blob.body.replace(b'"round":9', b'"round":8'), blob.sig)
    file = dataclasses.replace(unsigned(), signatures=(altered,))
    assert code_of(lambda: verify_model(file, PUBLIC)) == "bad_signature"


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_neither_written_nor_read(value: float) -> None:
    model = initial.initial_model(PLAN)
    model[3] = value
    with pytest.raises(ValueError, match="finite"):
        write_model(dataclasses.replace(unsigned(), model=model))
    size = 4 * len(model)
    assert code_of(lambda: read_model(GOOD[:-size] + model.tobytes())) == "bad_model_file"
    assert code_of(lambda: model_from_bytes(PLAN, model.tobytes())) == "bad_model_file"


def text_of(header: dict[str, object]) -> bytes:
    return json.dumps(header, separators=(",", ":"), sort_keys=True, ensure_ascii=False).encode()


def metadata(**changes: str) -> bytes:
    header = header_of(GOOD)
    members = header["__metadata__"]
    assert isinstance(members, dict)
    return text_of({**header, "__metadata__": {**members, **changes}})


def padded(text: bytes) -> bytes:
    return text + b" " * (-len(text) % 8)


@pytest.mark.parametrize(
    "text",
    [
        padded(text_of(header_of(GOOD))) + b" " * 8,  # trailing blanks
        text_of(header_of(GOOD))[:-1] + b',"zz":{"dtype":"F32","shape":[0],"data_offsets":[124,124]}}',
        padded(text_of(header_of(GOOD))).replace(b'"dtype":"F32"', b'"dtype":"F32","dtype":"F32"', 1),
        json.dumps(header_of(GOOD)).encode(),
        padded(metadata(extra="1")),
        padded(metadata(format="fedveil/2")),
        padded(metadata(plan="{}")),
        padded(metadata(standardisation="AAAA")),
        padded(metadata(standardisation=base64.b64encode(np.ones(2).tobytes()).decode())),
        padded(metadata(signatures="{}")),
        padded(metadata(signatures='[{"signer_id":"coordinator"}]')),
        padded(metadata(signatures="[1]")),
        b"{}",
        b"[]",
        b'{"__metadata__":1}',
        b"\xff\xff",
    ],
)
def test_any_other_header_is_refused(text: bytes) -> None:
    assert with_header(padded(text_of(header_of(GOOD)))) == GOOD
    assert code_of(lambda: read_model(with_header(text))) == "bad_model_file"


@pytest.mark.parametrize("data", [b"", GOOD[:7], GOOD[:100], GOOD[:-4], GOOD + b"\0", b"\xff" * 8 + GOOD[8:]])
def test_truncated_and_extended_files_are_refused(data: bytes) -> None:
    assert code_of(lambda: read_model(data)) == "bad_model_file"


@CALM
@given(st.data())
def test_no_change_of_the_bytes_goes_unnoticed(data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(GOOD) - 1))
    bad = GOOD[:at] + data.draw(st.binary(max_size=2)) + GOOD[at + data.draw(st.integers(0, 2)) :]
    if bad == GOOD:
        return
    try:
        file = read_model(bad)
        verify_model(file, PUBLIC)
    except FedveilError:
        return
    # what no signature covers: the texts that the caller checks against the governance keys
    assert dataclasses.astuple(manifest_of(file)) == dataclasses.astuple(manifest_of(read_model(GOOD)))
    assert (file.lineage, file.trust_chain, file.roster) != ('{"runs":[]}', "chain", "roster")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"{}",
        manifest_of(unsigned()).to_bytes().replace(b'"layout":[', b'"layout":[1,'),
        manifest_of(unsigned()).to_bytes().replace(b'"layout":[', b'"layout":"x","y":['),
        manifest_of(unsigned()).to_bytes().replace(b'"run1"', b"1"),
        manifest_of(unsigned()).to_bytes() + b" ",
        manifest_of(unsigned()).to_bytes().replace(b'"round":9', b'"round":-9'),
        manifest_of(unsigned()).to_bytes().replace(b'"round":9', b'"round":true'),
        manifest_of(unsigned()).to_bytes().replace(b'"round":9', b'"round":9,"x":1'),
        manifest_of(unsigned()).to_bytes().replace(b'"run1"', b'"RUN"'),
        manifest_of(unsigned()).to_bytes().replace(b"7474", b"74"),
        manifest_of(unsigned()).to_bytes().replace(b"[30]", b"[30.5]"),
    ],
)
def test_manifests_that_cannot_be_read(body: bytes) -> None:
    assert code_of(lambda: parse_manifest(body)) == "bad_model_file"


# --- read in pieces ---------------------------------------------------------------------------------------------------


def pieces(data: bytes, size: int) -> Iterator[bytes]:
    return (data[start : start + size] for start in range(0, len(data), size))


def streamed(data: bytes, size: int) -> tuple[ModelHead, bytes]:
    with ThreadPoolExecutor(2) as pool:
        return model_stream.read(pieces(data, size), pool)


@functools.cache
def of_many_leaves() -> bytes:
    """A model of five leaves and a bit."""
    text = demo_split.plan_text().decode()
    count = 5 * transcript.MODEL_LEAF_BYTES // 4 + 3
    text = text.replace("kind: logistic", f"kind: trainer, name: large, parameters: {count}").replace("l2: 0.001", "")
    plan = parse_plan(text.replace(", }", "}").encode(), "p")
    model = np.random.default_rng(1).random(count, dtype=np.float32)
    file = ModelFile(plan, model, standardisation.by_range(plan), "{}", (), "chain", "roster")
    return write_model(signed(file))


@pytest.mark.parametrize("size", [1000, transcript.MODEL_LEAF_BYTES, 100_001, 10**7])
def test_a_model_in_pieces_is_the_model_in_one(size: int) -> None:
    for data in (GOOD, of_many_leaves()):
        whole = read_model(data)
        head, found = streamed(data, size)
        assert head == whole.head
        assert found == hash_of(whole)
        assert verify_head(head, PUBLIC, lambda found=found: found) == verify_model(whole, PUBLIC)  # type: ignore[misc]
    with pytest.raises(PeerError, match="model_mismatch"):
        verify_head(head, PUBLIC, lambda: bytes(32))


@pytest.mark.parametrize("size", [7, 65_536])
def test_in_pieces_the_same_files_are_refused(size: int) -> None:
    large = of_many_leaves()
    not_finite = large[:-8] + np.array([np.nan, 1], dtype="<f4").tobytes()
    bad = [b"", GOOD[:7], GOOD[:100], GOOD[:-4], GOOD[:-1], GOOD + b"\0", GOOD + bytes(4), b"\xff" * 8 + GOOD[8:]]
    for data in (*bad, large[:-1], not_finite, with_header(b"{}")):
        assert code_of(lambda data=data: read_model(data)) == "bad_model_file"  # type: ignore[misc]
        assert code_of(lambda data=data: streamed(data, size)) == "bad_model_file"  # type: ignore[misc]

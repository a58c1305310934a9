"""Keys of recipients as files: ours, those of OpenSSL, and what is none."""

import base64
import subprocess
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from fedveil_common.errors import ConfigError, FedveilError
from fedveil_common.sealing import header, key_files, recipients
from fedveil_common.sealing.header import Subject
from fedveil_common.secret import Passphrase, Seed
from fedveil_simulation.ports import SeededEntropy

SUBJECT = Subject("data", "hospitals-1", "visits")
ENTROPY = SeededEntropy(1, "sealing")
OURS = X25519PrivateKey.from_private_bytes(b"\1" * 32)
RSA = rsa.generate_private_key(65_537, 3072)
WORD = Passphrase(b"a long passphrase")


def test_keys_survive_their_files_and_those_of_openssl_serve(tmp_path: Path) -> None:
    for made in (key_files.new_x25519(ENTROPY), RSA):
        for word in (None, WORD):
            again = key_files.read_private(key_files.private_pem(made, word), "here", word)
            assert recipients.fingerprint(again.public_key()) == recipients.fingerprint(made.public_key())
        public = key_files.read_public(key_files.public_pem(made.public_key()), "here")
        assert recipients.fingerprint(public) == recipients.fingerprint(made.public_key())
    clear = key_files.private_pem(OURS, None)
    assert key_files.read_private(clear, "here", WORD), "a passphrase that is not needed does no harm"
    subprocess.run(["openssl", "genpkey", "-algorithm", "X25519", "-out", str(tmp_path / "o.key")], check=True)
    subprocess.run(
        ["openssl", "pkey", "-in", str(tmp_path / "o.key"), "-pubout", "-out", str(tmp_path / "o.pub")], check=True
    )
    private = key_files.read_private((tmp_path / "o.key").read_bytes(), "o.key", None)
    public = key_files.read_public((tmp_path / "o.pub").read_bytes(), "o.pub")
    slots = recipients.wrap_for([public], Seed(b"k" * 32), SUBJECT)
    made = header.make(Seed(b"k" * 32), SUBJECT, bytes(16), 5, slots)
    assert recipients.unwrap(made, private) == Seed(b"k" * 32)


def test_other_keys_and_wrong_passphrases_are_named() -> None:
    signing = ed25519.Ed25519PrivateKey.generate().public_key()
    curve = ec.generate_private_key(ec.SECP256R1()).public_key()
    weak = rsa.generate_private_key(65_537, 2048).public_key()
    for key, code in ((signing, "bad_key_file"), (curve, "bad_key_file"), (weak, "recipient_key_weak")):
        pem = key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        with pytest.raises(ConfigError) as caught:
            key_files.read_public(pem, "here")
        assert caught.value.code == code
    locked = key_files.private_pem(OURS, WORD)
    longer = b"-----BEGIN PRIVATE KEY-----\n%s\n-----END PRIVATE KEY-----\n"
    longer %= base64.b64encode(bytes.fromhex("302e020100300506032b656f04220420") + bytes(32))  # X448, of 32 bytes
    for pem, word, code in (
        (locked, None, "passphrase_missing"),
        (locked, Passphrase(b"other"), "passphrase_wrong"),
        (b"nothing", None, "bad_key_file"),
        (longer, None, "bad_key_file"),
        (key_files.public_pem(OURS.public_key()), None, "bad_key_file"),
    ):
        with pytest.raises(FedveilError) as refusal:
            key_files.read_private(pem, "here", word)
        assert refusal.value.code == code

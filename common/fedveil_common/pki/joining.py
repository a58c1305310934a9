"""What joiner and coordinator say to each other at `POST /join`, and how joined members reach the operator's roster.

Bodies are canonical JSON; the request carries public values only: the invite's private key never leaves the joiner.
"""

from dataclasses import dataclass

from fedveil_common import jcs
from fedveil_common.errors import FedveilError, PeerError, PolicyRefusal, Unreachable
from fedveil_common.ids import FederationId
from fedveil_common.limits import MAX_DOCUMENT
from fedveil_common.pki import certificates, documents
from fedveil_common.pki.governance import Signed
from fedveil_common.pki.invites import TOKEN_ID_BYTES, JoinProof, Role

MAX_REQUEST = 32 * 1024
"""Bytes of a join request."""

MAX_ANSWER = 2 * MAX_DOCUMENT
_PROOF = ("csr_digest", "invite_sig", "key_sig")


@dataclass(frozen=True, slots=True)
class JoinRequest:
    """{token id, CSR, protocol public key, both signatures}. `csr` is DER."""

    federation_id: FederationId
    token_id: bytes
    csr: bytes
    protocol_key: bytes
    proof: JoinProof

    def encode(self) -> bytes:
        """The body of `POST /join`."""
        return jcs.dumps(
            {
                "csr": self.csr.hex(),
                "federation_id": self.federation_id,
                "proof": _proof_json(self.proof),
                "protocol_key": self.protocol_key.hex(),
                "token_id": self.token_id.hex(),
            }
        )

    @classmethod
    def decode(cls, data: bytes) -> "JoinRequest":
        """The request in a body; PeerError `bad_document`."""
        what = "join request"
        names = {"csr", "federation_id", "proof", "protocol_key", "token_id"}
        fields = documents.Fields(documents.canonical(data, what, MAX_REQUEST), what, names)
        text = fields.text("csr", 2 * certificates.MAX_CSR)
        return cls(
            FederationId(fields.name("federation_id")),
            fields.hex("token_id", TOKEN_ID_BYTES),
            fields.hex("csr", len(text) // 2),
            fields.hex("protocol_key", 32),
            _read_proof(fields.value("proof")),
        )


@dataclass(frozen=True, slots=True)
class JoinAnswer:
    """The certificate (PEM), the governance-signed invite that says for whom, and the roster in force as signed bytes.

    The invite travels back because it alone, not the coordinator, says whether the join replaces an older key.
    """

    certificate: bytes
    invite: Signed
    signed_roster: bytes

    def encode(self) -> bytes:
        """The body of the answer."""
        return jcs.dumps(
            {
                "certificate": self.certificate.decode("ascii"),
                "invite": self.invite.to_json(),
                "roster": self.signed_roster.decode("utf-8"),
            }
        )

    @classmethod
    def decode(cls, data: bytes) -> "JoinAnswer":
        """The answer in a body; PeerError `bad_document`. The joiner still checks certificate and roster."""
        what = "join answer"
        fields = documents.Fields(
            documents.canonical(data, what, MAX_ANSWER), what, {"certificate", "invite", "roster"}
        )
        return cls(
            fields.text("certificate", certificates.MAX_PEM).encode("utf-8"),
            Signed.from_json(fields.value("invite"), "invite"),
            fields.text("roster", MAX_DOCUMENT).encode("utf-8"),
        )


def encode_refusal(error: FedveilError) -> bytes:
    """A typed error as the body of an answer that is not 200."""
    return jcs.dumps(
        {"code": error.code, "exit_code": error.exit_code, "next_step": error.next_step, "what": error.what}
    )


def decode_refusal(data: bytes, peer: str) -> FedveilError:
    """The error that the coordinator reports. Its words are a stranger's: printable characters only, and bounded."""
    what = "refusal"
    fields = documents.Fields(
        documents.canonical(data, what, MAX_REQUEST), what, {"code", "exit_code", "next_step", "what"}
    )
    code, said = fields.name("code"), _printable(fields.text("what", MAX_REQUEST))
    next_step = _printable(fields.text("next_step", MAX_REQUEST))
    match fields.integer("exit_code"):
        case PolicyRefusal.exit_code:
            return PolicyRefusal(code, said, next_step=next_step)
        case PeerError.exit_code:
            return PeerError(code, said, peer=peer, not_done="nobody was enrolled", next_step=next_step)
        case _:
            return Unreachable(code, said, next_step=next_step or "try again later")


def _printable(text: str) -> str:
    return "".join(character if character.isprintable() else "?" for character in text[:500])


def read_role(text: str, what: str) -> Role:
    """The role of that name; PeerError `bad_document`."""
    for role in Role:
        if role.value == text:
            return role
    raise documents.bad(what, "no such role")


def encode_proof(proof: JoinProof) -> bytes:
    """A proof as the store keeps it."""
    return jcs.dumps(_proof_json(proof))


def decode_proof(data: bytes) -> JoinProof:
    """The inverse of `encode_proof`; PeerError `bad_document`."""
    return _read_proof(documents.canonical(data, "join proof"))


def _proof_json(proof: JoinProof) -> jcs.Json:
    return {
        "csr_digest": proof.csr_digest.hex(),
        "invite_sig": proof.invite_sig.hex(),
        "key_sig": proof.key_sig.hex(),
    }


def _read_proof(value: jcs.Json) -> JoinProof:
    fields = documents.Fields(value, "join proof", set(_PROOF))
    return JoinProof(fields.hex("csr_digest", 32), fields.hex("invite_sig", 64), fields.hex("key_sig", 64))

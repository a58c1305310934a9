"""The operator's connection to a running coordinator: always with the certificate that lies in the home now.

`serve` renews the operator's certificate while commands run (`run start` follows a run for hours), and the older one is
refused as soon as the newer one was used. So each call looks at the files first, and goes over a new channel if they
have changed; what is going on over the old channel may end there.
"""

import contextlib

import grpc
from fedveil_common.database import FolderLock
from fedveil_common.errors import ConfigError, FedveilError
from fedveil_common.pki import certificates, transport
from fedveil_coordinator import founding, rotation

READS = 5
"""How often the pair is read again if it does not fit: it may just be exchanged."""


class OperatorLine:
    """The channel of one home's operator."""

    def __init__(self, federation: founding.Federation) -> None:
        self._federation = federation
        self._files = rotation.operator_files(federation.home)
        self._channels: list[grpc.Channel] = []
        self._used = b"", b""
        with contextlib.suppress(FedveilError), FolderLock(federation.home / "operator"):
            self._files.settle()  # a renewal that a crash interrupted; whoever holds the lock does it itself

    def channel(self) -> grpc.Channel:
        """With the certificate of now. Errors of the key files; ConfigError `key_mismatch`."""
        certificate, key = self._pair()
        authorities = self._federation.authority_pem
        if (certificate, authorities) != self._used:
            credentials = transport.channel_credentials(certificate, key, authorities)
            address = self._federation.admin_address
            self._channels.append(grpc.secure_channel(address, credentials, options=transport.CHANNEL_OPTIONS))
            self._used = certificate, authorities
        return self._channels[-1]

    def changed(self) -> bool:
        """Whether another certificate, or other authorities, lie there than the last call was made with."""
        return (self._files.certificate(), self._federation.authority_pem) != self._used

    def _pair(self) -> tuple[bytes, bytes]:
        for left in reversed(range(READS)):
            certificate, key = self._files.certificate(), self._files.key()
            try:
                certificates.check_pair(certificates.load_certificate(certificate), key)
            except ConfigError:
                if not left:
                    raise
                continue
            break
        return certificate, key

    def close(self) -> None:
        """Every channel is closed."""
        for channel in self._channels:
            channel.close()

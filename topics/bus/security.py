"""Options of the Kafka library's clients for a connection: addresses, TLS, SASL."""

import ssl
from typing import Any

from esper.topics.bus.errors import TlsFileUnusable
from esper.topics.connection import Broker, Tls, connection_to


def client_options(broker: Broker) -> dict[str, Any]:
    """Return the keyword arguments with which each client of the library is made.

    Raises:
        TlsFileUnusable: a certificate or key file cannot be loaded.
    """
    connection = connection_to(broker)
    options: dict[str, Any] = {
        "bootstrap_servers": connection.bootstrap_servers,
        "security_protocol": connection.security_protocol.value,
    }
    if connection.tls is not None:
        options["ssl_context"] = ssl_context(connection.tls)
    if connection.sasl is not None:
        options["sasl_mechanism"] = connection.sasl.mechanism.value
        options["sasl_plain_username"] = connection.sasl.username
        options["sasl_plain_password"] = connection.sasl.password.get_secret_value()
    return options


def ssl_context(tls: Tls) -> ssl.SSLContext:
    """Return a context that verifies the broker's certificate and host name.

    Raises:
        TlsFileUnusable: a certificate or key file cannot be loaded.
    """
    try:
        context = ssl.create_default_context(cafile=tls.ca_file)
    except (OSError, ssl.SSLError) as error:
        raise TlsFileUnusable(
            f"KAFKA_SSL_CA_FILE: cannot load {tls.ca_file} ({_reason(error)}); "
            "name a PEM file with the CA's certificate"
        ) from error
    if (own := tls.client_certificate) is not None:
        try:
            # Without a password the library would ask for that of an encrypted key on the terminal.
            context.load_cert_chain(own.certificate_file, own.key_file, password="")
        except (OSError, ssl.SSLError) as error:
            raise TlsFileUnusable(
                f"KAFKA_SSL_CERT_FILE, KAFKA_SSL_KEY_FILE: cannot load {own.certificate_file} with "
                f"{own.key_file} ({_reason(error)}); name PEM files of a certificate and its "
                "unencrypted key"
            ) from error
    return context


def _reason(error: OSError) -> str:
    return getattr(error, "reason", None) or error.strerror or type(error).__name__

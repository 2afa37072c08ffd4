"""Configuration: environment variables first, then the local stack's file, then defaults."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import orjson
from pydantic import Field
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from esper.errors import EsperError
from esper.store import StoreCredentials
from esper.topics.connection import (
    ClientCertificate,
    KafkaConnection,
    Sasl,
    SaslMechanism,
    SecurityProtocol,
    Tls,
)
from esper.topics.secret import read_secret

STACK_FILE = "stack.json"


class SettingMissing(EsperError, ValueError):
    """A setting needs another one, which is missing; the message names both."""


class Settings(BaseSettings):
    """Settings of all processes; the alias of a field is its environment variable."""

    # URLs may hold passwords.
    model_config = SettingsConfigDict(frozen=True, extra="ignore", hide_input_in_errors=True)

    home: Annotated[Path, Field(alias="ESPER_HOME")] = Path(".esper")
    kafka_bootstrap_servers: Annotated[str, Field(alias="KAFKA_BOOTSTRAP_SERVERS")] = (
        "127.0.0.1:9092"
    )
    kafka_security_protocol: Annotated[SecurityProtocol, Field(alias="KAFKA_SECURITY_PROTOCOL")] = (
        SecurityProtocol.PLAINTEXT
    )
    kafka_sasl_mechanism: Annotated[SaslMechanism, Field(alias="KAFKA_SASL_MECHANISM")] = (
        SaslMechanism.SCRAM_SHA_512
    )
    kafka_sasl_username: Annotated[str | None, Field(alias="KAFKA_SASL_USERNAME")] = None
    kafka_sasl_password_file: Annotated[Path | None, Field(alias="KAFKA_SASL_PASSWORD_FILE")] = None
    kafka_ssl_ca_file: Annotated[Path | None, Field(alias="KAFKA_SSL_CA_FILE")] = None
    kafka_ssl_cert_file: Annotated[Path | None, Field(alias="KAFKA_SSL_CERT_FILE")] = None
    kafka_ssl_key_file: Annotated[Path | None, Field(alias="KAFKA_SSL_KEY_FILE")] = None
    redis_url: Annotated[str | None, Field(alias="ESPER_REDIS_URL", repr=False)] = None
    redis_username: Annotated[str | None, Field(alias="ESPER_REDIS_USERNAME")] = None
    redis_password_file: Annotated[Path | None, Field(alias="ESPER_REDIS_PASSWORD_FILE")] = None
    redis_ca_file: Annotated[Path | None, Field(alias="ESPER_REDIS_CA_FILE")] = None
    postgres_password_file: Annotated[Path | None, Field(alias="ESPER_POSTGRES_PASSWORD_FILE")] = (
        None
    )
    postgres_ca_file: Annotated[Path | None, Field(alias="ESPER_POSTGRES_CA_FILE")] = None
    memory_days: Annotated[float, Field(alias="ESPER_MEMORY_DAYS", gt=0)] = 90.0
    kernel_store: Annotated[str | None, Field(alias="ESPER_KERNEL_STORE", repr=False)] = None
    signing_key_file: Annotated[Path | None, Field(alias="ESPER_SIGNING_KEY_FILE")] = None
    trusted_key_file: Annotated[Path | None, Field(alias="ESPER_TRUSTED_KEY_FILE")] = None
    instance_id: Annotated[str | None, Field(alias="ESPER_INSTANCE_ID")] = None
    metrics_host: Annotated[str, Field(alias="ESPER_METRICS_HOST")] = "127.0.0.1"
    metrics_port: Annotated[int, Field(alias="ESPER_METRICS_PORT", ge=0, le=65535)] = 0
    compile_processes: Annotated[int, Field(alias="ESPER_COMPILE_PROCESSES", ge=1, le=64)] = 1
    compile_timeout_s: Annotated[float, Field(alias="ESPER_COMPILE_TIMEOUT_S", gt=0)] = 10.0
    compile_cpu_s: Annotated[float, Field(alias="ESPER_COMPILE_CPU_S", gt=0)] = 5.0
    compile_memory_mb: Annotated[int, Field(alias="ESPER_COMPILE_MEMORY_MB", ge=64)] = 2048
    kernels_in_flight: Annotated[int, Field(alias="ESPER_KERNELS_IN_FLIGHT", ge=1)] = 64
    kernels_per_site: Annotated[int, Field(alias="ESPER_KERNELS_PER_SITE", ge=1)] = 512
    kernels_per_publisher: Annotated[int, Field(alias="ESPER_KERNELS_PER_PUBLISHER", ge=1)] = 256
    run_expiry_s: Annotated[float, Field(alias="ESPER_RUN_EXPIRY_S", gt=0)] = 24 * 60 * 60.0
    session_timeout_s: Annotated[float, Field(alias="ESPER_SESSION_TIMEOUT_S", ge=6)] = 15.0
    audition_timeout_s: Annotated[float, Field(alias="ESPER_AUDITION_TIMEOUT_S", gt=0)] = 600.0
    audition_device: Annotated[Literal["cpu", "cuda"], Field(alias="ESPER_AUDITION_DEVICE")] = "cpu"
    log_format: Annotated[Literal["console", "json"], Field(alias="ESPER_LOG_FORMAT")] = "console"

    @property
    def kernel_store_spec(self) -> str:
        """Tiers of the kernel store: as configured, or files under the home directory."""
        return self.kernel_store or f"file:{self.home / 'kernels'}"

    @property
    def kafka(self) -> KafkaConnection:
        """The connection to Kafka; reads the password file.

        Raises:
            SettingMissing: the security protocol needs a setting that is missing.
            SecretFileUnusable: the password file cannot be read.
        """
        protocol = self.kafka_security_protocol
        return KafkaConnection(
            bootstrap_servers=self.kafka_bootstrap_servers,
            tls=self._tls() if protocol.has_tls else None,
            sasl=self._sasl(protocol) if protocol.has_sasl else None,
        )

    @property
    def store_credentials(self) -> StoreCredentials:
        """Passwords and CA files of Redis and PostgreSQL; reads the password files.

        Raises:
            SecretFileUnusable: a password file cannot be read.
        """
        redis, postgres = self.redis_password_file, self.postgres_password_file
        return StoreCredentials(
            redis_username=self.redis_username,
            redis_password=redis and read_secret(redis, "ESPER_REDIS_PASSWORD_FILE"),
            redis_ca_file=self.redis_ca_file,
            postgres_password=postgres and read_secret(postgres, "ESPER_POSTGRES_PASSWORD_FILE"),
            postgres_ca_file=self.postgres_ca_file,
        )

    def _tls(self) -> Tls:
        certificate, key = self.kafka_ssl_cert_file, self.kafka_ssl_key_file
        if (certificate is None) != (key is None):
            raise SettingMissing(
                "a client certificate needs its key: set both KAFKA_SSL_CERT_FILE and "
                "KAFKA_SSL_KEY_FILE, or none of them"
            )
        own = (
            ClientCertificate(certificate_file=certificate, key_file=key)
            if certificate is not None and key is not None
            else None
        )
        return Tls(ca_file=self.kafka_ssl_ca_file, client_certificate=own)

    def _sasl(self, protocol: SecurityProtocol) -> Sasl:
        if self.kafka_sasl_username is None or self.kafka_sasl_password_file is None:
            raise SettingMissing(
                f"KAFKA_SECURITY_PROTOCOL={protocol} needs credentials: set KAFKA_SASL_USERNAME, "
                "and KAFKA_SASL_PASSWORD_FILE to a file with the password"
            )
        return Sasl(
            username=self.kafka_sasl_username,
            password=read_secret(self.kafka_sasl_password_file, "KAFKA_SASL_PASSWORD_FILE"),
            mechanism=self.kafka_sasl_mechanism,
        )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Order the sources: arguments, environment, file of the running local stack."""
        return init_settings, env_settings, _StackFile(settings_cls)


def kafka_of(environment: Mapping[str, str]) -> KafkaConnection:
    """Return the connection that an environment names; see `Settings.kafka`."""
    names = {field.alias for field in Settings.model_fields.values()}
    known = {name: value for name, value in environment.items() if name in names}
    return Settings.model_validate(known).kafka


class _StackFile(PydanticBaseSettingsSource):
    """The addresses that `esper up` wrote to a file in the home directory."""

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        """Not used: `__call__` reads all fields together."""
        raise NotImplementedError

    def __call__(self) -> dict[str, Any]:
        home = self.current_state.get("ESPER_HOME", Settings.model_fields["home"].default)
        file = Path(home) / STACK_FILE
        if not file.exists():
            return {}
        written = orjson.loads(file.read_bytes())
        return {
            field.alias: written[name]
            for name, field in Settings.model_fields.items()
            if field.alias and name in written
        }

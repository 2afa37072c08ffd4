"""Configuration: environment variables first, then the local stack's file, then defaults."""

from pathlib import Path
from typing import Annotated, Any, Literal

import orjson
from pydantic import Field
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

STACK_FILE = "stack.json"


class Settings(BaseSettings):
    """Settings of all processes; the alias of a field is its environment variable."""

    model_config = SettingsConfigDict(frozen=True, extra="ignore")

    home: Annotated[Path, Field(alias="ESPER_HOME")] = Path(".esper")
    kafka_bootstrap_servers: Annotated[str, Field(alias="KAFKA_BOOTSTRAP_SERVERS")] = (
        "127.0.0.1:9092"
    )
    redis_url: Annotated[str | None, Field(alias="ESPER_REDIS_URL")] = None
    memory_days: Annotated[float, Field(alias="ESPER_MEMORY_DAYS", gt=0)] = 90.0
    store_url: Annotated[str | None, Field(alias="ESPER_STORE_URL")] = None
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
    session_timeout_s: Annotated[float, Field(alias="ESPER_SESSION_TIMEOUT_S", ge=6)] = 6.0
    log_format: Annotated[Literal["console", "json"], Field(alias="ESPER_LOG_FORMAT")] = "console"

    @property
    def kernel_store_url(self) -> str:
        """URL of the kernel store: as configured, or files under the home directory."""
        return self.store_url or f"file:{self.home / 'kernels'}"

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

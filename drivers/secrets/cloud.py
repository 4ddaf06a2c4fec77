"""``aws-sm:name`` and ``aws-ssm:/path``: a secret of AWS Secrets Manager, a parameter of AWS Systems Manager.

Credentials, region and endpoint are found as every program of AWS finds them: ``AWS_*`` variables, profiles, the role
of the machine. The SDK is imported when the first such secret is resolved.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from threading import Lock
from typing import Any, Final

from desired_state.secrets import SecretRef
from drivers.blocking import Threads
from drivers.errors import DriverError, Refused, Unreachable

CONNECT: Final = 3  # seconds
READ: Final = 4
SHORTEST_ID: Final = 32  # characters; what is shorter is a stage, not the id of a version

SENTENCES: Final = {
    "ResourceNotFoundException": "there is no such secret, or not in that version",
    "ParameterNotFound": "there is no such parameter",
    "ParameterVersionNotFound": "the parameter is not there in that version",
    "AccessDeniedException": "AWS denies access; the role needs {needs} on it, and kms:Decrypt on its key",
    "DecryptionFailure": "AWS cannot decrypt it; the role needs kms:Decrypt on its key",
    "InvalidKeyId": "AWS cannot decrypt it; the key it is encrypted with is not usable",
    "InvalidRequestException": "AWS will not hand it out; is it about to be deleted?",
    "ExpiredTokenException": "the AWS credentials have expired",
    "UnrecognizedClientException": "AWS does not know the credentials",
    "InvalidClientTokenId": "AWS does not know the credentials",
    "InvalidSignatureException": "AWS does not accept the signature; check the secret key and the clock",
}
AGAIN: Final = ("Throttling", "ThrottlingException", "InternalServiceError", "InternalServerError")
NEEDS: Final = {"secretsmanager": "secretsmanager:GetSecretValue", "ssm": "ssm:GetParameter"}


class Cloud:
    """Both backends. A client is made once for each service and region, and kept."""

    def __init__(self) -> None:
        self._threads = Threads("AWS", limit=8)
        self._clients: dict[tuple[str, str | None], Any] = {}
        self._making = Lock()

    async def secret(self, secret: SecretRef) -> str:
        """The text of a secret; `version` is a version's id or a stage."""
        return await self._asked("secretsmanager", secret, _secret)

    async def parameter(self, secret: SecretRef) -> str:
        """The value of a parameter, decrypted; `version` is a number or a label."""
        return await self._asked("ssm", secret, _parameter)

    async def aclose(self) -> None:
        while self._clients:
            _, client = self._clients.popitem()
            client.close()

    async def _asked(self, service: str, secret: SecretRef, read: Callable[[Any, SecretRef], str]) -> str:
        return await self._threads.run(partial(self._read, service, secret, read), abandon=True)

    def _read(self, service: str, secret: SecretRef, read: Callable[[Any, SecretRef], str]) -> str:
        try:
            return read(self._client(service, _region(secret)), secret)
        except DriverError:
            raise
        except ModuleNotFoundError:
            raise Refused(f"secret {secret.reference}: boto3 is not installed where the daemon runs") from None
        except Exception as error:  # the SDK makes its errors at run time; what is known of them is their names
            raise _translated(service, secret, error) from None

    def _client(self, service: str, region: str | None) -> Any:
        with self._making:
            if (service, region) not in self._clients:
                self._clients[service, region] = _made(service, region)
            return self._clients[service, region]


def _made(service: str, region: str | None) -> Any:
    """Half a second the first time: the SDK reads its own descriptions."""
    import boto3
    from botocore.config import Config

    retries: Any = {"mode": "standard", "total_max_attempts": 2}
    config = Config(connect_timeout=CONNECT, read_timeout=READ, retries=retries, user_agent_extra="holdfast")
    return boto3.session.Session().client(service, region_name=region, config=config)  # type: ignore[call-overload]


def _region(secret: SecretRef) -> str | None:
    """Of a secret that is named by its ARN: where it is, whatever the default is."""
    parts = secret.path.split(":")
    return parts[3] or None if parts[0] == "arn" and len(parts) > 6 else None


def _secret(client: Any, secret: SecretRef) -> str:
    version = {}
    if secret.version is not None:
        version = {"VersionId" if len(secret.version) >= SHORTEST_ID else "VersionStage": secret.version}
    answer = client.get_secret_value(SecretId=secret.path, **version)
    if "SecretString" in answer:
        return str(answer["SecretString"])
    try:
        return bytes(answer["SecretBinary"]).decode()
    except UnicodeDecodeError:
        raise Refused(f"secret {secret.reference}: its bytes are not UTF-8 text") from None


def _parameter(client: Any, secret: SecretRef) -> str:
    name = secret.path if secret.version is None else f"{secret.path}:{secret.version}"
    return str(client.get_parameter(Name=name, WithDecryption=True)["Parameter"]["Value"])


def _translated(service: str, secret: SecretRef, error: Exception) -> DriverError:
    said = f"secret {secret.reference}"
    name = type(error).__name__
    response = getattr(error, "response", None)
    if isinstance(response, dict):
        return _answered(service, said, response)
    match name:
        case "NoCredentialsError" | "PartialCredentialsError" | "CredentialRetrievalError":
            return Refused(f"{said}: there are no AWS credentials where the daemon runs")
        case "NoRegionError":
            return Refused(f"{said}: no AWS region is set where the daemon runs; set AWS_REGION")
        case "ParamValidationError" | "ProfileNotFound" | "InvalidRegionError" | "SSLError":
            return Refused(f"{said}: AWS cannot be asked for it ({name})")
    return Unreachable(f"{said}: AWS does not answer ({name})")


def _answered(service: str, said: str, response: dict[str, Any]) -> DriverError:
    code = str(response.get("Error", {}).get("Code", "unknown"))[:80]
    status = response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    if code in AGAIN or status in (429, 500, 502, 503, 504):
        return Unreachable(f"{said}: AWS cannot answer now ({code})")
    sentence = SENTENCES.get(code, "AWS refuses").format(needs=NEEDS[service])
    return Refused(f"{said}: {sentence} ({code})")

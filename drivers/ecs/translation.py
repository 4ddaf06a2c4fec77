"""The SDK's errors in our words: once, at the door. What is not understood is an unknown outcome, never a failure."""

from __future__ import annotations

from typing import Any, Final

from drivers.ecs.connection import Connection
from drivers.errors import Busy, DriverError, InvalidAction, OutcomeUnknown, Refused, Unreachable


def _codes(text: str) -> frozenset[str]:
    return frozenset(text.split())


THROTTLED: Final = _codes("""
    ThrottlingException Throttling ThrottledException RequestLimitExceeded TooManyRequestsException RequestThrottled
    RequestThrottledException SlowDown
""")
DENIED: Final = _codes("AccessDeniedException AccessDenied UnauthorizedOperation BlockedException")
UNKNOWN_CREDENTIALS: Final = _codes("""
    UnrecognizedClientException InvalidSignatureException InvalidClientTokenId SignatureDoesNotMatch ExpiredToken
    ExpiredTokenException MissingAuthenticationToken IncompleteSignature NotAuthorized
""")
BUSY: Final = _codes("UpdateInProgressException ConflictException ResourceInUseException")
MISSING: Final = {
    "ClusterNotFoundException": "there is no cluster {cluster} in {region} that these credentials can see",
    "ServiceNotFoundException": "there is no service {service} in cluster {cluster} of {region}",
    "ServiceNotActiveException": "the service {service} in cluster {cluster} of {region} is being deleted",
}
REFUSED: Final = _codes("""
    InvalidParameterException ClientException ClientError ValidationException UnsupportedFeatureException
    PlatformUnknownException PlatformTaskDefinitionIncompatibilityException LimitExceededException
    ResourceNotFoundException NamespaceNotFoundException SerializationException OptInRequired
""")
NOT_SENT: Final = _codes("EndpointConnectionError ConnectTimeoutError ProxyConnectionError SSLError")  # of the SDK
NO_CREDENTIALS: Final = _codes("""
    NoCredentialsError PartialCredentialsError CredentialRetrievalError TokenRetrievalError ProfileNotFound
    UnauthorizedSSOTokenError SSOTokenLoadError RefreshWithMFAUnsupportedError
""")


class CredentialsRefused(Refused):
    """The credentials are not, or no longer, good."""


def translated(error: Exception, operation: str, connection: Connection, *, change: bool) -> DriverError:
    """`operation` as the API names it; `change`: it would have changed something, had it been carried out."""
    if isinstance(error, DriverError):
        return error
    response = getattr(error, "response", None)
    if isinstance(response, dict) and "Error" in response:
        return _answered(response, operation, connection, change=change)
    kind = type(error).__name__
    if kind in NOT_SENT:
        return Unreachable(f"{where(connection)} cannot be reached: {_sentence(error)}")
    if kind in NO_CREDENTIALS:
        return CredentialsRefused(f"no credentials for {where(connection)}: {_sentence(error)}")
    if kind == "ParamValidationError":
        return InvalidAction(f"{operation}: {_sentence(error)}")
    if change:
        return OutcomeUnknown(f"{operation}: nobody knows whether it was done: {kind}: {_sentence(error)}")
    return Unreachable(f"{operation}: no answer of {where(connection)} that is understood: {kind}: {_sentence(error)}")


def _answered(response: dict[str, Any], operation: str, connection: Connection, *, change: bool) -> DriverError:
    code, message = str(response["Error"].get("Code", "")), _short(str(response["Error"].get("Message", "")))
    if code in THROTTLED:
        return Busy(f"{where(connection)} throttles {operation}: {message}")
    if code in BUSY:
        return Busy(f"{operation}: {message}")
    if code in DENIED:
        return Refused(f"{operation} is not allowed: grant {permission(operation, message)} ({message})")
    if code in UNKNOWN_CREDENTIALS:
        return CredentialsRefused(f"{where(connection)} does not take the credentials: {code}: {message}")
    if code in MISSING:
        said = {"cluster": connection.cluster, "service": connection.service, "region": connection.region}
        return Refused(MISSING[code].format_map(said))
    if code in REFUSED:
        return Refused(f"{operation} was refused: {message or code}")
    if change:
        return OutcomeUnknown(f"{operation}: nobody knows whether it was done: {code}: {message}")
    return Unreachable(f"{operation}: {where(connection)} could not answer: {code}: {message}")


def permission(operation: str, message: str) -> str:
    """The IAM permission that is missing."""
    return "iam:PassRole on the template's roles" if "iam:PassRole" in message else f"ecs:{operation}"


def where(connection: Connection) -> str:
    return f"ECS at {connection.endpoint}" if connection.endpoint else f"ECS in {connection.region}"


def _sentence(error: Exception) -> str:
    return _short(" ".join(str(error).split()))


def _short(text: str) -> str:
    return text if len(text) <= 300 else text[:299] + "…"

"""What a task definition's template may say: the fields of RegisterTaskDefinition, closed, so that a misspelt one is
refused and not ignored. A test holds the table to the SDK's own model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from typing import Any, Final

_TEXT: Final = """
: containerDefinitions cpu enableFaultInjection ephemeralStorage executionRoleArn family inferenceAccelerators ipcMode
  memory networkMode pidMode placementConstraints proxyConfiguration requiresCompatibilities runtimePlatform tags
  taskRoleArn trustedExecutionConfiguration volumes
containerDefinitions: command cpu credentialSpecs dependsOn disableNetworking dnsSearchDomains dnsServers dockerLabels
  dockerSecurityOptions entryPoint environment environmentFiles essential extraHosts firelensConfiguration healthCheck
  hostname image interactive links linuxParameters logConfiguration memory memoryReservation mountPoints name
  portMappings privileged pseudoTerminal readonlyRootFilesystem repositoryCredentials resourceRequirements
  restartPolicy secrets startTimeout stopTimeout systemControls ulimits user versionConsistency volumesFrom
  workingDirectory
containerDefinitions.repositoryCredentials: credentialsParameter
containerDefinitions.portMappings: appProtocol containerPort containerPortRange hostPort name protocol
containerDefinitions.restartPolicy: enabled ignoredExitCodes restartAttemptPeriod
containerDefinitions.environment: name value
containerDefinitions.environmentFiles: type value
containerDefinitions.mountPoints: containerPath readOnly sourceVolume
containerDefinitions.volumesFrom: readOnly sourceContainer
containerDefinitions.linuxParameters: capabilities devices initProcessEnabled maxSwap sharedMemorySize swappiness tmpfs
containerDefinitions.linuxParameters.capabilities: add drop
containerDefinitions.linuxParameters.devices: containerPath hostPath permissions
containerDefinitions.linuxParameters.tmpfs: containerPath mountOptions size
containerDefinitions.secrets: name valueFrom
containerDefinitions.dependsOn: condition containerName
containerDefinitions.extraHosts: hostname ipAddress
containerDefinitions.ulimits: hardLimit name softLimit
containerDefinitions.logConfiguration: logDriver options secretOptions
containerDefinitions.logConfiguration.secretOptions: name valueFrom
containerDefinitions.healthCheck: command interval retries startPeriod timeout
containerDefinitions.systemControls: namespace value
containerDefinitions.resourceRequirements: sharingStrategy type value
containerDefinitions.resourceRequirements.sharingStrategy: nvidiaMps
containerDefinitions.resourceRequirements.sharingStrategy.nvidiaMps: maxComputePercent memory
containerDefinitions.firelensConfiguration: options type
volumes: configuredAtLaunch dockerVolumeConfiguration efsVolumeConfiguration fsxWindowsFileServerVolumeConfiguration
  host name s3filesVolumeConfiguration
volumes.host: sourcePath
volumes.dockerVolumeConfiguration: autoprovision driver driverOpts labels scope
volumes.efsVolumeConfiguration: authorizationConfig fileSystemId rootDirectory transitEncryption transitEncryptionPort
volumes.efsVolumeConfiguration.authorizationConfig: accessPointId iam
volumes.s3filesVolumeConfiguration: accessPointArn fileSystemArn rootDirectory transitEncryptionPort
volumes.fsxWindowsFileServerVolumeConfiguration: authorizationConfig fileSystemId rootDirectory
volumes.fsxWindowsFileServerVolumeConfiguration.authorizationConfig: credentialsParameter domain
placementConstraints: expression type
tags: key value
proxyConfiguration: containerName properties type
proxyConfiguration.properties: name value
inferenceAccelerators: deviceName deviceType
ephemeralStorage: sizeInGiB
runtimePlatform: cpuArchitecture operatingSystemFamily
trustedExecutionConfiguration: attestationPolicy isolationMode
"""


def _table() -> Mapping[str, frozenset[str]]:
    found: dict[str, frozenset[str]] = {}
    for line in _TEXT.strip().replace("\n  ", " ").splitlines():
        path, _, fields = line.partition(":")
        found[path] = frozenset(fields.split())
    return found


FIELDS: Final = _table()  # path -> fields, for every structure below RegisterTaskDefinition


def unknown(template: object) -> Iterator[str]:
    """A sentence for each field that ECS does not know, with the nearest that it does."""
    return _unknown(template, "", "")


def _unknown(node: Any, path: str, shown: str) -> Iterator[str]:
    if isinstance(node, list | tuple):
        for index, item in enumerate(node):
            yield from _unknown(item, path, f"{shown}[{index}]")
        return
    if path not in FIELDS:
        return
    if not isinstance(node, dict):
        yield f"{shown or 'the template'}: expected a map"
        return
    for name, item in node.items():
        inside = f"{shown}.{name}" if shown else str(name)
        if name not in FIELDS[path]:
            near = get_close_matches(str(name), sorted(FIELDS[path]), n=1)
            yield f"{inside[:120]} is not a field of a task definition" + (f"; did you mean {near[0]}?" if near else "")
        elif item is not None:
            yield from _unknown(item, f"{path}.{name}" if path else str(name), inside)
